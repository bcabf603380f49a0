"""Jobs of every kind, enqueued while things break, and the count at the end."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseFault
from django.db import connection
from django.utils import timezone

from durable_tasks.compat import task_backends
from durable_tasks.models import Job

from ..app import tasks
from ..app.models import Effect
from ..helpers import eventually

# `make chaos` sets it: each scenario then takes the time and the numbers it is meant to have.
LONG = bool(os.environ.get("DURABLE_TASKS_LONG"))

WORKER_LOST = "durable_tasks.exceptions.WorkerLost"

# What a worker has to be told so that bad luck alone fails no job.
OPTIONS = {"worker_timeout": 2, "max_lost": 30}

KINDS: dict[str, Any] = {
    "plain": tasks.mark,
    "async": tasks.async_mark,
    "atomic": tasks.atomic_mark,
    "once": tasks.once_mark,
    "again": tasks.again_mark,
    "deferred": tasks.mark,
}


@dataclass
class Count:
    """What became of a load. ``broken``: sentences, one for each promise that was not kept."""

    jobs: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    lost_runs: int = 0
    doubles: Counter[str] = field(default_factory=Counter)
    failed_once: int = 0
    broken: list[str] = field(default_factory=list)


class Load:
    """Enqueues jobs of these kinds in turn. Each leaves an effect with its own key."""

    def __init__(self, kinds: Iterable[str] = KINDS, seconds: float = 0.0) -> None:
        self.kinds = list(kinds)
        self.seconds = seconds
        self.confirmed: set[UUID] = set()
        self._number = 0

    def enqueue(self, count: int) -> None:
        """Enqueue so many. Raises what the database says; then nobody knows whether they are in."""
        entries = []
        soon = timezone.now() + timedelta(seconds=1)
        for number in range(self._number, self._number + count):
            kind = self.kinds[number % len(self.kinds)]
            task = KINDS[kind]
            if kind == "deferred":
                task = task.using(run_after=soon)
            entries.append((task, [f"{kind} {number}", self.seconds], {}))
        self._number += count
        for result in task_backends["default"].enqueue_many(entries):
            self.confirmed.add(UUID(result.id))

    def left(self) -> int:
        """Return how many jobs have not ended."""
        return Job.objects.filter(status__in=("READY", "SCHEDULED", "RUNNING")).count()

    def drained(self, timeout: float = 60.0, alive: Callable[[], object] = lambda: True) -> None:
        """Wait until every job has ended."""

        def nothing_left() -> bool:
            alive()
            try:
                return self.left() == 0
            except DatabaseFault:
                connection.close()
                return False

        eventually(nothing_left, lambda: f"all jobs end; left: {stuck()}", timeout)

    def count(self) -> Count:
        """Return what became of the jobs, whose workers have all ended their work."""
        count = Count()
        effects = Counter(Effect.objects.values_list("key", flat=True))
        missing = set(self.confirmed)
        broken = count.broken.append
        columns = ("id", "args", "status", "attempts", "lost", "exception_class_path", "errors")
        for id, (key, _), status, attempts, lost, path, errors in Job.objects.values_list(*columns):
            kind = key.split()[0]
            times = effects.pop(key, 0)
            missing.discard(id)
            count.jobs += 1
            count.by_status[status] += 1
            count.lost_runs += lost
            if times > 1:
                count.doubles[kind] += times - 1
            what = f"{key} ({status}, attempts {attempts}, lost {lost}, effects {times})"
            if status == "FAILED" and kind == "once":
                count.failed_once += path == WORKER_LOST
                if path != WORKER_LOST and "Error" not in (path or ""):
                    broken(f"{what} failed: {path}")
            elif status == "FAILED" and kind == "atomic" and times:
                broken(f"{what} failed, and its effect is there")
            elif status != "SUCCESSFUL":
                broken(f"{what}: {(errors or [{}])[-1].get('traceback', '')[-500:]}")
            elif not times:
                broken(f"{what} has no effect")
            if times > 1 and (kind in ("atomic", "once") or times > attempts):
                broken(f"{what} ran too often")
        if missing:
            broken(f"{len(missing)} jobs are missing: {sorted(missing)[:3]}")
        if effects:
            broken(f"effects of no job: {list(effects.items())[:3]}")
        return count


def stuck() -> list[tuple[Any, ...]]:
    """Return what some jobs look like that have not ended."""
    left = Job.objects.exclude(status__in=("SUCCESSFUL", "FAILED", "CANCELLED"))
    return list(left.values_list("args", "status", "worker_id", "attempts", "lost", "run_at")[:5])
