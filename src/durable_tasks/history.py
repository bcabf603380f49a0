"""What was: charts, totals and groups of errors, from the rows that workers fill; no job is read.

- ``series(range, ...)``: one of ``RANGES`` by its points, with the totals of all and of each task;
- ``totals(seconds, ...)``: the same sums over the last seconds, without times: one small query;
- ``failure_rate(backend, seconds)``: how many of the jobs that ended have failed;
- ``totals_by_task(period, begins, ...)``: sums of whole periods for each queue and task;
- ``error_groups(since, ...)``: what was raised, the latest first.

``backend``, ``queue``, ``task``: None for all. ``using``: a database, None for the jobs' own.
``now``: seconds since 1970 of the database's clock; None for the host's. Workers write once a
minute, so that the last ``LAG`` seconds are not known yet.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from threading import Lock
from typing import Any

from django.db import router
from django.db.models import QuerySet, Sum, TextField
from django.db.models.functions import Cast

from . import clock
from .compat import task_backends
from .histogram import add, middle, percentiles
from .models import ErrorGroup, Statistic

# Seconds until all workers have written what they counted.
LAG = 60
RANKS = (0.5, 0.95, 0.99)
COUNTS = ("successful", "failed", "cancelled", "retried", "lost")
DEPTHS = ("ready", "scheduled", "running")


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of time up to now, in seconds, and the length of its points."""

    seconds: int
    period: int

    def begins(self, now: float) -> range:
        """Return when each point begins; the last may be under way.

        The last minute of a minute's points is left out: it would be a dip in every chart.
        """
        last = int(now - LAG) // self.period * self.period
        if last + self.period > now - LAG and self.period <= LAG:
            last -= self.period
        return range(last - self.seconds + self.period, last + 1, self.period)

    def covered(self, begins: int, now: float) -> float:
        """Return how many seconds of a point are known."""
        return max(1.0, min(self.period, now - LAG / 2 - begins))


RANGES = {"1h": Range(3600, 60), "24h": Range(86_400, 600), "7d": Range(7 * 86_400, 3600)}


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
class Series:
    """One range. ``points``: None where no worker wrote anything. ``begins``: seconds since 1970.

    ``covered``: seconds of each point that are known. ``tasks``: totals by the path of the task,
    without how long its jobs waited.
    """

    begins: range
    covered: list[float]
    points: list[Point | None]
    tasks: dict[str, Totals]

    def totals(self) -> Totals:
        """Return the sum of all."""
        return _sum(point.totals for point in self.points if point)


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
            backend_name__in=_backends(self.backend),
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


def series(
    range: str,
    backend: str | None = None,
    queue: str | None = None,
    task: str | None = None,
    using: str | None = None,
    now: float | None = None,
) -> Series:
    """Return one of ``RANGES``. Raises ``KeyError`` for another.

    Rows of periods that are over are kept in this process where they are many.
    """
    span = RANGES[range]
    now = _now() if now is None else now
    which = Filter(backend, queue, task, using or router.db_for_write(Statistic))
    begins = span.begins(now)
    # Late rows still come to what ended less than two flushes ago.
    closed = max(begins.start, int(now - 3 * LAG) // span.period * span.period)
    found = _sums(which, span.period, begins.start, closed, begins.stop)
    return Series(
        begins,
        [span.covered(begin, now) for begin in begins],
        [found.points.get(begin) for begin in begins],
        found.tasks,
    )


def totals(
    seconds: int,
    backend: str | None = None,
    queue: str | None = None,
    task: str | None = None,
    using: str | None = None,
    now: float | None = None,
) -> Totals:
    """Return the counts of the last ``seconds``, without histograms; whole minutes that are known.

    ``seconds``: up to three hours, for which there are rows of minutes.
    """
    upto = int((_now() if now is None else now) - LAG) // 60 * 60
    rows = Filter(backend, queue, task, using).rows(60, upto - max(60, seconds // 60 * 60), upto)
    sums = rows.aggregate(**{name: Sum(name, default=0) for name in COUNTS})
    return Totals(**sums)


def failure_rate(
    backend: str | None, seconds: int, using: str | None = None, now: float | None = None
) -> tuple[float | None, int]:
    """Return the share of failed jobs, 0 to 1, and of how many jobs; None of 0 if none ended.

    ``seconds``: as of ``totals``. Cancelled jobs are left out.
    """
    sums = totals(seconds, backend, using=using, now=now)
    return sums.failure_rate, sums.successful + sums.failed


def totals_by_task(
    period: int,
    first: int,
    upto: int,
    backend: str | None = None,
    using: str | None = None,
) -> dict[tuple[str, str, str], Totals]:
    """Return the sums of the periods that begin in ``first`` to, not including, ``upto``.

    By backend, queue and task. ``period``: 60, 600 or 3600.
    """
    found: dict[tuple[str, str, str], Totals] = {}
    rows = Filter(backend, using=using).rows(period, first, upto).exclude(task_path="")
    for alias, queue, task, *values in rows.values_list(
        "backend_name", "queue_name", "task_path", *COUNTS, "waits", "runs"
    ):
        key = alias, queue, task
        found[key] = found.get(key, Totals()).plus(_totals(values))
    return found


def task_paths(
    range: str,
    backend: str | None = None,
    queue: str | None = None,
    using: str | None = None,
    now: float | None = None,
) -> set[str]:
    """Return the paths of the tasks that ran in one of ``RANGES``."""
    begins = RANGES[range].begins(_now() if now is None else now)
    rows = Filter(backend, queue, None, using).rows(begins.step, begins.start, begins.stop)
    return set(rows.values_list("task_path", flat=True).distinct()) - {""}


def error_groups(
    since: datetime,
    backend: str | None = None,
    task: str | None = None,
    using: str | None = None,
    most: int = 100,
) -> list[ErrorGroup]:
    """Return the groups that were seen since then, the latest first; ``most`` of them.

    ``task``: whose last error was of this task. Times as ``clock.now()`` has them.
    """
    groups = ErrorGroup.objects.using(using or router.db_for_write(ErrorGroup)).filter(
        backend_name__in=_backends(backend), last_seen__gte=since
    )
    if task is not None:
        groups = groups.filter(task_path=task)
    return list(groups.order_by("-last_seen", "id")[:most])


def by_hour(group: ErrorGroup, now: float, hours: int) -> list[int]:
    """Return how often it was raised in each of the last ``hours``, the present one last."""
    last = int(now) // 3600 * 3600
    counts = {int(hour): count for hour, count in group.hours.items()}
    return [counts.get(last - 3600 * back, 0) for back in reversed(range(hours))]


def _now() -> float:
    return clock.now().timestamp()


def _backends(backend: str | None) -> list[str]:
    # The index begins with the backend: to name all is to use it.
    return list(task_backends) if backend is None else [backend]


def _sum(many: Iterable[Totals]) -> Totals:
    every = list(many)
    counts = {name: sum(getattr(each, name) for each in every) for name in COUNTS}
    waits, runs = add(each.waits for each in every), add(each.runs for each in every)
    return Totals(**counts, waits=waits, runs=runs)


def _totals(values: list[Any]) -> Totals:
    *counts, waits, runs = values
    sums = Totals(waits=add((waits,)), runs=add((runs,)))
    _count(sums, counts)
    return sums


# What is kept in the process --------------------------------------------------------------------

# From how many rows on keeping their sums is worth it, for how many seconds, of how many filters.
MANY, KEPT, MOST_KEPT = 3000, 3600.0, 30
# Rows that are parsed at once.
BATCH = 2000


@dataclass(slots=True)
class _Sums:
    """Points by when they begin, and totals by task; never changed once made."""

    points: dict[int, Point] = field(default_factory=dict)
    tasks: dict[str, Totals] = field(default_factory=dict)
    rows: int = 0

    def plus(self, later: "_Sums") -> "_Sums":
        tasks = dict(self.tasks)
        for path, more in later.tasks.items():
            tasks[path] = tasks[path].plus(more) if path in tasks else more
        return _Sums({**self.points, **later.points}, tasks, self.rows + later.rows)

    def minus(self, first: "_Sums") -> "_Sums":
        tasks = dict(self.tasks)
        for path, less in first.tasks.items():
            rest = tasks.pop(path, less).plus(less, -1)
            if rest.attempts > 0:
                tasks[path] = rest
        points = {begin: point for begin, point in self.points.items() if begin not in first.points}
        return _Sums(points, tasks, self.rows - first.rows)


@dataclass(frozen=True, slots=True)
class _Kept:
    first: int
    upto: int
    made: float
    sums: _Sums


_kept: dict[tuple[Filter, int], _Kept] = {}
_lock = Lock()


def _sums(which: Filter, period: int, first: int, closed: int, stop: int) -> _Sums:
    """Return the sums of a range, whose periods before ``closed`` are over.

    If those are kept, only what changed since then is read.
    """
    kept = _kept.get((which, period))
    if (
        kept is None
        or time.monotonic() - kept.made > KEPT
        or not kept.first <= first <= kept.upto <= closed
    ):
        found = _read(which, period, first, stop)
        if found.rows < MANY:
            return found
        made, latest = time.monotonic(), _read(which, period, closed, stop)
        past = found.minus(latest)
    else:
        made, past = kept.made, kept.sums
        if kept.first < first:
            past = past.minus(_read(which, period, kept.first, first))
        if kept.upto < closed:
            past = past.plus(_read(which, period, kept.upto, closed))
        latest = _read(which, period, closed, stop)
    with _lock:
        while len(_kept) >= MOST_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[which, period] = _Kept(first, closed, made, past)
    return past.plus(latest)


def _read(which: Filter, period: int, first: int, upto: int) -> _Sums:
    """Return the sums of the periods that begin in ``first`` to, not including, ``upto``."""
    found = _Sums()
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
        sums.waits, sums.runs = add((sums.waits,)), add((sums.runs,))
    return found


def _count(sums: Totals, values: list[int]) -> None:
    sums.successful += values[0]
    sums.failed += values[1]
    sums.cancelled += values[2]
    sums.retried += values[3]
    sums.lost += values[4]


def _merge(total: dict[Any, int], histogram: dict[str, int]) -> None:
    # Keys stay text until all is added: half of the time went into making numbers of them.
    for key, count in histogram.items():
        total[key] = total.get(key, 0) + count


def _deepen(point: Point, values: list[int | None]) -> None:
    for name, value in zip(DEPTHS, values, strict=True):
        if value is not None:
            setattr(point, name, (getattr(point, name) or 0) + value)
