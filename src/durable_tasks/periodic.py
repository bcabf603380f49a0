"""What ``OPTIONS["periodic"]`` says: which task is enqueued when, and with what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from typing import Any, Literal, get_args

from .retention import UNSET, MaybeRetain, retain_of
from .schedules import Schedule, parse_schedule

type Spec = str | float | timedelta | Schedule
CatchUp = Literal["latest", "all", "none"]
Overlap = Literal["allow", "skip"]


@dataclass(frozen=True)
class Periodic:
    """A task that is enqueued at certain times.

    ``spec``: a crontab such as ``"30 3 * * 1-5"``; a period as text (``"1h"``), in seconds or as a
    ``timedelta``; or a ``Schedule``.
    ``args``, ``kwargs``: what the task is called with; callables, or values that are callables, are
    called without arguments at each run.
    ``retain``: how long its jobs stay once they have ended, as the option of that name; it wins
    over that and over the task's own.
    ``task``: its dotted path; without it, the key in ``OPTIONS["periodic"]`` is the path.
    ``queue_name``, ``priority``: instead of the task's own.
    ``timezone``: a name or a ``tzinfo`` for a crontab, instead of ``TIME_ZONE``.
    ``catch_up``: after times at which no worker ran: ``"latest"``, one run for all of them;
    ``"all"``, one for each; ``"none"``, no run.
    ``overlap``: ``"skip"`` leaves a time out at which the run before has not ended yet.

    Raises ``ValueError`` or ``TypeError`` that names the argument.
    """

    spec: Spec
    args: Sequence[Any] | Callable[[], Sequence[Any]] = ()
    kwargs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None
    retain: MaybeRetain = UNSET
    task: str | None = None
    queue_name: str | None = None
    priority: int | None = None
    timezone: str | tzinfo | None = None
    catch_up: CatchUp = "latest"
    overlap: Overlap = "allow"

    def __post_init__(self) -> None:
        args: Any = self.args
        if args is None:
            object.__setattr__(self, "args", ())
        for name, allowed in (("catch_up", CatchUp), ("overlap", Overlap)):
            if (value := getattr(self, name)) not in get_args(allowed):
                raise ValueError(f"{name} must be one of {get_args(allowed)}, not {value!r}.")
        for name, kind in (("task", str), ("queue_name", str), ("priority", int)):
            if not isinstance(value := getattr(self, name), (kind, type(None))):
                raise TypeError(f"{name} must be of type {kind.__name__}, not {value!r}.")
        if self.retain is not UNSET:
            retain_of(self.retain, "retain")
        if not callable(self.args):
            _checked("args", self.args, Sequence)
        if not callable(self.kwargs):
            _checked("kwargs", self.kwargs or {}, Mapping)

    @classmethod
    def of(cls, value: "Spec | Periodic") -> "Periodic":
        """Return what a value of ``OPTIONS["periodic"]`` stands for."""
        return value if isinstance(value, Periodic) else cls(value)

    def schedule(self, seed: str) -> Schedule:
        """Return when it runs; ``seed`` decides what is chosen for ``~``.

        Raises ``ValueError`` or ``TypeError`` that says what is wrong with ``spec``.
        """
        return parse_schedule(self.spec, timezone=self.timezone, seed=seed)

    @property
    def is_fixed(self) -> bool:
        """Whether each run gets the same arguments."""
        if callable(self.args) or callable(self.kwargs):
            return False
        return not any(map(callable, [*self.args, *(self.kwargs or {}).values()]))

    def make_args(self) -> list[Any]:
        """Return the positional arguments of a run. Raises what the project's callables raise."""
        args = _checked("args", _value(self.args), Sequence)
        return [_value(value) for value in args]

    def make_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments of a run. Raises what the project's callables raise."""
        kwargs = _checked("kwargs", _value(self.kwargs) or {}, Mapping)
        return {name: _value(value) for name, value in kwargs.items()}


def _value(value: Any) -> Any:
    return value() if callable(value) else value


def _checked(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, str) or not isinstance(value, kind):
        what = "a list" if kind is Sequence else "a dictionary"
        raise TypeError(f"{name} must be {what}, or a callable that returns one, not {value!r}.")
    return value
