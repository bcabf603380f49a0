"""Schedules."""

from contextlib import suppress
from datetime import UTC, datetime

from django.utils.timezone import get_default_timezone, is_naive, make_naive

from durable_tasks import clock, schedules
from durable_tasks.exceptions import ScheduleExhausted
from durable_tasks.schedules import Duration

__all__ = ["Crontab", "CrontabParseError", "Duration", "Every", "Schedule", "ScheduleExhausted"]

CrontabParseError = ValueError


class Schedule(schedules.Schedule):
    """A schedule of one's own: derive from it and write ``first``."""

    def first(self, after: datetime) -> datetime | None:
        """Return the first time after ``after``, or None; both are naive, in Django's default time
        zone."""
        raise NotImplementedError(f"{type(self).__qualname__} must define first().")

    def next(self, after: datetime | None = None, until: datetime | None = None) -> datetime:
        """Return the first time after ``after``, or from now on; aware if that is.

        Raises ``ScheduleExhausted`` if there is none up to and including ``until``.
        """
        after = clock.now() if after is None else after
        here = getattr(self, "timezone", get_default_timezone())
        time = self.first(after if is_naive(after) else make_naive(after, here))
        if time is not None and is_naive(time) and not is_naive(after):
            # Of an hour that comes twice, the second if the first is over.
            passes = [time.replace(tzinfo=here, fold=fold) for fold in (0, 1)]
            time = passes[passes[0].timestamp() <= after.timestamp()].astimezone(UTC)
        if time is None or (until is not None and time > until):
            raise ScheduleExhausted(f"{self!r} has no time after {after}.")
        return time


class _BuiltIn(Schedule):
    """A schedule that is complete; a class that derives from it may have a ``first`` of its own."""

    def first(self, after: datetime) -> datetime | None:
        """Return the first time after ``after``, or None."""
        with suppress(ScheduleExhausted):
            return self._next(after, None)
        return None

    def next(self, after: datetime | None = None, until: datetime | None = None) -> datetime:
        has_its_own = type(self).first is not _BuiltIn.first
        return super().next(after, until) if has_its_own else self._next(after, until)

    def _next(self, after: datetime | None, until: datetime | None) -> datetime:
        # Past that of Schedule, which asks first().
        return super(Schedule, self).next(after, until)  # type: ignore[safe-super,arg-type]


class Crontab(_BuiltIn, schedules.Crontab):
    __doc__ = schedules.Crontab.__doc__


class Every(_BuiltIn, schedules.Every):
    __doc__ = schedules.Every.__doc__
