"""The engine's clock, which a test can stop and move."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from inspect import isclass, iscoroutinefunction
from typing import Any

from django.conf import settings
from django.utils import timezone

from .. import clock
from ..retry import seconds_of


class FrozenTime:
    """The engine's clock while it stands still."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def __call__(self) -> datetime:
        return self._at

    @property
    def now(self) -> datetime:
        """The time, as Django's settings want it: aware, or naive local time."""
        return self._at if settings.USE_TZ else timezone.make_naive(self._at)

    def tick(self, by: float | timedelta = 1.0) -> None:
        """Let this much time pass: seconds, or a ``timedelta``."""
        self._at += timedelta(seconds=seconds_of(by, "by"))

    def move_to(self, when: datetime | str) -> None:
        """Make it this time, later or earlier; see ``frozen_time()``."""
        self._at = _time(when)


def frozen_time(when: datetime | str | None = None) -> "FrozenBlock":
    """Let the engine's clock stand still: what it enqueues, finds due, and writes.

    ``when``: a datetime or the ISO text of one, in the project's time zone if it names none; None:
    now. A block, which gives what moves the clock on, or a decorator of functions, coroutine
    functions too. It is the engine's clock only, for ``run_tasks()`` and a runner in this process;
    ``timezone.now()`` in the project's own code is not its business.
    """
    return FrozenBlock(when)


class FrozenBlock(ContextDecorator):
    """What ``frozen_time()`` returns."""

    def __init__(self, when: datetime | str | None) -> None:
        self._when = when
        self._moved: list[AbstractContextManager[None]] = []

    def __enter__(self) -> FrozenTime:
        frozen = FrozenTime(datetime.now(UTC) if self._when is None else _time(self._when))
        moved = moved_clock(frozen)
        moved.__enter__()
        self._moved.append(moved)
        return frozen

    def __exit__(self, *exception: Any) -> None:
        self._moved.pop().__exit__(*exception)

    def __call__(self, function: Any) -> Any:
        if isclass(function):
            raise TypeError(
                "frozen_time() decorates functions. For all tests of a class, use "
                "self.enterContext(frozen_time(...)) in its setUp()."
            )
        if not iscoroutinefunction(function):
            return super().__call__(function)

        @wraps(function)
        async def frozen(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return frozen


@contextmanager
def moved_clock(source: Callable[[], datetime]) -> Iterator[None]:
    """Let ``source`` tell the engine's time, aware, during the block."""
    before, clock.source = clock.source, source
    try:
        yield
    finally:
        clock.source = before


def _time(when: datetime | str) -> datetime:
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError as error:
            raise ValueError(f'{when!r} is no time such as "2026-03-01 12:00".') from error
    if not isinstance(when, datetime):
        raise TypeError(f"A time must be a datetime or the text of one, not {when!r}.")
    return when if timezone.is_aware(when) else timezone.make_aware(when)
