"""Sums of the rows that workers fill, and which of them are kept in the process."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import batched
from threading import Lock
from typing import Any

from django.db import router
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast

from .compat import task_backends
from .histogram import add, middle, percentiles, whole
from .models import Statistic

RANKS = (0.5, 0.95, 0.99)
COUNTS = ("successful", "failed", "cancelled", "retried", "lost")
DEPTHS = ("ready", "scheduled", "running")


@dataclass(slots=True)
class Totals:
    """What ended in some time, and how long it waited and ran: histograms, see histogram.py."""

    successful: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    lost: int = 0
    waits: dict[int, int] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Jobs that ended."""
        return self.successful + self.failed + self.cancelled

    @property
    def attempts(self) -> int:
        """Runs that ended, whether or not the job did."""
        return self.ended + self.retried + self.lost

    @property
    def failure_rate(self) -> float | None:
        """The share of failed jobs, 0 to 1, of those that ended and were not cancelled."""
        judged = self.successful + self.failed
        return self.failed / judged if judged else None

    @property
    def run_seconds(self) -> float:
        """The time that all runs took together, about."""
        return sum(middle(number) * count for number, count in self.runs.items())

    def wait_times(self) -> list[float | None]:
        """Return p50, p95 and p99 of the times from being due to the start, in seconds."""
        return percentiles(self.waits, RANKS)

    def run_times(self) -> list[float | None]:
        """Return p50, p95 and p99 of the times from start to end, in seconds."""
        return percentiles(self.runs, RANKS)

    def plus(self, other: "Totals", sign: int = 1) -> "Totals":
        """Return the sum, or the difference with ``sign`` -1."""
        sums = Totals(*(getattr(self, name) + sign * getattr(other, name) for name in COUNTS))
        for name in ("waits", "runs"):
            more: dict[int, int] = getattr(other, name)
            if sign < 0:
                more = {number: -count for number, count in more.items()}
            both = add((getattr(self, name), more))
            setattr(sums, name, {number: count for number, count in both.items() if count > 0})
        return sums


@dataclass(slots=True)
class Point:
    """One period: what ended in it, and the most that was there at once; None: nobody looked."""

    totals: Totals = field(default_factory=Totals)
    ready: int | None = None
    scheduled: int | None = None
    running: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows: of which backend, queue and task, in which database."""

    backend: str | None = None
    queue: str | None = None
    task: str | None = None
    using: str | None = None

    def rows(self, period: int, first: int, upto: int) -> "QuerySet[Statistic]":
        """Return the rows that begin in ``first`` to, not including, ``upto``.

        Served by the index of the constraint.
        """
        rows = Statistic.objects.using(self.using or router.db_for_write(Statistic)).filter(
            backend_name__in=backends(self.backend),
            period=period,
            begins__gte=first,
            begins__lt=upto,
        )
        if self.queue is not None:
            rows = rows.filter(queue_name=self.queue)
        if self.task is not None:
            # Of depths, too: they are of the queue that the task is in, and would mislead.
            rows = rows.filter(task_path=self.task)
        return rows


def backends(backend: str | None) -> list[str]:
    """Return the names of backends: to name all is to use the index, which begins with them."""
    return list(task_backends) if backend is None else [backend]


def sum_of(many: Iterable[Totals]) -> Totals:
    """Return the sum of all."""
    every = list(many)
    counts = {name: sum(getattr(each, name) for each in every) for name in COUNTS}
    waits, runs = add(each.waits for each in every), add(each.runs for each in every)
    return Totals(**counts, waits=waits, runs=runs)


def totals_of(values: list[Any]) -> Totals:
    """Return a row's ``COUNTS``, waits and runs."""
    *counts, waits, runs = values
    sums = Totals(waits=whole(waits), runs=whole(runs))
    _count(sums, counts)
    return sums


# What is kept in the process --------------------------------------------------------------------

# From how many rows on keeping their sums is worth it, for how many seconds, of how many filters.
MANY, KEPT, MOST_KEPT = 3000, 3600.0, 30
# Rows that are parsed at once.
BATCH = 2000


@dataclass(slots=True)
class Sums:
    """Points by when they begin, and totals by task; never changed once made."""

    points: dict[int, Point] = field(default_factory=dict)
    tasks: dict[str, Totals] = field(default_factory=dict)
    rows: int = 0

    def plus(self, later: "Sums") -> "Sums":
        tasks = dict(self.tasks)
        for path, more in later.tasks.items():
            tasks[path] = tasks[path].plus(more) if path in tasks else more
        return Sums({**self.points, **later.points}, tasks, self.rows + later.rows)

    def minus(self, first: "Sums") -> "Sums":
        tasks = dict(self.tasks)
        for path, less in first.tasks.items():
            rest = tasks.pop(path, less).plus(less, -1)
            if rest.attempts > 0:
                tasks[path] = rest
        points = {begin: point for begin, point in self.points.items() if begin not in first.points}
        return Sums(points, tasks, self.rows - first.rows)


@dataclass(frozen=True, slots=True)
class Kept:
    first: int
    upto: int
    made: float
    sums: Sums


kept_sums: dict[tuple[Filter, int], Kept] = {}
lock = Lock()


def sums_of(which: Filter, period: int, first: int, closed: int, stop: int) -> Sums:
    """Return the sums of a range, whose periods before ``closed`` are over.

    If those are kept, only what changed since then is read.
    """
    kept = kept_sums.get((which, period))
    if (
        kept is None
        or time.monotonic() - kept.made > KEPT
        or not kept.first <= first <= kept.upto <= closed
    ):
        found = read(which, period, first, stop)
        if found.rows < MANY:
            return found
        made, latest = time.monotonic(), read(which, period, closed, stop)
        past = found.minus(latest)
    else:
        made, past = kept.made, kept.sums
        if kept.first < first:
            past = past.minus(read(which, period, kept.first, first))
        if kept.upto < closed:
            past = past.plus(read(which, period, kept.upto, closed))
        latest = read(which, period, closed, stop)
    with lock:
        while len(kept_sums) >= MOST_KEPT:
            kept_sums.pop(next(iter(kept_sums)))
        kept_sums[which, period] = Kept(first, closed, made, past)
    return past.plus(latest)


def read(which: Filter, period: int, first: int, upto: int) -> Sums:
    """Return the sums of the periods that begin in ``first`` to, not including, ``upto``."""
    found = Sums()
    if first >= upto:
        return found
    columns = ("begins", "task_path", *DEPTHS, *COUNTS)
    # As text: one batch is parsed at once, in half the time.
    texts = (Cast("waits", TextField()), Cast("runs", TextField()))
    rows = which.rows(period, first, upto).values_list(*columns, *texts)
    for batch in batched(rows.iterator(chunk_size=BATCH), BATCH):
        found.rows += len(batch)
        parsed = iter(json.loads(f"[{','.join(text for row in batch for text in row[-2:])}]"))
        for begin, path, *values, _, _ in batch:
            waits, runs = next(parsed), next(parsed)
            point = found.points.get(begin)
            if point is None:
                point = found.points[begin] = Point()
            if not path:
                _deepen(point, values[:3])
                continue
            task = found.tasks.get(path)
            if task is None:
                task = found.tasks[path] = Totals()
            for sums in (point.totals, task):
                _count(sums, values[3:])
                _merge(sums.runs, runs)
            _merge(point.totals.waits, waits)
    for sums in (*(point.totals for point in found.points.values()), *found.tasks.values()):
        sums.waits, sums.runs = whole(sums.waits), whole(sums.runs)
    return found


def _count(sums: Totals, values: list[int]) -> None:
    sums.successful += values[0]
    sums.failed += values[1]
    sums.cancelled += values[2]
    sums.retried += values[3]
    sums.lost += values[4]


def _merge(total: dict[Any, int], histogram: dict[str, int]) -> None:
    # Keys stay text until all is added: half of the time went into making numbers of them.
    try:
        for key, count in histogram.items():
            total[key] = total.get(key, 0) + count
    except (AttributeError, TypeError):
        pass  # no histogram: what is wrong in one row hides no other


def _deepen(point: Point, values: list[int | None]) -> None:
    for name, value in zip(DEPTHS, values, strict=True):
        if value is not None:
            setattr(point, name, (getattr(point, name) or 0) + value)
