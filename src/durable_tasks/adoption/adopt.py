"""Moving the rows: in batches, each one transaction, so that it can be interrupted and repeated."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import batched
from typing import ClassVar
from uuid import UUID

from django.apps.registry import Apps
from django.db import (
    DatabaseError,
    connections,
    models,
    reset_queries,
    router,
    transaction,
)

from .. import clock
from ..backend import DatabaseBackend
from ..compat import InvalidTaskBackend, task_backends
from ..models import Job
from ..statuses import ENDED
from ..store import store_for
from ..store.inserting import INSERT_BATCH
from ..store.messages import batches
from .rows import BadRow, OldRow, Outcome, Running, job_of
from .tables import WORKER_TIMEOUT, CannotAdopt, OldTable, find_tables, wait_until_gone

# How often a batch that met a conflict with others is tried, and the longest pause between, in s.
TRIES, LONGEST_PAUSE = 30, 0.5


class Adopted(models.Model):  # noqa: DJ008
    """The id of a row that was taken before it had ended: once is enough, even if its job is gone.

    In no registry of models, so no project has a migration for it: ``prepare()`` makes the table.
    """

    id = models.UUIDField(primary_key=True)
    objects: ClassVar[models.Manager["Adopted"]] = models.Manager()

    class Meta:
        app_label = "durable_tasks"
        db_table = "durable_tasks_adopted"
        apps = Apps()
        managed = False


@dataclass
class Report:
    """What became of rows. ``bad``: those that can't be moved: table, id and why."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        self.outcomes += other.outcomes
        self.bad += other.bad


class Adoption:
    """Moves the rows of the other packages' tables.

    ``database``: the alias of where they are; None: where our jobs are. ``running``: what becomes
    of tasks that were running, see ``Running``. ``finished``: whether those that have ended are
    moved, too. ``backends``: new names for aliases of TASKS in the rows. ``batch_size``: rows of
    one transaction. ``dry_run``: change nothing.
    """

    def __init__(
        self,
        *,
        database: str | None = None,
        running: Running = None,
        finished: bool = True,
        backends: Mapping[str, str] | None = None,
        batch_size: int = 1000,
        dry_run: bool = False,
    ) -> None:
        self.alias = router.db_for_write(Job)
        self.database = database or self.alias
        self.running = running
        self.finished = finished
        self.backends = backends or {}
        self.batch_size = batch_size
        self.dry_run = dry_run
        self.store = store_for(connections[self.alias])
        self._remembers = False

    def prepare(self, say: Callable[[str], None]) -> list[OldTable]:
        """Return the tables to move, having made sure that they can be.

        Waits for workers to be gone, which ``say`` is told. Raises ``CannotAdopt``.
        """
        there = connections[self.alias].introspection.table_names()
        if Job._meta.db_table not in there:
            raise CannotAdopt(
                f"The database {self.alias!r} has no table {Job._meta.db_table}. Run manage.py "
                f"migrate --database {self.alias}."
            )
        tables = find_tables(self.database)
        self._check_backends(tables)
        self._remembers = Adopted._meta.db_table in there
        if tables and not self.dry_run:
            backends = [self._backend(alias) for alias in task_backends.settings]
            ours = [each for each in backends if isinstance(each, DatabaseBackend)]
            timeouts = [WORKER_TIMEOUT, *(each.durable_options.worker_timeout for each in ours)]
            for table in tables:
                wait_until_gone(table, gone_after=max(timeouts) / 2, say=say)
            self._make_memory()
        return tables

    def count(self, table: OldTable) -> int:
        """Return how many rows of a table this looks at."""
        counts = table.counts()
        return sum(n for (status, _), n in counts.items() if self.finished or status not in ENDED)

    def move(self, table: OldTable) -> Iterator[Report]:
        """Move the rows of a table; yields what became of each batch. What waits comes first."""
        for finished in (False, True) if self.finished else (False,):
            ids = table.ids(finished=finished, after=None, limit=self.batch_size)
            while ids:
                new = self._new(ids)
                report = Report(Counter({Outcome.THERE: len(ids) - len(new)}))
                if new:
                    report.add(self._move_batch(table, new))
                yield report
                reset_queries()  # with DEBUG, Django keeps them
                ids = table.ids(finished=finished, after=ids[-1], limit=self.batch_size)

    # Backends

    def _check_backends(self, tables: Sequence[OldTable]) -> None:
        """Raise ``CannotAdopt`` for rows of a backend that would not run them."""
        rows: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for table in tables:
            for (status, name), count in table.counts().items():
                if self.finished or status not in ENDED:
                    rows[name] += count
                waiting[name] += count * (status not in ENDED)
        wrong = []
        for name, count in sorted(rows.items()):
            alias = self.backends.get(name, name)
            backend = self._backend(alias)
            if not isinstance(backend, DatabaseBackend):
                what = f"is a {type(backend).__name__}" if backend else "does not exist"
                wrong.append(
                    f"{count:,} rows are of the backend {name!r}, and TASKS[{alias!r}] {what}. "
                    f"Name a durable_tasks backend that is to have them: --backend {name}=ALIAS"
                )
            elif waiting[name] and backend.durable_options.immediate:
                wrong.append(
                    f"{waiting[name]:,} rows of the backend {name!r} have not ended, and nobody "
                    f'would run them: {backend.durable_options.where}["immediate"] is on. Turn it '
                    f"off, or name another backend: --backend {name}=ALIAS"
                )
        if wrong:
            raise CannotAdopt("\n".join([*wrong, "Nothing was moved."]))

    def _backend(self, alias: str) -> object | None:
        try:
            return task_backends[alias]
        except InvalidTaskBackend:
            return None

    # Batches

    def _move_batch(self, table: OldTable, ids: Sequence[object], tried: int = 1) -> Report:
        """Move these rows in a transaction; one by one if the database refuses their data."""
        try:
            return self._in_transaction(table, ids)
        except (DatabaseError, ValueError, OverflowError) as error:
            if self.store.is_busy(error) and tried < TRIES:
                time.sleep(random.uniform(0.5, 1) * min(0.02 * tried, LONGEST_PAUSE))
                return self._move_batch(table, ids, tried + 1)
            if isinstance(error, DatabaseError) and not self.store.is_data_error(error):
                raise
            if len(ids) == 1:
                return Report(bad=[_named(table, ids[0], error)])
        report = Report()
        for id in ids:
            report.add(self._move_batch(table, [id]))
        return report

    def _in_transaction(self, table: OldTable, ids: Sequence[object]) -> Report:
        if self.dry_run:
            return self._take(table, table.rows(ids, lock=False))
        with transaction.atomic(using=self.alias):
            # To write before it reads: otherwise SQLite refuses the writes if others wrote between.
            self.store.changed(f"DELETE FROM {Adopted._meta.db_table} WHERE 1 = 0")
            return self._take(table, table.rows(ids, lock=table.alias == self.alias))

    def _take(self, table: OldTable, rows: Sequence[OldRow]) -> Report:
        """Insert the jobs that rows become, which are locked where that is possible."""
        report = Report()
        new = set(self._new([row["id"] for row in rows]))
        now = clock.now()
        jobs = []
        for row in rows:
            if row["id"] not in new:
                report.outcomes[Outcome.THERE] += 1
                continue
            alias = self.backends.get(row["backend_name"], row["backend_name"])
            backend = self._backend(alias)
            try:
                if not isinstance(backend, DatabaseBackend):  # enqueued since they were checked
                    raise BadRow(f"its backend is {alias!r}")
                read = table.read(row)
                outcome, job = job_of(read, backend=backend, running=self.running, now=now)
            except Exception as error:  # others have stored it: anything may come
                report.bad.append(_named(table, row["id"], error))
                continue
            report.outcomes[outcome] += 1
            if job is not None:
                jobs.append((row, job))
        if not self.dry_run:
            self._insert(jobs)
        return report

    def _insert(self, jobs: Sequence[tuple[OldRow, Job]]) -> None:
        taken = [Adopted(job.id) for row, job in jobs if row["status"] not in ENDED]
        Adopted.objects.using(self.alias).bulk_create(taken)
        for batch in batches(jobs, lambda pair: _size(pair[0]), most=INSERT_BATCH):
            Job.objects.using(self.alias).bulk_create(job for _, job in batch)

    # What was taken before

    def _new(self, ids: Sequence[object]) -> list[object]:
        """Return those of these ids, as they are stored, that neither are jobs nor have been."""
        made: dict[object, UUID] = {}
        for id in ids:
            with suppress(ValueError):  # of a row that can't be moved
                made[id] = UUID(str(id))
        known: set[UUID | None] = set()
        for model in (Job, Adopted) if self._remembers else (Job,):
            for some in batched(made.values(), 500):
                there = model._default_manager.using(self.alias).filter(pk__in=some)
                known.update(there.values_list("pk", flat=True))
        return [id for id in ids if made.get(id) not in known]

    def _make_memory(self) -> None:
        if self._remembers:
            return
        connection = connections[self.alias]
        try:
            with connection.schema_editor() as editor:
                editor.create_model(Adopted)
        except DatabaseError:
            # Another run may have been faster.
            if Adopted._meta.db_table not in connection.introspection.table_names():
                raise
        self._remembers = True


def _size(row: OldRow) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def _named(table: OldTable, id: object, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{table.name} {id}: {lines[0] if lines else type(error).__name__}"
