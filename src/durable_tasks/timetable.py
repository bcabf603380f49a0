"""Periodic tasks as settings and code have them, and the times at which they are to run."""

import hashlib
import json
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from inspect import signature
from typing import Any

from django.utils.timezone import get_default_timezone, is_naive, make_aware, make_naive, now

from .compat import AnyTask
from .models import MAX_NAME, MAX_PATH, PeriodicTask
from .periodic import Periodic
from .results import dumps, find_task
from .schedules import Schedule

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
            "time_zone": str(getattr(self.when, "timezone", ""))[:MAX_NAME],
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
    # So that what is bad is found now.
    if " at 0x" in str(entry.when):
        raise ValueError(
            f"str() of its schedule is different in each process: {entry.when}. Write a __str__()."
        )
    entry.columns  # noqa: B018
    if periodic.is_fixed:
        _check_call(task, periodic.make_args(), periodic.make_kwargs())
    if (first := next_time(entry.when, now())) is not None:
        next_time(entry.when, first)
    return entry


# What a row of a periodic task made in the database says of it.
ROW_COLUMNS = (
    *("task_path", "spec", "time_zone", "args", "kwargs", "queue_name", "priority", "catch_up"),
    "overlap",
)


def entry_of_row(row: PeriodicTask) -> Entry:
    """Return a periodic task that was made in the database.

    Its task is imported: the caller knows that it may be. Raises what ``entry_of`` does.
    """
    periodic = Periodic(
        row.spec,
        row.args or [],
        row.kwargs or {},
        task=row.task_path,
        queue_name=row.queue_name,
        priority=row.priority,
        timezone=row.time_zone or None,
        catch_up=row.catch_up,  # type: ignore[arg-type]
        overlap=row.overlap,  # type: ignore[arg-type]
    )
    return entry_of(row.backend_name, row.name, periodic)


def _check_call(task: AnyTask, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Raise ``TypeError`` if the task can't be called like this."""
    try:
        signature(task.func).bind(*([None] if task.takes_context else []), *args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"{task.module_path} can't be called with its arguments: {error}."
        ) from None


# Times ----------------------------------------------------------------------------------------


def next_time(when: Schedule, after: datetime) -> datetime | None:
    """Return the first time after ``after``, naive if that is; None if there is none.

    Raises ``ValueError`` or ``TypeError`` for what a schedule should not return.
    """
    here = get_default_timezone()
    if not is_naive(after) or getattr(when, "timezone", here) == here:
        return next(when.dates(after), None)
    # The second pass of an hour that comes twice can't be told from the first: left out.
    times = (make_naive(time, here) for time in when.dates(make_aware(after, here)))
    return next((time for time in times if time > after), None)


def due_times(when: Schedule, first: datetime, until: datetime, catch_up: str) -> list[datetime]:
    """Return the times from ``first``, which is one, to ``until`` that are to have a run."""
    if catch_up == "all":
        times = deque([first], maxlen=MAX_CATCH_UP)
        while (after := next_time(when, times[-1])) is not None and after <= until:
            times.append(after)
        return list(times)
    last = _last_time(when, first, until)
    if catch_up == "none" and last < until - MISSED_AFTER:
        return []
    return [last]


def _last_time(when: Schedule, first: datetime, until: datetime) -> datetime:
    """Return the last time that is not after ``until``, by halves: there may have been millions."""
    low, high = first, until
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        after = next_time(when, middle)
        if after is None or after > until:
            high = middle
        else:
            low = after
    while (after := next_time(when, low)) is not None and after <= until:
        low = after
    return low
