"""Periodic tasks are enqueued when they are due: each time once, whichever worker does it.

The rows say when each is due next. Enqueuing its job and moving that time on is one transaction,
and only the worker that still finds the time it has read may do it; so there is no leader, and a
worker that dies leaves the time to the others.
"""

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.db import InterfaceError, OperationalError, router, transaction
from django.db.models import QuerySet

from ..models import Job, PeriodicTask
from ..periodic import Periodic
from ..statuses import ENDED
from ..timetable import Entry, due_times, entry_of, next_time

logger = logging.getLogger("durable_tasks")

# How long a periodic task is left alone whose job could not be enqueued.
TROUBLE_PAUSE = timedelta(minutes=1)
# How long a run of another deploy's periodic task is left to its workers.
ABANDONED_AFTER = timedelta(minutes=1)


# A run that is due: its time, and what its task is called with.
type Call = tuple[datetime, list[Any], dict[str, Any]]


class _Trouble(Exception):
    """Of one periodic task, and not of the engine's."""


@dataclass
class Timetable:
    """The periodic tasks of one backend, and what this process does about them.

    ``backend_name``: its alias. ``periodic``: its ``OPTIONS["periodic"]``.
    """

    backend_name: str
    periodic: Mapping[str, Periodic]
    # Until when those are left alone that meet trouble.
    _paused: dict[str, datetime] = field(default_factory=dict)
    # Since when those have no row that had one.
    _missing: dict[str, datetime] = field(default_factory=dict)

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
            self.rows().filter(pk__in=gone).delete()

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
        # In any order, so that workers that wake together do not meet at each row.
        for name in random.sample(list(self.entries), len(self.entries)):
            entry, row = self.entries[name], rows.get(name)
            if self._paused.get(name, now) > now or self._is_others(entry, row, now):
                report.look_at(self._paused.get(name))
                continue
            with self._apart(name, now):
                if row is None or row.definition != entry.columns["definition"]:
                    self._write(entry, row, now)
                    report.look_at(now)
                elif row.next_run_at is not None and row.next_run_at <= now:
                    report.look_at(self._fire(entry, row, now, report))
                else:
                    report.look_at(row.next_run_at)
            report.look_at(self._paused.get(name))
        return report

    def _is_others(self, entry: Entry, row: PeriodicTask | None, now: datetime) -> bool:
        """Return whether it is left to another deploy, whose workers have changed or removed it.

        Not if they have let a run pass, or if it has been gone, for a while: they may be, too.
        """
        if row is None:
            since: datetime | None = self._missing.setdefault(entry.name, now)
        else:
            self._missing.pop(entry.name, None)
            if row.definition == entry.columns["definition"]:
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
            if not self._overlaps(entry, row):
                for tick, args, kwargs in calls:
                    self._enqueue(entry, row, tick, args, kwargs)
                report.jobs += len(calls)
        return next_run_at

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
        self,
        entry: Entry,
        row: PeriodicTask,
        tick: datetime,
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> None:
        task = replace(entry.task, run_after=tick)
        backend: Any = task.get_backend()
        result = backend.enqueue(task, args, kwargs, schedule=entry.name)
        self.rows().filter(pk=row.pk).update(last_run_at=tick, last_job_id=result.id)


@dataclass(slots=True)
class Fired:
    """How many jobs were enqueued, and when the next one is due."""

    jobs: int = 0
    next_due: datetime | None = None

    def look_at(self, due: datetime | None) -> None:
        if due is not None and (self.next_due is None or due < self.next_due):
            self.next_due = due
