"""Periodic tasks are enqueued when they are due: each time once, whichever worker does it.

The rows say when each is due next. Enqueuing its job and moving that time on is one transaction,
and only the worker that still finds the time it has read may do it; so there is no leader, and a
worker that dies leaves the time to the others.
"""

import logging
import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.db import InterfaceError, OperationalError, router, transaction
from django.db.models import QuerySet

from ..models import Job, PeriodicTask
from ..options import Options
from ..periodic import Periodic
from ..statuses import ENDED
from ..timetable import ROW_COLUMNS, Entry, due_times, entry_of, entry_of_row, next_time

logger = logging.getLogger("durable_tasks")

# How long a periodic task is left alone whose job could not be enqueued.
TROUBLE_PAUSE = timedelta(minutes=1)
# How long a run of another deploy's periodic task is left to its workers.
ABANDONED_AFTER = timedelta(minutes=1)
# Ids of jobs that a row keeps.
LAST_JOBS = 20


# A run that is due: its time, and what its task is called with.
type Call = tuple[datetime, list[Any], dict[str, Any]]


class _Trouble(Exception):
    """Of one periodic task, and not of the engine's."""


@dataclass
class Timetable:
    """The periodic tasks of one backend, and what this process does about them.

    ``backend_name``: its alias. ``periodic``: its ``OPTIONS["periodic"]``. ``schedulable``: the
    paths of the tasks that those made in the database may run.
    """

    backend_name: str
    periodic: Mapping[str, Periodic]
    schedulable: Collection[str] = ()
    # Until when those are left alone that meet trouble.
    _paused: dict[str, datetime] = field(default_factory=dict)
    # Since when those have no row that had one.
    _missing: dict[str, datetime] = field(default_factory=dict)
    # What the rows of those made in the database said, and what that makes; None if it can't be.
    _made: dict[str, tuple[str, Entry | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, backend_name: str, options: Options) -> "Timetable":
        """Return the periodic tasks of a backend with these options."""
        return cls(backend_name, options.periodic, options.schedulable)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Those whose task is there; about the others there is a line in the log."""
        entries = {}
        for name, periodic in self.periodic.items():
            try:
                entries[name] = entry_of(self.backend_name, name, periodic)
            except Exception:
                logger.exception(
                    "The periodic task %r does not run: it can't be made from "
                    'TASKS["%s"]["OPTIONS"]["periodic"].',
                    name,
                    self.backend_name,
                )
        return entries

    # The rows

    def rows(self) -> "QuerySet[PeriodicTask]":
        """The rows of this backend, beside its jobs."""
        return PeriodicTask.objects.using(router.db_for_write(Job)).filter(
            backend_name=self.backend_name
        )

    def sync(self, now: datetime) -> None:
        """Make the rows say what the settings say; ``now``: database time.

        What was switched off stays so, and a time that is not changed keeps its next run.
        """
        there = {row.name: row for row in self.rows()}
        for name, entry in self.entries.items():
            with self._apart(name, now):
                self._write(entry, there.get(name), now)
        gone = [row.pk for name, row in there.items() if name not in self.periodic]
        if gone:
            self.rows().filter(pk__in=gone, source=PeriodicTask.SETTINGS).delete()

    def _write(self, entry: Entry, row: PeriodicTask | None, now: datetime) -> None:
        """Make a row say what the settings say; ``row``: as it is, or None."""
        changes = dict(entry.columns)
        if row is None:
            new = PeriodicTask(
                backend_name=self.backend_name,
                name=entry.name,
                next_run_at=next_time(entry.when, now),
                **changes,
            )
            # Another worker may be adding it as well.
            self.rows().bulk_create([new], ignore_conflicts=True)
            return
        if row.definition == changes["definition"]:
            return
        is_due = row.next_run_at is not None and row.next_run_at <= now  # and has its run yet
        if (row.spec, row.time_zone) != (changes["spec"], changes["time_zone"]) and not is_due:
            changes["next_run_at"] = next_time(entry.when, now)
        changes["source"] = PeriodicTask.SETTINGS  # of two with one name, the settings' wins
        self.rows().filter(pk=row.pk, definition=row.definition).update(**changes)

    @contextmanager
    def _apart(self, name: str, now: datetime) -> Iterator[None]:
        """Let trouble with one periodic task be no other's: it is logged, and has a pause."""
        try:
            yield
        except (OperationalError, InterfaceError):
            raise  # it is about the database, and so about all
        except (Exception, SystemExit):  # the project's code may even exit
            logger.exception(
                "The periodic task %r can't be enqueued; trying again in %.0f s.",
                name,
                TROUBLE_PAUSE.total_seconds(),
            )
            self._paused[name] = now + TROUBLE_PAUSE
        else:
            self._paused.pop(name, None)

    def tick(self, now: datetime) -> "Fired":
        """Enqueue what is due at ``now`` (database time)."""
        report = Fired()
        rows = {row.name: row for row in self.rows()}
        entries = self._made_of(rows) | self.entries
        # In any order, so that workers that wake together do not meet at each row.
        for name in random.sample(list(entries), len(entries)):
            entry, row = entries[name], rows.get(name)
            if self._paused.get(name, now) > now or self._is_others(entry, row, now):
                report.look_at(self._paused.get(name))
                continue
            with self._apart(name, now):
                if row is None or self._differs(entry, row):
                    self._write(entry, row, now)
                    report.look_at(now)
                elif row.next_run_at is not None and row.next_run_at <= now:
                    report.look_at(self._fire(entry, row, now, report))
                else:
                    report.look_at(row.next_run_at)
            report.look_at(self._paused.get(name))
        return report

    def _made_of(self, rows: Mapping[str, PeriodicTask]) -> dict[str, Entry]:
        """Return those that are made in the database and can run; the log tells once of others."""
        made = {}
        for name, row in rows.items():
            if row.source != PeriodicTask.DATABASE or name in self.periodic:
                continue
            known = self._made.get(name)
            says = str([getattr(row, column) for column in ROW_COLUMNS])
            if known is None or known[0] != says:
                known = self._made[name] = says, self._made_from(row)
                self._paused.pop(name, None)
            if known[1] is not None:
                made[name] = known[1]
        for name in self._made.keys() - rows.keys():
            del self._made[name]
        return made

    def _made_from(self, row: PeriodicTask) -> Entry | None:
        try:
            return self.entry_for(row)
        except Exception as error:
            logger.error("The periodic task %r does not run: %s", row.name, error)
            return None

    def entry_for(self, row: PeriodicTask) -> Entry:
        """Return what a row stands for.

        Raises ``LookupError`` if the settings don't know of it, and what ``entry_of`` raises.
        """
        if row.name in self.periodic:
            return entry_of(self.backend_name, row.name, self.periodic[row.name])
        where = f'TASKS["{self.backend_name}"]["OPTIONS"]'
        if row.source != PeriodicTask.DATABASE:
            raise LookupError(f'It is not in {where}["periodic"] any more.')
        # Nothing is imported because a row says so.
        if row.task_path not in self.schedulable:
            raise LookupError(f'Its task {row.task_path} is not in {where}["schedulable"].')
        return entry_of_row(row)

    def _differs(self, entry: Entry, row: PeriodicTask) -> bool:
        """Return whether the settings say something else than the row."""
        return entry.name in self.entries and row.definition != entry.columns["definition"]

    def _is_others(self, entry: Entry, row: PeriodicTask | None, now: datetime) -> bool:
        """Return whether it is left to another deploy, whose workers have changed or removed it.

        Not if they have let a run pass, or if it has been gone, for a while: they may be, too.
        """
        if row is None:
            since: datetime | None = self._missing.setdefault(entry.name, now)
        else:
            self._missing.pop(entry.name, None)
            if not self._differs(entry, row):
                return False
            since = row.next_run_at
        return since is None or since >= now - ABANDONED_AFTER

    def _fire(
        self, entry: Entry, row: PeriodicTask, now: datetime, report: "Fired"
    ) -> datetime | None:
        """Enqueue the runs that are due of one periodic task; return when it is due next."""
        # Before the transaction, which should be short, and on SQLite keeps others from writing.
        next_run_at, calls = self._calls(entry, row, now)
        with transaction.atomic(using=self.rows().db):
            due = self.rows().filter(
                pk=row.pk,
                next_run_at=row.next_run_at,
                definition=row.definition,
                enabled=row.enabled,
            )
            # First of all: it locks the row, and on SQLite the database.
            if not due.update(next_run_at=next_run_at):
                return now  # another worker was faster, or it was switched off or on
            if calls and not self._overlaps(entry, row):
                ids = [self._enqueue(entry, *call) for call in calls]
                self._note(row, calls[-1][0], ids)
                report.jobs += len(calls)
        return next_run_at

    def run_now(self, row: PeriodicTask, now: datetime) -> str | None:
        """Enqueue a run of a periodic task as its schedule would; return the job's id.

        When it is due next stays. Returns None if it must not overlap and the run before has not
        ended. Raises what ``entry_for`` and the project's own code raise.
        """
        entry = self.entry_for(row)
        args, kwargs = entry.periodic.make_args(), entry.periodic.make_kwargs()
        with transaction.atomic(using=self.rows().db):
            row = self.rows().select_for_update().get(pk=row.pk)
            if self._overlaps(entry, row):
                return None
            id = self._enqueue(entry, None, args, kwargs)
            self._note(row, now, [id])
        return id

    def _calls(
        self, entry: Entry, row: PeriodicTask, now: datetime
    ) -> tuple[datetime | None, list[Call]]:
        """Return when it is due next, and each run that is due: its time and its arguments.

        Runs the project's code. Raises ``_Trouble`` for what could be taken for trouble of ours.
        """
        assert row.next_run_at is not None
        periodic = entry.periodic
        try:
            ticks = due_times(entry.when, row.next_run_at, now, periodic.catch_up)
            if not row.enabled:
                ticks = []
            elif periodic.overlap == "skip":
                ticks = ticks[-1:]
            calls = [(tick, periodic.make_args(), periodic.make_kwargs()) for tick in ticks]
            return next_time(entry.when, now), calls
        except (OperationalError, InterfaceError) as error:
            raise _Trouble("The project's code can't use a database.") from error

    def _overlaps(self, entry: Entry, row: PeriodicTask) -> bool:
        """Return whether the run before is still on its way and this one is to be left out."""
        if entry.periodic.overlap == "allow" or row.last_job_id is None:
            return False
        jobs = Job.objects.using(self.rows().db).filter(pk=row.last_job_id)
        return jobs.exclude(status__in=ENDED).exists()

    def _enqueue(
        self, entry: Entry, tick: datetime | None, args: list[Any], kwargs: dict[str, Any]
    ) -> str:
        task = replace(entry.task, run_after=tick)
        backend: Any = task.get_backend()
        return str(backend.enqueue(task, args, kwargs, schedule=entry.name).id)

    def _note(self, row: PeriodicTask, tick: datetime, ids: list[str]) -> None:
        """Write to a row that is locked which jobs it has made."""
        rows = self.rows().filter(pk=row.pk)
        before = rows.values_list("last_job_ids", flat=True).get() or []
        rows.update(
            last_run_at=tick, last_job_id=ids[-1], last_job_ids=[*before, *ids][-LAST_JOBS:]
        )


@dataclass(slots=True)
class Fired:
    """How many jobs were enqueued, and when the next one is due."""

    jobs: int = 0
    next_due: datetime | None = None

    def look_at(self, due: datetime | None) -> None:
        if due is not None and (self.next_due is None or due < self.next_due):
            self.next_due = due
