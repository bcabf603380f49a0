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
from django.core.exceptions import ImproperlyConfigured
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
from .tables import WORKER_TIMEOUT, CannotAdopt, OldTable, find_tables, has_tables, wait_until_gone

# How often a batch that met a conflict with others is tried, and the longest pause between, in s.
TRIES, LONGEST_PAUSE = 30, 0.5


class Adopted(models.Model):  # noqa: DJ008
    """A row that was taken, and its status then: once is enough, even if its job is gone.

    In no registry of models, so no project has a migration for it: ``prepare()`` makes the table.
    """

    id = models.UUIDField(primary_key=True)
    status = models.CharField(max_length=10)
    objects: ClassVar[models.Manager["Adopted"]] = models.Manager()

    class Meta:
        app_label = "durable_tasks"
        db_table = "durable_tasks_adopted"
        apps = Apps()
        managed = False


@dataclass
class Report:
    """What became of rows. ``bad``: those that can't be moved: table, id and why. ``ran``: those
    that an old worker has run since they were taken: table, id and status."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        self.outcomes += other.outcomes
        self.bad += other.bad
        self.ran += other.ran


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
        self._waited = False

    def prepare(self, say: Callable[[str], None]) -> list[OldTable]:
        """Return the tables to move, having made sure that they can be.

        Waits for workers to be gone, which ``say`` is told. Raises ``CannotAdopt``.
        """
        self._say = say
        for alias in {self.alias, self.database}:
            if not connections[alias].in_atomic_block:
                connections[alias].set_autocommit(True)  # its settings may have it otherwise
        there = connections[self.alias].introspection.table_names()
        if Job._meta.db_table not in there:
            raise CannotAdopt(
                f"The database {self.alias!r} has no table {Job._meta.db_table}. Run manage.py "
                f"migrate --database {self.alias}."
            )
        tables = find_tables(self.database)
        if not tables:
            self._look_elsewhere()
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

    def move(self, table: OldTable) -> Iterator[Report]:
        """Move the rows of a table; yields what became of each batch. What waits comes first."""
        for finished in (False, True) if self.finished else (False,):
            ids = table.ids(finished=finished, after=None, limit=self.batch_size)
            while ids:
                report = Report()
                new = self._new(table, ids, report)
                if new:
                    report.add(self._move_batch(table, new))
                yield report
                reset_queries()  # with DEBUG, Django keeps them
                ids = table.ids(finished=finished, after=[*ids][-1], limit=self.batch_size)

    def _look_elsewhere(self) -> None:
        """Raise ``CannotAdopt`` if another database has the tables."""
        for alias in connections.settings:
            with suppress(DatabaseError, ImproperlyConfigured):
                if alias != self.database and has_tables(alias):
                    raise CannotAdopt(
                        f"The database {self.database!r} has no table of django-tasks-db or "
                        f"django-dbtasks, but {alias!r} has: --database {alias}"
                    )

    # Backends

    def _check_backends(self, tables: Sequence[OldTable]) -> None:
        """Raise ``CannotAdopt`` for rows of a backend that would not run them."""
        rows: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for table in tables:
            for (status, name), count in table.counts.items():
                if self.finished or status not in ENDED:
                    rows[name] += count
                waiting[name] += count * (status not in ENDED)
        # Where nothing was ever enqueued, the same command line does no harm.
        wrong = [
            f"--backend {name}={alias}: no row is of the backend {name!r}."
            for name, alias in self.backends.items()
            if waiting and name not in waiting
        ]
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
                if not self._waited:
                    self._say(f"{table.name}: others have locked rows: waiting for them ...")
                self._waited = True
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
        new = self._new(table, {row["id"]: row["status"] for row in rows}, report)
        now = clock.now()
        jobs = []
        for row in rows:
            if row["id"] not in new:
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
        taken = [Adopted(job.id, row["status"]) for row, job in jobs]
        Adopted.objects.using(self.alias).bulk_create(taken)
        for batch in batches(jobs, lambda pair: _size(pair[0]), most=INSERT_BATCH):
            Job.objects.using(self.alias).bulk_create(job for _, job in batch)

    # What was taken before

    def _new(self, table: OldTable, statuses: Mapping[object, str], report: Report) -> list[object]:
        """Return those of these rows that neither are jobs nor have been; report the others.

        ``statuses``: by the ids, as they are stored.
        """
        made: dict[object, UUID] = {}
        for id in statuses:
            with suppress(ValueError):  # of a row that can't be moved
                made[id] = UUID(str(id))
        before: dict[UUID | None, str | None] = {}
        for some in batched(made.values(), 500):
            jobs = Job.objects.using(self.alias).filter(pk__in=some)
            before.update(dict.fromkeys(jobs.values_list("pk", flat=True)))
            if self._remembers:
                taken = Adopted.objects.using(self.alias).filter(pk__in=some)
                before.update(taken.values_list("pk", "status"))
        new = []
        for id, status in statuses.items():
            if made.get(id) not in before:
                new.append(id)
            elif before[made[id]] in (None, status):
                report.outcomes[Outcome.THERE] += 1
            else:
                report.outcomes[Outcome.RAN] += 1
                report.ran.append(f"{table.name} {id}: run by an old worker, {status} there")
        return new

    def _make_memory(self) -> None:
        if self._remembers:
            return
        connection = connections[self.alias]
        try:
            with connection.schema_editor() as editor:
                editor.create_model(Adopted)
        except DatabaseError as error:
            # Another run may have been faster.
            if Adopted._meta.db_table not in connection.introspection.table_names():
                raise CannotAdopt(
                    f"The table {Adopted._meta.db_table} can't be made: {str(error).strip()}\n"
                    "Run adopt_tasks as the role that runs migrate, and not in a transaction. "
                    "Nothing was moved."
                ) from error
        self._remembers = True


def _size(row: OldRow) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def _named(table: OldTable, id: object, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{table.name} {id}: {lines[0] if lines else type(error).__name__}"
