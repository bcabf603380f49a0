"""What was: charts, totals and groups of errors, from the rows that workers fill; no job is read.

- ``series(range, ...)``: one of ``RANGES`` by its points, with the totals of all and of each task;
- ``totals(seconds, ...)``: the same sums over the last seconds, without times: one small query;
- ``ended_by_queue(seconds, ...)``: how many jobs ended in each queue;
- ``failure_rate(backend, seconds)``: how many of the jobs that ended have failed;
- ``totals_by_task(period, begins, ...)``: sums of whole periods for each queue and task;
- ``error_groups(since, ...)``: what was raised, the latest first.

``backend``, ``queue``, ``task``: None for all. ``using``: a database, None for the jobs' own.
``now``: seconds since 1970 of the database's clock; None for the host's. Workers write once a
minute, so that the last ``LAG`` seconds are not known yet.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from django.db import router
from django.db.models import F, QuerySet, Sum

from . import clock
from .compat import task_backends
from .histogram import whole
from .models import ErrorGroup, Statistic
from .redaction import SECRETS, redacted_text
from .tallies import (
    COUNTS,
    DEPTHS,
    RANKS,
    Filter,
    Point,
    Totals,
    backends,
    sum_of,
    sums_of,
    totals_of,
)

__all__ = [
    "COUNTS",
    "DEPTHS",
    "LAG",
    "RANGES",
    "RANKS",
    "Filter",
    "Point",
    "Range",
    "Series",
    "Totals",
    "by_hour",
    "ended_by_queue",
    "error_groups",
    "failure_rate",
    "series",
    "task_paths",
    "totals",
    "totals_by_task",
]

# Seconds until all workers have written what they counted.
LAG = 60


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


@dataclass(frozen=True, slots=True)
class Series:
    """One range; ``begins`` in seconds since 1970.

    ``points``: None where no worker wrote anything at all. ``covered``: seconds of each point that
    are known. ``tasks``: totals by the path of the task, without how long its jobs waited.
    """

    begins: range
    covered: list[float]
    points: list[Point | None]
    tasks: dict[str, Totals]

    def totals(self) -> Totals:
        """Return the sum of all."""
        return sum_of(point.totals for point in self.points if point)


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
    found = sums_of(which, span.period, begins.start, closed, begins.stop)
    idle = _idle(which, begins)
    return Series(
        begins,
        [span.covered(begin, now) for begin in begins],
        [found.points.get(begin) or idle.get(begin) for begin in begins],
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
    rows = _minutes(Filter(backend, queue, task, using), seconds, now)
    sums = rows.aggregate(**{name: Sum(name, default=0) for name in COUNTS})
    return Totals(**sums)


def ended_by_queue(
    seconds: int,
    backend: str | None = None,
    using: str | None = None,
    now: float | None = None,
) -> dict[tuple[str, str], int]:
    """Return how many jobs ended, by backend and queue. Arguments as of ``totals``."""
    rows = _minutes(Filter(backend, using=using), seconds, now).exclude(task_path="")
    sums = rows.values_list("backend_name", "queue_name").annotate(
        ended=Sum(F("successful") + F("failed") + F("cancelled"))
    )
    return {(alias, queue): ended for alias, queue, ended in sums}


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
        found[key] = found.get(key, Totals()).plus(totals_of(values))
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

    In their messages the values of secret names are masked.
    ``task``: whose last error was of this task. Times as ``clock.now()`` has them.
    """
    groups = ErrorGroup.objects.using(using or router.db_for_write(ErrorGroup)).filter(
        backend_name__in=backends(backend), last_seen__gte=since
    )
    if task is not None:
        groups = groups.filter(task_path=task)
    found = list(groups.order_by("-last_seen", "id")[:most])
    for group in found:
        group.message = redacted_text(group.message, _secrets_of(group.backend_name))
    return found


def _secrets_of(backend_name: str) -> tuple[str, ...]:
    options = getattr(task_backends[backend_name], "durable_options", None)
    return SECRETS if options is None else options.redact


def by_hour(group: ErrorGroup, now: float, hours: int) -> list[int]:
    """Return how often it was raised in each of the last ``hours``, the present one last."""
    last = int(now) // 3600 * 3600
    counts = whole(group.hours)
    return [counts.get(last - 3600 * back, 0) for back in reversed(range(hours))]


def _minutes(which: Filter, seconds: int, now: float | None) -> "QuerySet[Statistic]":
    """Return the rows of the last ``seconds``, in whole minutes that are known."""
    upto = int((_now() if now is None else now) - LAG) // 60 * 60
    return which.rows(60, upto - max(60, seconds // 60 * 60), upto)


def _idle(which: Filter, begins: range) -> dict[int, Point]:
    """Return a point for each period in which workers wrote of others than asked for: nothing was.

    Empty without a filter: where there is no row at all, nobody knows.
    """
    if which.queue is None and which.task is None:
        return {}
    rows = replace(which, queue=None, task=None).rows(begins.step, begins.start, begins.stop)
    # How much waits is counted by queue.
    nothing = Point() if which.task is not None else Point(ready=0, scheduled=0, running=0)
    return dict.fromkeys(rows.values_list("begins", flat=True).distinct(), nothing)


def _now() -> float:
    return clock.now().timestamp()
