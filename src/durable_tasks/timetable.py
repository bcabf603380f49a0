"""Periodic tasks as settings and code have them, and the times at which they are to run."""

import hashlib
import json
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.utils.timezone import is_naive, make_aware, make_naive

from .compat import AnyTask
from .models import MAX_PATH
from .periodic import Periodic
from .results import dumps, find_task
from .schedules import Schedule, ScheduleExhausted

# With catch_up="all": of so many missed times at most, the latest, each gets its run.
MAX_CATCH_UP = 1000
# With catch_up="none": a time that went by so long ago counts as missed.
MISSED_AFTER = timedelta(minutes=1)


@dataclass(frozen=True)
class Entry:
    """A periodic task as settings and code have it."""

    name: str
    periodic: Periodic
    task: AnyTask
    when: Schedule

    @cached_property
    def columns(self) -> dict[str, Any]:
        """What its row says, but for its state."""
        periodic = self.periodic
        fixed = periodic.is_fixed
        columns = {
            "task_path": self.task.module_path,
            "spec": str(self.when)[:MAX_PATH],
            "time_zone": str(getattr(self.when, "timezone", "")),
            "args": json.loads(dumps(periodic.make_args(), "args")) if fixed else None,
            "kwargs": json.loads(dumps(periodic.make_kwargs(), "kwargs")) if fixed else None,
            "queue_name": self.task.queue_name,
            "priority": self.task.priority,
            "catch_up": periodic.catch_up,
            "overlap": periodic.overlap,
        }
        text = json.dumps(columns, sort_keys=True)
        return {**columns, "definition": hashlib.sha256(text.encode()).hexdigest()}


def entry_of(backend_name: str, name: str, periodic: Periodic) -> Entry:
    """Return a periodic task of a backend with its task and its schedule.

    Raises ``TaskNotFound``, ``InvalidTask``, ``NotSerializable``, and ``ValueError`` or
    ``TypeError`` for what it is given.
    """
    changes: dict[str, Any] = {"backend": backend_name}
    if periodic.queue_name is not None:
        changes["queue_name"] = periodic.queue_name
    if periodic.priority is not None:
        changes["priority"] = periodic.priority
    task = find_task(periodic.task or name).using(**changes)
    # The seed is the same in each process: so is what is chosen for "~".
    entry = Entry(name, periodic, task, periodic.schedule(f"{backend_name}:{name}"))
    entry.columns  # noqa: B018  (so that bad arguments are found now)
    return entry


# Times: schedules are asked with a time zone, rows are as the settings want them ---------------


def next_time(when: Schedule, after: datetime) -> datetime | None:
    """Return the first time after ``after``, naive if that is; None if there is none."""
    try:
        if not is_naive(after):
            return when.next(after)
        # The second pass of an hour that comes twice can't be told from the first: left out.
        times = map(make_naive, when.dates(make_aware(after)))
        return next(time for time in times if time > after)
    except (ScheduleExhausted, StopIteration):
        return None


def due_times(when: Schedule, first: datetime, now: datetime, catch_up: str) -> list[datetime]:
    """Return the times from ``first``, which is one, up to ``now`` that are to have a run."""
    if catch_up == "all":
        times = deque([first], maxlen=MAX_CATCH_UP)
        while (after := next_time(when, times[-1])) is not None and after <= now:
            times.append(after)
        return list(times)
    last = _last_time(when, first, now)
    if catch_up == "none" and last < now - MISSED_AFTER:
        return []
    return [last]


def _last_time(when: Schedule, first: datetime, now: datetime) -> datetime:
    """Return the last time that is not after ``now``, by halves: there may have been millions."""
    low, high = first, now
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        after = next_time(when, middle)
        if after is None or after > now:
            high = middle
        else:
            low = after
    while (after := next_time(when, low)) is not None and after <= now:
        low = after
    return low
