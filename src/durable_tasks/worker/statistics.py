"""Counting what ends, so that no page has to: by queue and task, and errors by their place."""

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from django.db import Error as DatabaseFault

from ..announcements import first_line
from ..compat import DEFAULT_TASK_QUEUE_NAME, task_backends
from ..histogram import bucket
from ..results import storable
from ..statuses import JobStatus
from ..store import Finish, Queues, Store
from ..store.statistics import (
    ALL_TIME,
    KEPT,
    Count,
    ErrorKey,
    Errors,
    StatisticKey,
    add_counts,
    depths,
    forget,
    was_looked_at,
)
from .clock import Clock

logger = logging.getLogger("durable_tasks")

# How many runs are measured in a second, and at once after a while of less. When there are more,
# one stands for many; but at least one of each task among those that were saved together.
MEASURED, MEASURED_AT_ONCE = 100.0, 200.0
# What waits for the database at most: counts of tasks in minutes, and groups of errors.
MAX_COUNTS, MAX_ERRORS = 20_000, 1_000
# Seconds until the next try, from and to: if others had the rows, and if the database failed.
SOON, LATER = (0.2, 1.0), (5.0, 15.0)
# Minutes between two times that rows are deleted whose time to stay is over.
FORGETS_EVERY = 10
# How often the last counts of a worker are tried, with ``LAST_PAUSE`` seconds in between.
LAST_TRIES, LAST_PAUSE = 20, 0.05


class Statistics:
    """Counts the runs that end in one worker, and writes the counts down once a minute.

    ``due_at``: when it wants its next ``tick()`` (monotonic).
    """

    def __init__(self, queues: Queues, *, worker_id: str, clock: Clock) -> None:
        self._queues = queues
        self._backend_name = queues.backend_name
        self._worker_id = worker_id
        self._clock = clock
        self._lock = threading.Lock()  # of the next four
        self._room = MEASURED_AT_ONCE  # how many runs may be measured
        self._counted_at = time.monotonic()
        self._minutes: dict[int, dict[tuple[str, str], Count]] = {}
        self._errors: dict[ErrorKey, Errors] = {}
        # What is being written: nothing is added until it is, see ``sent``.
        self._counts: dict[StatisticKey, Count] = {}
        self._groups: dict[ErrorKey, Errors] = {}
        # Not all workers at once. Not at the edge of a minute: none should pass without a look.
        self._second = random.uniform(5, 55)
        self.due_at = time.monotonic() + self._pause()
        self._drops = False

    def count(self, finishes: Sequence[Finish]) -> None:
        """Count runs whose ending was written; may be called from any thread."""
        if not finishes:
            return
        parts = _by_task_and_status(finishes)
        minute = int(self._clock.micros() // 60_000_000) * 60
        now = time.monotonic()
        with self._lock:
            room = max(self._room, 0.0) + (now - self._counted_at) * MEASURED
            self._room = min(room, MEASURED_AT_ONCE)
            self._counted_at = now
            counts = self._minutes.get(minute)
            if counts is None:
                self._make_room()
                counts = self._minutes[minute] = defaultdict(Count)
            for (queue_name, task_path, status), some in parts.items():
                if status == JobStatus.SUCCESSFUL:
                    count = counts[queue_name, task_path]
                    count.successful += len(some)
                    measured = min(len(some), max(1, int(self._room)))
                    self._room -= measured
                    _measure(count, some, measured)
                    continue
                for finish in some:
                    self._count_other(counts, finish, minute)

    def _count_other(
        self, counts: dict[tuple[str, str], Count], finish: Finish, minute: int
    ) -> None:
        """Count what did not end well, or not at all."""
        claim = finish.claim
        assert claim is not None
        lost = "lost" in finish.writes
        again = not finish.is_end
        if claim.backend_name not in (None, self._backend_name) or (
            again and (finish.exception is None or "attempts" in finish.writes)
        ):
            return  # another backend's; or given back, or snoozed
        count = counts[claim.queue_name, claim.task_path]
        cancelled = finish.status == JobStatus.CANCELLED
        count.lost += lost
        count.cancelled += cancelled
        count.failed += finish.status == JobStatus.FAILED
        count.retried += again and not lost
        if not lost and "attempts" not in finish.writes:
            _measure(count, [finish], 1)
        if not cancelled:
            self._count_error(finish, minute)

    def _count_error(self, finish: Finish, minute: int) -> None:
        claim = finish.claim
        assert claim is not None
        key = ErrorKey(
            self._backend_name, finish.exception_class_path or "", finish.error_place or ""
        )
        seen = finish.finished_at or self._clock.now()
        message = storable(first_line(finish.exception))[:255]
        hours = {minute // 3600 * 3600: 1}
        errors = Errors(1, hours, seen, seen, message, claim.task_path, claim.id)
        if key in self._errors:
            self._errors[key].add(errors)
            return
        if len(self._errors) >= MAX_ERRORS:
            self._drop("groups of errors")
            del self._errors[next(iter(self._errors))]
        self._errors[key] = errors

    def _make_room(self) -> None:
        while self._minutes and sum(map(len, self._minutes.values())) > MAX_COUNTS:
            self._drop("minutes")
            del self._minutes[min(self._minutes)]

    def _drop(self, what: str) -> None:
        if not self._drops:
            self._drops = True
            logger.warning(
                "Too much is counted that can't be written: the oldest %s are left out of the "
                "statistics.",
                what,
                extra={"worker_id": self._worker_id},
            )

    # Writing it down: one thread

    def _pause(self) -> float:
        """Return the seconds until this worker's second of a minute."""
        return 60 - (self._clock.micros() / 1e6 - self._second) % 60

    def tick(self, store: Store) -> None:
        """Write down what was counted; and if nobody did in this minute, what there is.

        Tries again later if the database fails.
        """
        self.due_at = time.monotonic() + self._pause()
        if store.connection.connection is None:  # a beat connects again
            self.due_at = time.monotonic() + random.uniform(*SOON)
            return
        try:
            if not self._write(store):
                self.due_at = time.monotonic() + random.uniform(*SOON)
                return
            self._drops = False
            now = self._clock.micros() // 1_000_000
            if not was_looked_at(store, self._backend_name, now // 60 * 60):
                self._look(store, now)
                if now // 60 % FORGETS_EVERY == 0:
                    forget(store, self._clock.now(), now)
        except Exception as error:  # the thread that beats goes on, whatever it is
            self._failed(store, error)
            self.due_at = time.monotonic() + random.uniform(*LATER)

    def finish(self, store: Store) -> None:
        """Write down the last counts of a worker."""
        try:
            if store.connection.connection is not None:
                for _ in range(LAST_TRIES):
                    if self._write(store):
                        return
                    time.sleep(LAST_PAUSE)
        except Exception as error:
            self._failed(store, error)
        if self._counts or self._minutes:
            logger.warning(
                "The last counts of this worker are missing in the statistics.",
                extra={"worker_id": self._worker_id},
            )

    def _write(self, store: Store) -> bool:
        """Add to the rows what was counted; return whether all could be."""
        add_counts(store, self._counts, self._groups)
        if self._counts or self._groups:
            return False
        with self._lock:
            minutes, self._minutes = self._minutes, {}
            self._groups, self._errors = self._errors, {}
        for minute, counts in minutes.items():
            for (queue_name, task_path), count in counts.items():
                self._put(minute, queue_name, task_path, count)
        add_counts(store, self._counts, self._groups)
        return not (self._counts or self._groups)

    def _look(self, store: Store, now: int) -> None:
        found = depths(store, self._backend_name, now)
        # One row at least: idle workers are told from none by it.
        found = found or {self._known_queue(): Count(ready=0, scheduled=0, running=0)}
        for queue_name, count in found.items():
            self._put(now, queue_name, "", count)
        add_counts(store, self._counts, self._groups)

    def _known_queue(self) -> str:
        """Return a queue that this worker serves."""
        names = self._queues.names or task_backends[self._backend_name].queues
        return min(filter(self._queues.serve, names), default=DEFAULT_TASK_QUEUE_NAME)

    def _put(self, at: int, queue_name: str, task_path: str, count: Count) -> None:
        """Have a count added to the row of each length of period, and of all time."""
        # What was there at once has no sum.
        for period in (*KEPT, ALL_TIME) if task_path else KEPT:
            begins = at // period * period if period else 0
            key = StatisticKey(self._backend_name, period, begins, queue_name, task_path)
            self._counts.setdefault(key, Count()).add(count)

    def _failed(self, store: Store, error: Exception) -> None:
        is_ours = not isinstance(error, DatabaseFault)
        if is_ours or store.is_data_error(error):  # it would fail again
            self._counts.clear()
            self._groups.clear()
        logger.warning(
            "The statistics can't be written: %s",
            str(error).strip(),
            exc_info=error if is_ours else None,
            extra={"worker_id": self._worker_id},
        )


def _by_task_and_status(
    finishes: Sequence[Finish],
) -> dict[tuple[str, str, str], list[Finish]]:
    """Return the finishes by queue, task and status.

    This is the one pass over all of them, 0.1 us each: neighbours are mostly alike, and three
    comparisons cost less than one look-up.
    """
    parts: dict[tuple[str, str, str], list[Finish]] = {}
    queue_name = task_path = status = ""
    part: list[Finish] = []
    for finish in finishes:
        claim: Any = finish.claim
        if (
            claim.task_path != task_path
            or finish.status != status
            or claim.queue_name != queue_name
        ):
            queue_name, task_path, status = claim.queue_name, claim.task_path, finish.status
            part = parts.setdefault((queue_name, task_path, status), [])
        part.append(finish)
    return parts


def _measure(count: Count, finishes: Sequence[Finish], measured: int) -> None:
    """Add the times that runs of one task have waited and taken.

    So many are measured, evenly spread, and stand for the others.
    """
    total, at = len(finishes), 0
    waits, runs = count.waits, count.runs
    for number in range(1, measured + 1):
        until = number * total // measured
        finish = finishes[(at + until) // 2]
        began, ended = finish.last_attempted_at, finish.finished_at
        if began is not None and ended is not None:
            waited = bucket((began - finish.claim.run_at).total_seconds())  # type: ignore[union-attr]
            waits[waited] = waits.get(waited, 0) + until - at
            ran = bucket((ended - began).total_seconds())
            runs[ran] = runs.get(ran, 0) + until - at
        at = until
