"""Whether work gets done: figures of now against thresholds.

``report()`` judges, ``manage.py tasks_health`` prints it, ``view()`` answers load balancers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseFault
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .history import Totals, totals
from .schedules import Duration
from .state import Count, Look, QueueState, WorkerState, durable_backends

# Statistics are kept by the minute for so long.
LONGEST_OVER = timedelta(hours=3)
MOST_BACKLOG = 1_000_000


def duration(value: Any) -> Duration:
    """Parse a length of time, as ``Duration``. Raises ``ValueError``."""
    try:
        return Duration(value)
    except TypeError as error:
        raise ValueError(str(error)) from error


def over(value: Any) -> Duration:
    """Parse the time over which failures are counted. Raises ``ValueError``."""
    time = duration(value)
    if not timedelta(minutes=1) <= time <= LONGEST_OVER:
        raise ValueError(f"must be from 1m to 3h, for which workers keep counts, not {value!r}")
    return time


def rate(value: Any) -> float:
    """Parse a share: ``"10%"``, ``"0.1"`` or 0.1. Raises ``ValueError``."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:  # nor NaN
        raise ValueError(f'must be a share such as "10%" or 0.1, not {value!r}')
    return share


def number(value: Any) -> int:
    """Parse a whole number. Raises ``ValueError``."""
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or int(text) > MOST_BACKLOG:
        raise ValueError(f"must be a whole number from 0 to {MOST_BACKLOG:,}, not {value!r}")
    return int(text)


@dataclass(frozen=True)
class Thresholds:
    """What is still healthy; None: that is not looked at. Made by ``of()``.

    ``max_backlog``: jobs that are due and wait, in all queues together. ``max_waiting``: for how
    long the oldest of them. ``max_failure_rate``: the share of failed jobs, 0 to 1, of those that
    ended in the time ``over``, if these are ``min_runs`` at least. ``min_workers``: workers of each
    backend, or of each queue that is asked about, that are alive and claim jobs.
    ``max_beat_age``: since the last heartbeat of any worker; the default is the backend's
    ``worker_timeout``. ``max_late``: for how long a periodic task is overdue.
    """

    max_backlog: int | None = field(default=10_000, metadata={"parse": number})
    max_waiting: Duration | None = field(default=Duration("5m"), metadata={"parse": duration})
    max_failure_rate: float | None = field(default=0.1, metadata={"parse": rate})
    over: Duration = field(default=Duration("15m"), metadata={"parse": over})
    min_runs: int = field(default=20, metadata={"parse": number})
    min_workers: int | None = field(default=1, metadata={"parse": number})
    max_beat_age: Duration | None = field(default=None, metadata={"parse": duration})
    max_late: Duration | None = field(default=Duration("5m"), metadata={"parse": duration})

    @classmethod
    def of(cls, **values: Any) -> "Thresholds":
        """Return thresholds from texts such as ``"5m"`` and ``"10%"``, numbers, and None.

        Raises ``ImproperlyConfigured`` that names what is unknown or wrong.
        """
        known = {each.name: each for each in fields(cls)}
        made: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise ImproperlyConfigured(
                    f"{name} is no threshold. Known: {', '.join(sorted(known))}."
                )
            if value is None and name not in ("over", "min_runs"):
                made[name] = None
                continue
            try:
                made[name] = known[name].metadata["parse"](value)
            except ValueError as error:
                raise ImproperlyConfigured(f"{name}: {error}") from error
        return cls(**made)


@dataclass(frozen=True, slots=True)
class Check:
    """One figure against its threshold. ``value``, ``threshold``: seconds, a share or a number."""

    name: str
    is_ok: bool
    value: float | None
    threshold: float
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found at a time of the database; ``notes``: what was left out of it, and why."""

    at: datetime
    checks: list[Check]
    notes: list[str]

    @property
    def is_healthy(self) -> bool:
        """Whether all checks are."""
        return all(check.is_ok for check in self.checks)


def report(
    thresholds: Thresholds | None = None,
    *,
    backend_name: str | None = None,
    queue_names: Sequence[str] | None = None,
    using: str | None = None,
) -> Report:
    """Look at the database once and judge; costs the same with a million rows.

    ``backend_name``: None for all of ours. ``queue_names``: None for all. ``using``: a database,
    None for the jobs' own. Raises ``django.db.Error`` if it can't be asked.
    """
    return _Judge(thresholds or Thresholds(), Look(backend_name, using), queue_names).report()


class _Judge:
    def __init__(
        self, thresholds: Thresholds, look: Look, queue_names: Sequence[str] | None
    ) -> None:
        self.thresholds = thresholds
        self.look = look
        self.names = None if queue_names is None else frozenset(queue_names)

    def report(self) -> Report:
        limits = self.thresholds
        queues = [each for each in self.look.queues() if self._is_meant(each.name)]
        active = [each for each in queues if not each.is_paused]
        workers = [each for each in self.look.workers() if self._is_served(each)]
        checks = []
        if limits.max_backlog is not None:
            checks.append(self._backlog(active, limits.max_backlog))
        if limits.max_waiting is not None:
            checks.append(self._waiting(active, limits.max_waiting))
        if limits.max_failure_rate is not None:
            checks.append(self._failures(limits.max_failure_rate))
        if limits.min_workers is not None:
            checks.append(self._workers(workers, limits.min_workers))
        checks += self._heartbeats(workers)
        if limits.max_late is not None:
            checks.append(self._schedules(limits.max_late))
        return Report(self.look.at, checks, list(self._notes(queues)))

    def _is_meant(self, queue_name: str) -> bool:
        return self.names is None or queue_name in self.names

    def _is_served(self, worker: WorkerState) -> bool:
        return self.names is None or any(map(worker.serves, self.names))

    def _backlog(self, queues: Sequence[QueueState], most: int) -> Check:
        count = sum(each.ready.value for each in queues)
        is_more = any(each.ready.is_more for each in queues)
        if is_more and count <= most:
            # Once more, as far as it decides.
            count = 0
            for each in queues:
                left = most + 1 - count
                with self.look.store.pinned_plans():
                    found = self.look.store.count_ready(each.backend_name, [each.name], left)
                count += found[each.name]
                if count > most:
                    break
            is_more = count > most
        text = f"{Count(count, is_more)} jobs are due (at most {most:,})"
        return Check("backlog", count <= most, count, most, text)

    def _waiting(self, queues: Sequence[QueueState], most: Duration) -> Check:
        worst = max(queues, key=lambda each: each.waiting, default=None)
        waiting = worst.waiting if worst else 0.0
        text = "no job waits"
        if worst and worst.oldest_due:
            text = f"the oldest job waits for {shown(waiting)} in the queue {worst.name!r}"
        limit = most.total_seconds()
        return Check("waiting", waiting <= limit, waiting, limit, f"{text} (at most {most})")

    def _failures(self, most: float) -> Check:
        limits = self.thresholds
        sums = Totals()
        for alias in self.look.backends:
            for name in [None] if self.names is None else sorted(self.names):
                seconds = int(limits.over.total_seconds())
                sums = sums.plus(
                    totals(seconds, alias, name, using=self.look.using, now=self.look.seconds)
                )
        judged = sums.successful + sums.failed
        share = sums.failure_rate
        text = f"of {judged:,} jobs that ended in the last {limits.over}"
        if share is None or judged < limits.min_runs:
            text = f"no verdict: {judged:,} jobs ended in the last {limits.over}"
            return Check(
                "failures", True, share, most, f"{text}, {limits.min_runs:,} at least are needed"
            )
        return Check(
            "failures",
            share <= most,
            share,
            most,
            f"{share:.1%} {text} failed (at most {most * 100:g}%)",
        )

    def _workers(self, workers: Sequence[WorkerState], least: int) -> Check:
        """Judge the backend, or the queue that was asked for, that has the fewest."""
        backends = self.look.backends.values()
        needed = [each.alias for each in backends if not each.durable_options.immediate]
        alive = [each for each in workers if not (each.is_lost or each.row.wish)]
        if self.names is not None and needed:
            counts = {
                f" for the queue {name!r}": sum(each.serves(name) for each in alive)
                for name in sorted(self.names)
            }
        else:
            counts = {
                f" for the backend {alias!r}" if len(needed) > 1 else "": sum(
                    each.row.backend_name == alias for each in alive
                )
                for alias in needed
            }
        if not counts:
            text = "none is needed: tasks run where they are enqueued"
            return Check("workers", True, len(alive), least, text)
        where, count = min(counts.items(), key=lambda item: item[1])
        text = f"{count:,} alive" if count else "no worker is alive and claims jobs"
        return Check("workers", count >= least, count, least, f"{text}{where} (at least {least:,})")

    def _heartbeats(self, workers: Sequence[WorkerState]) -> list[Check]:
        if not workers:
            return []  # said above
        limits = self.thresholds

        def limit_of(worker: WorkerState) -> float:
            if limits.max_beat_age is not None:
                return limits.max_beat_age.total_seconds()
            backend = self.look.backends[worker.row.backend_name]
            return backend.durable_options.worker_timeout

        worst = max(workers, key=lambda each: each.age - limit_of(each))
        limit = limit_of(worst)
        return [
            Check(
                "heartbeats",
                worst.age <= limit,
                worst.age,
                limit,
                f"the last one of {worst.row.id} is {shown(worst.age)} old "
                f"(at most {shown(limit)})",
            )
        ]

    def _schedules(self, most: Duration) -> Check:
        limit = most.total_seconds()
        late = [each for each in self.look.late_schedules(0) if self._is_meant(each.row.queue_name)]
        too_late = [each for each in late if each.late > limit]
        worst = late[0].late if late else 0.0
        text = "none is late"
        if too_late:
            text = f"{len(too_late):,} late, {late[0].row.name!r} by {shown(worst)}"
        return Check("schedules", not too_late, worst, limit, f"{text} (at most {most})")

    def _notes(self, queues: Sequence[QueueState]) -> list[str]:
        notes = []
        for each in queues:
            if each.is_paused:
                by = f" by {each.paused_by}" if each.paused_by else ""
                notes.append(
                    f"the queue {each.name!r} is paused{by}: its {each.ready} jobs are left out"
                )
        for pause in self.look.paused():
            if pause.row.task_path:
                notes.append(f"the task {pause.row.task_path} is paused: {pause.held} jobs held")
        return notes


def shown(seconds: float) -> str:
    """Return a time as people read it: ``"4s"``, ``"12m30s"``, ``"3d4h"``."""
    return str(Duration(round(seconds)))


def not_atomic[T: Callable[..., HttpResponseBase]](view: T) -> T:
    """Let no database have ``ATOMIC_REQUESTS`` for a view: they would fail before it can answer."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def view(
    *,
    backend_name: str | None = None,
    queue_names: Sequence[str] | None = None,
    **thresholds: Any,
) -> Callable[..., HttpResponseBase]:
    """Return a view for load balancers: 200 if healthy, 503 if not or if the database is away.

    Its JSON says which checks are well, and no figures or names: everybody may ask. Arguments as of
    ``report()``, and those of ``Thresholds``: ``view(max_waiting="10m", min_workers=2)``.
    Raises ``ImproperlyConfigured`` for one that is wrong.
    """
    limits = Thresholds.of(**thresholds)
    if isinstance(queue_names, str):  # it would be taken for a queue of each letter
        raise ImproperlyConfigured(f"queue_names must be a list of names, not {queue_names!r}.")
    known = durable_backends()
    if backend_name is not None and backend_name not in known:
        raise ImproperlyConfigured(
            f"{backend_name!r} is no backend of durable_tasks in TASKS. Known: {', '.join(known)}."
        )

    @not_atomic
    @never_cache
    @require_safe
    def health(request: HttpRequest) -> HttpResponseBase:
        try:
            found = report(limits, backend_name=backend_name, queue_names=queue_names)
        except DatabaseFault:
            return JsonResponse({"status": "unknown"}, status=503)
        return JsonResponse(
            {
                "status": "healthy" if found.is_healthy else "unhealthy",
                "checks": {check.name: check.is_ok for check in found.checks},
            },
            status=200 if found.is_healthy else 503,
        )

    return health
