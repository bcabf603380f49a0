"""How long ended jobs stay: pure rules, found once for each task."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .compat import AnyTask
from .exceptions import TaskNotFound
from .retry import seconds_of
from .schedules import Duration
from .statuses import JobStatus

if TYPE_CHECKING:
    from .options import Options


class Unset(Enum):
    """What a setting is that says nothing, where None says something."""

    UNSET = "unset"


UNSET = Unset.UNSET

# A time to stay as it is given; None: for ever.
type Retain = timedelta | float | str | None
type MaybeRetain = Retain | Literal[Unset.UNSET]

# In a mapping, the tasks that it does not name.
REST = "*"


def retain_of(value: Any, name: str) -> Duration | None:
    """Return how long jobs stay, None for ever; ``value``: None or what makes a ``Duration``.

    Raises ``ValueError``, with ``name``, for others and for more than a hundred years.
    """
    if value is None:
        return None
    try:
        time = Duration(value)
        seconds_of(time, name)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{name} must be a time up to 100 years, such as "7d", "1h30m", a number of seconds or '
            f"a timedelta, or None, not {value!r}."
        ) from error
    return time


def retain_by_path(value: Any, name: str) -> dict[str, Duration | None]:
    """Return how long jobs stay by the path of their task, with ``REST`` for all others.

    ``value``: one time for all, or a mapping; ``UNSET`` is an empty one. Raises ``ValueError``.
    """
    if value is UNSET:
        return {}
    if not isinstance(value, Mapping):
        return {REST: retain_of(value, name)}
    for path in value:
        if not isinstance(path, str):
            raise ValueError(
                f'{name} must have the paths of tasks as its keys, or "*", not {path!r}.'
            )
    return {path: retain_of(each, f'{name}["{path}"]') for path, each in value.items()}


class Rule(NamedTuple):
    """How long the jobs of a task stay once they have ended; None: for ever."""

    retain: Duration | None
    retain_failed: Duration | None  # FAILED or CANCELLED

    def time(self, status: str) -> Duration | None:
        """Return how long a job stays that has ended with this status."""
        return self.retain if status == JobStatus.SUCCESSFUL else self.retain_failed


class Retention(dict[str | tuple[str, str], Rule | None]):
    """The rules of one backend, by the path of a task, or by that and the name of the periodic
    task that made the job; None: such jobs stay for ever.

    ``backend_name``: its alias. ``find_task``: returns the task that a path names or raises
    ``TaskNotFound``.
    """

    def __init__(
        self, backend_name: str, options: "Options", find_task: Callable[[str], AnyTask]
    ) -> None:
        super().__init__()
        self.backend_name = backend_name
        self._retain = retain_by_path(options.retain, "retain")
        self._retain_failed = retain_by_path(options.retain_failed, "retain_failed")
        self._periodic = options.periodic
        self._find_task = find_task

    def of(self, path: str, schedule: str | None) -> Rule | None:
        """Return the rule for a job of this task that this periodic task has made, if one has."""
        return self[path if schedule is None else (path, schedule)]

    def __missing__(self, key: str | tuple[str, str]) -> Rule | None:
        path, name = (key, "") if isinstance(key, str) else key
        periodic = self._periodic.get(name)
        schedule = UNSET if periodic is None else periodic.retain
        try:
            task = self._find_task(path)
        except TaskNotFound:
            # Not kept: the next deploy may bring it.
            return self.decide(path, None, schedule=schedule)
        rule = self[key] = self.decide(path, task, schedule=schedule)
        return rule

    def decide(
        self, path: str, task: AnyTask | None, *, schedule: MaybeRetain = UNSET
    ) -> Rule | None:
        """Return the rule for jobs of a task, which is None if it is gone.

        ``schedule``: what the periodic task says that made the jobs. It wins over the task, and the
        task over the options. Where nothing says what becomes of failed jobs, what holds for the
        others holds for them.
        """
        retain = _first(
            schedule, getattr(task, "retain", UNSET), self._option(self._retain, path), None
        )
        failed = _first(
            schedule,
            getattr(task, "retain_failed", UNSET),
            self._option(self._retain_failed, path),
            retain,
        )
        rule = Rule(retain_of(retain, "retain"), retain_of(failed, "retain_failed"))
        return None if rule == (None, None) else rule

    def _option(self, by_path: dict[str, Duration | None], path: str) -> MaybeRetain:
        return by_path.get(path, by_path.get(REST, UNSET))


def _first(*said: MaybeRetain) -> Retain:
    return next(each for each in said if each is not UNSET)
