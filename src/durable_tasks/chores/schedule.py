"""Periodic tasks are enqueued when they are due: each time once, whichever worker does it.

The rows say when each is due next. Enqueuing its job and moving that time on is one transaction,
and only the worker that still finds the time it has read may do it; so there is no leader, and a
worker that dies leaves the time to the others.
"""

import logging
import random
from collections.abc import Mapping
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


@dataclass
class Timetable:
    """The periodic tasks of one backend, and what this process does about them.

    ``backend_name``: its alias. ``periodic``: its ``OPTIONS["periodic"]``.
    """

    backend_name: str
    periodic: Mapping[str, Periodic]
    _paused: dict[str, datetime] = field(default_factory=dict)

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
        """The rows of this backend."""
        return PeriodicTask.objects.using(router.db_for_write(PeriodicTask)).filter(
            backend_name=self.backend_name
        )

    def sync(self, now: datetime) -> None:
        """Make the rows say what the settings say; ``now``: database time.

        What was switched off stays so, and a time that is not changed keeps its next run.
        """
        there = {row.name: row for row in self.rows()}
        for name, entry in self.entries.items():
            row = there.get(name)
            if row is None:
                new = PeriodicTask(
                    backend_name=self.backend_name,
                    name=name,
                    next_run_at=next_time(entry.when, now),
                    **entry.columns,
                )
                # Another worker may be adding it as well.
                self.rows().bulk_create([new], ignore_conflicts=True)
            elif row.definition != entry.columns["definition"]:
                self._redefine(entry, row, now)
        gone = [row.pk for name, row in there.items() if name not in self.periodic]
        if gone:
            self.rows().filter(pk__in=gone).delete()

    def _redefine(self, entry: Entry, row: PeriodicTask, now: datetime) -> None:
        changes = dict(entry.columns)
        if (row.spec, row.time_zone) != (changes["spec"], changes["time_zone"]):
            changes["next_run_at"] = next_time(entry.when, now)
        self.rows().filter(pk=row.pk, definition=row.definition).update(**changes)

    def tick(self, now: datetime) -> "Fired":
        """Enqueue what is due at ``now`` (database time).

        Rows that are not as this process's settings have them are those of another deploy, whose
        workers see to them; unless they have not for a while.
        """
        report = Fired()
        rows = list(self.rows().exclude(next_run_at=None))
        random.shuffle(rows)  # so that workers that wake together do not meet at each row
        for row in rows:
            assert row.next_run_at is not None
            entry = self.entries.get(row.name)
            if entry is None:
                continue
            if entry.columns["definition"] != row.definition:
                if row.next_run_at < now - ABANDONED_AFTER:
                    self._redefine(entry, row, now)
                continue
            due = max(row.next_run_at, self._paused.get(row.name, row.next_run_at))
            report.look_at(self._fire(entry, row, now, report) if due <= now else due)
        return report

    def _fire(
        self, entry: Entry, row: PeriodicTask, now: datetime, report: "Fired"
    ) -> datetime | None:
        """Enqueue the runs that are due of one periodic task; return when it is due next."""
        assert row.next_run_at is not None
        try:
            ticks = due_times(entry.when, row.next_run_at, now, entry.periodic.catch_up)
            next_run_at = next_time(entry.when, now)
            # Before the transaction, which should be short, and on SQLite keeps others from
            # writing.
            calls = [
                (tick, entry.periodic.make_args(), entry.periodic.make_kwargs())
                for tick in (ticks if row.enabled else [])
            ]
            with transaction.atomic(using=self.rows().db):
                moved = self.rows().filter(
                    pk=row.pk,
                    next_run_at=row.next_run_at,
                    definition=row.definition,
                    enabled=row.enabled,
                )
                # First of all: it locks the row, and on SQLite the database.
                if moved.update(next_run_at=next_run_at) and not self._overlaps(entry, row):
                    for tick, args, kwargs in calls:
                        self._enqueue(entry, row, tick, args, kwargs)
                    report.jobs += len(calls)
        except (OperationalError, InterfaceError):
            raise  # it is about the database: the next look tries again
        except Exception:
            logger.exception(
                "The periodic task %r can't be enqueued; trying again in %.0f s.",
                entry.name,
                TROUBLE_PAUSE.total_seconds(),
            )
            next_run_at = self._paused[entry.name] = now + TROUBLE_PAUSE
        else:
            self._paused.pop(entry.name, None)
        return next_run_at

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
