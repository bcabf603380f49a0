"""Whether and when a job that failed runs again: pure functions of what happened.

Shaped as Django proposes it: ``backoff(exception, task_result)`` returns seconds or None.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .exceptions import Retry

Delay = float | timedelta
Backoff = Callable[[BaseException, Any], Delay | None]

# A job can't be put off for longer: later dates do not fit all databases.
LONGEST = 100 * 365 * 24 * 3600.0


def seconds_of(delay: Any, name: str) -> float:
    """Return a delay in seconds.

    Raises ``ValueError`` or ``TypeError``, with ``name``, if it is no number of seconds from 0 to a
    hundred years, and no such ``timedelta``.
    """
    if isinstance(delay, timedelta):
        delay = delay.total_seconds()
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise TypeError(f"{name} must be seconds or a timedelta, not {delay!r}.")
    if not 0 <= delay <= LONGEST:  # nor NaN
        raise ValueError(f"{name} must be 0 seconds to 100 years, not {delay!r}.")
    return float(delay)


# Ready-made ones ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class exponential:
    """Wait ``base`` seconds after the first failure and ``factor`` times as long after each more.

    ``maximum``: seconds, never longer than that. ``jitter``: the share of the wait by which it may
    be shorter or longer, at random, so that what failed together does not return together.
    """

    base: float = 1.0
    factor: float = 2.0
    maximum: float = 3600.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name in ("base", "maximum"):
            seconds_of(getattr(self, name), name)
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor must be 1 or more, not {self.factor!r}.")
        _check_jitter(self.jitter)

    def __call__(self, exception: BaseException, task_result: Any) -> float:
        try:
            wait = min(self.base * self.factor ** (_failures(task_result) - 1), self.maximum)
        except OverflowError:
            wait = self.maximum
        return _jittered(wait, self.jitter)


@dataclass(frozen=True, slots=True)
class fixed:
    """Always wait ``seconds``; ``jitter`` as in ``exponential``."""

    seconds: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        seconds_of(self.seconds, "seconds")
        _check_jitter(self.jitter)

    def __call__(self, exception: BaseException, task_result: Any) -> float:
        return _jittered(self.seconds, self.jitter)


class steps:
    """Wait the first of ``seconds`` after the first failure, and so on; then always the last."""

    def __init__(self, *seconds: float, jitter: float = 0.0) -> None:
        if not seconds:
            raise ValueError("steps() needs at least one number of seconds.")
        self.seconds = tuple(seconds_of(each, "Each step") for each in seconds)
        _check_jitter(jitter)
        self.jitter = jitter

    def __repr__(self) -> str:
        return f"steps{self.seconds}"

    def __call__(self, exception: BaseException, task_result: Any) -> float:
        step = min(_failures(task_result), len(self.seconds)) - 1
        return _jittered(self.seconds[step], self.jitter)


def _failures(task_result: Any) -> int:
    """How often the job failed by its own exception, this time included."""
    lost: int = getattr(task_result, "lost_runs", 0)
    return max(1, int(task_result.attempts) - lost)


def _check_jitter(jitter: float) -> None:
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter must be 0 to 1, not {jitter!r}.")


def _jittered(seconds: float, jitter: float) -> float:
    return seconds * random.uniform(1 - jitter, 1 + jitter) if jitter else seconds


# The decision ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """A task's rules. ``retry_on``: only these exceptions, if any are named; ``give_up_on``: not
    these, whatever else is said."""

    max_attempts: int
    backoff: Backoff
    retry_on: tuple[type[BaseException], ...] = ()
    give_up_on: tuple[type[BaseException], ...] = ()

    def delay(
        self, exception: BaseException, runs: int, make_result: Callable[[], Any]
    ) -> float | None:
        """Return the seconds until the next run, or None if there is none.

        ``runs``: how often the job ran to an end of its own, this time included.
        ``make_result``: returns what ``backoff`` gets. Raises what ``backoff`` raises, and
        ``ValueError`` or ``TypeError`` for what it should not have returned.
        """
        if runs >= self.max_attempts:
            return None
        if isinstance(exception, Retry):
            if exception.after is not None:
                return seconds_of(exception.after, "Retry(after)")
        elif (
            not isinstance(exception, Exception)  # SystemExit, KeyboardInterrupt
            or isinstance(exception, self.give_up_on)
            or (self.retry_on and not isinstance(exception, self.retry_on))
        ):
            return None
        delay = self.backoff(exception, make_result())
        return None if delay is None else seconds_of(delay, "What backoff returns")
