"""What there is now: the depth of queues, workers, schedules that are late, what is paused.

Every count has a limit, so that a look costs the same with a million rows. Times are compared with
the database's clock, as the engine's are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connections, router
from django.utils import timezone

from . import clock
from .compat import task_backends
from .models import Job, Pause, PeriodicTask, Worker
from .store import Queues, Store, store_for

if TYPE_CHECKING:
    from .backend import DatabaseBackend

# Counts stop here: "10,000+".
MOST = 10_000
# READY jobs that one look counts at most, in all queues together, but for LEAST in each.
MOST_IN_ALL, LEAST = 10_000, 100
# Jobs of another status that it counts at most: their rows are read, not only an index.
MOST_OTHERS = 2_000
# Seconds after which a schedule that has not fired is late.
LATE_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows; ``is_more``: there are more, which nobody has counted."""

    value: int
    is_more: bool = False

    def __str__(self) -> str:
        return f"{self.value:,}{'+' if self.is_more else ''}"

    @classmethod
    def of(cls, value: int, most: int = MOST) -> "Count":
        """Return what was counted up to one more than ``most``."""
        return cls(min(value, most), value > most)


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue of a backend.

    ``oldest_due``: since when the job that is due longest waits; None if there is none.
    ``waiting``: seconds since then, 0 if there is none. ``paused``: jobs whose task is paused.
    ``is_paused``: the queue itself is; then ``paused_at`` and ``paused_by`` tell more.
    """

    backend_name: str
    name: str
    ready: Count
    oldest_due: datetime | None
    waiting: float
    scheduled: Count
    running: Count
    paused: Count
    is_paused: bool = False
    paused_at: datetime | None = None
    paused_by: str = ""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker; ``age``: seconds since its last heartbeat.

    ``is_silent``: not seen for half of ``worker_timeout``; ``is_lost``: for all of it.
    """

    row: Worker
    age: float
    is_silent: bool
    is_lost: bool
    running: Count

    @property
    def capacity(self) -> int:
        """How many jobs it runs at once."""
        return self.row.capacity

    def serves(self, queue_name: str) -> bool:
        """Return whether it serves this queue of its backend."""
        text = str(self.row.queues)  # as Queues has it
        names = text.removeprefix("all but ").split(", ")
        return text == "all" or (queue_name in names) is not text.startswith("all but ")


@dataclass(frozen=True, slots=True)
class LateSchedule:
    """A periodic task that should have run ``late`` seconds ago."""

    row: PeriodicTask
    late: float


@dataclass(frozen=True, slots=True)
class PauseState:
    """A queue or a task that is paused; ``held``: PAUSED jobs of the task, None for a queue."""

    row: Pause
    held: Count | None


def queues(backend_name: str | None = None, using: str | None = None) -> list[QueueState]:
    """Return the queues that have jobs, are paused, or are in the backend's QUEUES, by name.

    ``backend_name``: None for all of TASKS that are ours. ``using``: a database, None for the
    jobs' own.
    """
    return Look(backend_name, using).queues()


def workers(backend_name: str | None = None, using: str | None = None) -> list[WorkerState]:
    """Return the workers by backend and id. Arguments as of ``queues()``."""
    return Look(backend_name, using).workers()


def late_schedules(
    after: float = LATE_AFTER, backend_name: str | None = None, using: str | None = None
) -> list[LateSchedule]:
    """Return the enabled periodic tasks that should have run ``after`` seconds ago, latest first.

    Other arguments as of ``queues()``.
    """
    return Look(backend_name, using).late_schedules(after)


def paused(backend_name: str | None = None, using: str | None = None) -> list[PauseState]:
    """Return what is paused, queues first. Arguments as of ``queues()``."""
    return Look(backend_name, using).paused()


def durable_backends() -> "dict[str, DatabaseBackend]":
    """Return the backends of TASKS that keep their jobs in the database, by alias."""
    made: dict[str, Any] = {alias: task_backends[alias] for alias in task_backends}
    return {alias: each for alias, each in made.items() if hasattr(type(each), "durable_options")}


class Look:
    """One look at the present, whose parts share what they read. Arguments as of ``queues()``.

    Raises ``KeyError`` for a backend that is none of ours.
    """

    def __init__(self, backend_name: str | None = None, using: str | None = None) -> None:
        backends = durable_backends()
        self.backends = backends if backend_name is None else {backend_name: backends[backend_name]}
        # What is written, not a copy that may lag behind: a heartbeat would seem old there.
        self.using = using or router.db_for_write(Job)

    @cached_property
    def store(self) -> Store:
        """The database that is looked at."""
        return store_for(connections[self.using])

    @cached_property
    def seconds(self) -> float:
        """The database's time in seconds since 1970."""
        if clock.source is not None:
            return clock.source().timestamp()
        return self.store.database_time()

    @cached_property
    def at(self) -> datetime:
        """The database's time as Django's settings want it: aware, or naive local time."""
        at = datetime.fromtimestamp(self.seconds, UTC)
        return at if settings.USE_TZ else timezone.make_naive(at)

    @cached_property
    def _running(self) -> list[tuple[str, str, str, int]]:
        with self.store.pinned_plans():
            return self.store.count_running(MOST_OTHERS + 1)

    @cached_property
    def _held(self) -> list[tuple[str, str, str, int]]:
        with self.store.pinned_plans():
            return self.store.count_paused(MOST_OTHERS + 1)

    @cached_property
    def _scheduled(self) -> list[tuple[str, str, datetime, int]]:
        with self.store.pinned_plans():
            return self.store.count_scheduled_by_queue(MOST_OTHERS + 1)

    @cached_property
    def _pauses(self) -> list[Pause]:
        pauses = Pause.objects.using(self.using).filter(backend_name__in=self.backends)
        return list(pauses.order_by("backend_name", "task_path", "queue_name"))

    def queues(self) -> list[QueueState]:
        """See ``queues()``."""
        with self.store.pinned_plans():
            return [state for alias in self.backends for state in self._queues(alias)]

    def _queues(self, alias: str) -> Iterator[QueueState]:
        scheduled = _counts(self._scheduled, alias, 1)
        running = _counts(self._running, alias, 1)
        held = _counts(self._held, alias, 1)
        pauses = {
            pause.queue_name: pause
            for pause in self._pauses
            if pause.backend_name == alias and not pause.task_path
        }
        ready = self.store.queue_names(Queues(alias, None))
        named = {*self.backends[alias].queues, *pauses, *scheduled, *running, *held, *ready}
        most = min(MOST, max(LEAST, MOST_IN_ALL // max(1, len(ready))))
        counts = self.store.count_ready(alias, ready, most + 1)
        oldest = self.store.oldest_ready(alias, ready)
        # Due, but no worker has promoted it yet.
        overdue = {name: at for of, name, at, _ in self._scheduled if of == alias and at < self.at}
        for name in sorted(named):
            dues = [due for due in (oldest.get(name), overdue.get(name)) if due is not None]
            due = min(dues, default=None)
            pause = pauses.get(name)
            yield QueueState(
                alias,
                name,
                ready=Count.of(counts.get(name, 0), most),
                oldest_due=due,
                waiting=self._since(due),
                scheduled=scheduled[name],
                running=running[name],
                paused=held[name],
                is_paused=pause is not None,
                paused_at=pause.paused_at if pause else None,
                paused_by=pause.paused_by if pause else "",
            )

    def workers(self) -> list[WorkerState]:
        """See ``workers()``."""
        running = _counts(self._running, None, 2)
        rows = Worker.objects.using(self.using).filter(backend_name__in=self.backends)
        found = []
        for row in rows.order_by("backend_name", "id"):
            age = max(0.0, self.seconds - row.last_seen / 1_000_000)
            timeout = self.backends[row.backend_name].durable_options.worker_timeout
            found.append(
                WorkerState(
                    row,
                    age,
                    is_silent=age > timeout / 2,
                    is_lost=age > timeout,
                    running=running[row.id],
                )
            )
        return found

    def late_schedules(self, after: float = LATE_AFTER) -> list[LateSchedule]:
        """See ``late_schedules()``. Reads the table of schedules, which is small."""
        rows = PeriodicTask.objects.using(self.using).filter(
            backend_name__in=self.backends,
            enabled=True,
            next_run_at__lt=self.at - timedelta(seconds=after),
        )
        return [
            LateSchedule(row, self._since(row.next_run_at)) for row in rows.order_by("next_run_at")
        ]

    def paused(self) -> list[PauseState]:
        """See ``paused()``."""
        found = []
        for row in self._pauses:
            held = _counts(self._held, row.backend_name, 2)
            found.append(PauseState(row, held[row.task_path] if row.task_path else None))
        return found

    def failing_errors(self) -> set[tuple[str, str, str]] | None:
        """Return backend, class and place of the errors that FAILED jobs have.

        None if there are too many such jobs to tell.
        """
        with self.store.pinned_plans():
            rows = self.store.count_failed(MOST_OTHERS + 1)
        if sum(row[-1] for row in rows) > MOST_OTHERS:
            return None
        return {(alias, error or "", place or "") for alias, error, place, _ in rows}

    def _since(self, at: datetime | None) -> float:
        return 0.0 if at is None else max(0.0, (self.at - at).total_seconds())


def _counts(rows: list[Any], alias: str | None, column: int) -> defaultdict[str, Count]:
    """Return the counts of a backend's rows, or of all, by a column; 0 where there is no row."""
    counts: Counter[str] = Counter()
    for row in rows:
        if alias is None or row[0] == alias:
            counts[row[column]] += row[-1]
    is_more = sum(row[-1] for row in rows) > MOST_OTHERS
    return defaultdict(
        lambda: Count(0, is_more),
        {name: Count(min(count, MOST_OTHERS), is_more) for name, count in counts.items()},
    )
