"""When a periodic task is due: crontabs, lengths of time, and schedules of one's own.

Pure functions of the time, but where none is given: nothing here looks at a database.
"""

import random
import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from django.utils.timezone import get_default_timezone, is_naive

from . import clock
from .exceptions import ScheduleExhausted

MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


def parse_schedule(
    spec: Any, *, timezone: tzinfo | str | None = None, seed: str | int | None = None
) -> "Schedule":
    """Return the schedule that ``spec`` is or describes.

    ``spec``: a ``Schedule``, a crontab, or a length of time (text such as ``"1h"``, a number of
    seconds, a ``timedelta``). ``timezone`` and ``seed``: of a crontab, see ``Crontab``.
    Raises ``ValueError`` or ``TypeError`` that says what is wrong.
    """
    schedule: Schedule
    if isinstance(spec, Crontab) and timezone is None:
        return spec.seeded(seed)
    if isinstance(spec, str) and _LENGTH.fullmatch(spec.strip()):
        schedule = Every(spec)
    elif isinstance(spec, str):
        if len(spec.split()) == 1 and not spec.strip().startswith("@"):
            raise ValueError(
                f'{spec!r} is neither a length of time such as "1h30m" nor a crontab of five '
                'fields such as "0 3 * * *".'
            )
        return Crontab(spec, timezone=timezone, seed=seed)
    elif isinstance(spec, Schedule):
        schedule = spec
    elif isinstance(spec, (int, float, timedelta)):
        schedule = Every(spec)
    else:
        raise TypeError(
            "A schedule must be a crontab, a length of time, a number of seconds, a timedelta or "
            f"a Schedule, not {spec!r}."
        )
    if timezone is not None:
        raise ValueError(
            f"A time zone ({timezone}) goes with the text of a crontab only, not with {spec!r}."
        )
    return schedule


class Schedule(ABC):
    """The times at which something is due, without an end or with one.

    One's own needs to write ``next`` only. Times are aware, or all naive: then they are what the
    clock on the wall shows.
    """

    @abstractmethod
    def next(self, after: datetime, until: datetime | None = None) -> datetime:
        """Return the first time after ``after``; it may be ``until``, but not later.

        Raises ``ScheduleExhausted`` if there is none.
        """

    def first(self, after: datetime) -> datetime | None:
        """Return the first time after ``after``, or None if there is none."""
        try:
            return self.next(after)
        except ScheduleExhausted:
            return None

    def dates(
        self, after: datetime | None = None, until: datetime | None = None
    ) -> Iterator[datetime]:
        """Yield all times after ``after``, or from now on, up to and including ``until``.

        Raises ``ValueError`` if ``next`` returns a time that is no later.
        """
        after = _plain(clock.now() if after is None else after)
        while True:
            try:
                time = self.next(after, until)
            except ScheduleExhausted:
                return
            following = _plain(time)
            _alike(following, after)
            if following <= after:
                raise ValueError(f"{self!r}.next({after}) must be later, not {time}.")
            if until is not None and following > _plain(until):
                return
            yield time
            after = following

    def match(self, time: datetime) -> bool:
        """Return whether ``time`` is one of the times."""
        time = _plain(time)
        try:
            return _plain(self.next(time - MICROSECOND, time)) == time
        except (ScheduleExhausted, OverflowError):
            return False

    def __str__(self) -> str:
        """The schedule as it is stored and shown; equal schedules have the same."""
        kind = type(self)
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{kind.__module__}.{kind.__qualname__}" + (f"({arguments})" if arguments else "")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def _plain(time: Any) -> datetime:
    """Return an aware time in UTC, and a naive one as it is.

    Between two times of one zone, Python looks at their clocks only: the second 02:10 of a night
    would come before the first 02:20.
    """
    if not isinstance(time, datetime):
        raise TypeError(f"A schedule's times must be datetimes, not {time!r}.")
    if time.utcoffset() is None:
        return time.replace(tzinfo=None)
    return time.astimezone(UTC)


def _alike(time: datetime, other: datetime) -> None:
    if (time.tzinfo is None) != (other.tzinfo is None):
        raise TypeError(f"{time} and {other} must both have a time zone, or both none.")


class _BuiltIn(Schedule):
    def next(self, after: datetime | None = None, until: datetime | None = None) -> datetime:
        """Return the first time after ``after``, or from now on, and not after ``until``: in UTC,
        or naive if they are.

        Raises ``ScheduleExhausted`` if there is none.
        """
        start = _plain(clock.now() if after is None else after)
        end = None if until is None else _plain(until)
        if end is not None:
            _alike(start, end)
        try:
            time = self._first_after(start)
        except OverflowError:  # past the year 9999
            time = None
        if time is None or (end is not None and time > end):
            limit = "" if until is None else f" and up to {until}"
            raise ScheduleExhausted(f"{self!r} has no time after {start}{limit}.")
        return time

    @abstractmethod
    def _first_after(self, after: datetime) -> datetime | None:
        """Return the first time after one that is naive or in UTC; None if there is none."""


# Every so often ---------------------------------------------------------------------------------

_UNITS = {
    "w": timedelta(weeks=1),
    "d": DAY,
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": SECOND,
}
_NUMBER = r"[0-9]{1,15}"
_FRACTION = rf"{_NUMBER}(?:\.[0-9]{{1,6}})?"
_UNIT = r"\s*(w(?:eeks?)?|d(?:ays?)?|h(?:ours?)?|m(?:in(?:ute)?s?)?)"
_PART = rf"(?:({_NUMBER}){_UNIT}|({_FRACTION})\s*s(?:ec(?:ond)?s?)?)"
_PARTS = re.compile(_PART, re.IGNORECASE)
_LENGTH = re.compile(rf"(?:{_PART}\s*)+|{_FRACTION}", re.IGNORECASE)


class Duration(timedelta):
    """A length of time, written as text such as ``"2w3d7h21m10s"`` or ``"1 day"``.

    ``value``: such a text, a number of seconds, as text or not, or a ``timedelta``. Not negative.
    Raises ``ValueError`` or ``TypeError`` for others.
    """

    def __new__(cls, value: str | float | timedelta) -> Self:
        if isinstance(value, bool) or not isinstance(value, (str, int, float, timedelta)):
            raise TypeError(
                f"A length of time must be text, a number of seconds or a timedelta, not {value!r}."
            )
        try:
            length = _length(value)
        except (OverflowError, ValueError):
            length = None
        if length is None or length < timedelta():
            raise ValueError(
                f'{value!r} is no length of time. Write "90" for seconds, or weeks, days, hours, '
                'minutes and seconds, as in "2w3d7h21m10s" or "1h30m".'
            )
        return super().__new__(cls, length.days, length.seconds, length.microseconds)

    def __str__(self) -> str:
        rest: timedelta = self
        text = ""
        for unit, size in list(_UNITS.items())[:-1]:
            count, rest = divmod(rest, size)
            text += f"{count}{unit}" if count else ""
        if rest or not text:
            text += f"{rest.seconds}.{rest.microseconds:06}".rstrip("0").rstrip(".") + "s"
        return text

    def __repr__(self) -> str:
        return f'Duration("{self}")'

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)


def _length(value: str | float | timedelta) -> timedelta | None:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        return timedelta(seconds=value)
    text = value.strip()
    if _LENGTH.fullmatch(text) is None:
        return None
    if text[-1].isdigit():
        return timedelta(seconds=float(text))
    return sum(
        (
            int(count) * _UNITS[unit[0].lower()] if unit else timedelta(seconds=float(seconds))
            for count, unit, seconds in _PARTS.findall(text)
        ),
        timedelta(),
    )


class Every(_BuiltIn):
    """Once every ``period``, counted from ``start`` without drift; nothing before ``start``.

    ``period``: a ``Duration`` or what makes one, at least a second. ``start``: a ``datetime``;
    without one, midnight of 1970-01-01 in UTC, so that all workers count alike. Naive times are
    counted on the clock on the wall, and a ``start`` of the other kind is read in Django's default
    time zone.
    """

    def __init__(
        self, period: Duration | timedelta | float | str, start: datetime | None = None
    ) -> None:
        self.period = Duration(period)
        if self.period < SECOND:
            raise ValueError(f"A period must be at least 1 second, not {period!r}.")
        self.start = None if start is None else _plain(start)

    def __str__(self) -> str:
        return f"{self.period}" + (f" from {self.start.isoformat()}" if self.start else "")

    def match(self, time: datetime) -> bool:
        """Return whether one of the times is in the second of ``time``."""
        second = _plain(time).replace(microsecond=0)
        try:
            self.next(second - MICROSECOND, second + SECOND - MICROSECOND)
        except (ScheduleExhausted, OverflowError):
            return False
        return True

    def _first_after(self, after: datetime) -> datetime | None:
        origin = self.start or datetime(1970, 1, 1, tzinfo=after.tzinfo)
        if is_naive(origin) and not is_naive(after):
            origin = origin.replace(tzinfo=get_default_timezone()).astimezone(UTC)
        elif is_naive(after) and not is_naive(origin):
            origin = origin.astimezone(get_default_timezone()).replace(tzinfo=None)
        return origin + max(0, (after - origin) // self.period + 1) * self.period


# Crontabs ---------------------------------------------------------------------------------------


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    open_high: int  # of a "~" that names no end
    allowed: str
    names: tuple[str, ...] = ()  # of the values from ``low`` on

    def number(self, text: str) -> int:
        short = [name[:3] for name in self.names]
        return self.low + short.index(text) if text in short else int(text)

    def shortened(self, text: str) -> str:
        """Return the text with three letters for each name: MON for MONDAY or MOND."""

        def short(found: re.Match[str]) -> str:
            known = any(name.startswith(found[0]) for name in self.names)
            return found[0][:3] if known else found[0]

        return re.sub("[A-Z]{4,}", short, text)


_FIELDS = (
    _Field("minute", 0, 59, 59, "0-59"),
    _Field("hour", 0, 23, 23, "0-23"),
    # Each month has a day 28.
    _Field("day of month", 1, 31, 28, "1-31, L (the last), LW (the last from Monday to Friday)"),
    _Field(
        "month",
        1,
        12,
        12,
        "1-12, jan-dec",
        (
            *("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE"),
            *("JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER"),
        ),
    ),
    _Field(
        "weekday",
        0,
        7,
        6,
        "0-7 (0 and 7 are Sunday), sun-sat, 5L (the last Friday), mon#1 (the first Monday)",
        ("SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY"),
    ),
)
_SHORTHANDS = {
    "@HOURLY": "0 * * * *",
    "@DAILY": "0 0 * * *",
    "@MIDNIGHT": "0 0 * * *",
    "@WEEKLY": "0 0 * * 0",
    "@MONTHLY": "0 0 1 * *",
    "@YEARLY": "0 0 1 1 *",
    "@ANNUALLY": "0 0 1 1 *",
}
_RANDOM = re.compile("(?P<low>[A-Z0-9]*)~(?P<high>[A-Z0-9]*)(?:/(?P<step>[0-9]+))?")
_SOME_DAY = datetime(2000, 1, 1)


class Crontab(_BuiltIn):
    """The times of a crontab's five fields, or of ``@hourly``, ``@daily`` and so on.

    ``timezone``: a ``tzinfo`` or the name of one; None is Django's default time zone. ``~`` in a
    field is a random value, or one of a range as in ``1~15``. With a ``seed`` it is the same
    wherever and whenever it is drawn; without, each object draws its own.

    When a clock is set forward or back, it depends on minutes and hours. If one of them begins with
    ``*``, the times are those that the clock shows: none that it leaves out, and twice what it
    shows twice. If not, a time that is left out comes as soon as the clock has been set, and a time
    that is shown twice comes the first time only. This is the rule of Debian's cron.

    Raises ``ValueError`` for what is no crontab, never comes, or no time zone.
    """

    def __init__(
        self,
        spec: str,
        timezone: tzinfo | str | None = None,
        seed: str | int | None = None,
    ) -> None:
        if not isinstance(spec, str):
            raise TypeError(f"A crontab must be text, not {spec!r}.")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (str, int))):
            raise TypeError(f"A seed must be text or a whole number, not {seed!r}.")
        self._given = spec, seed
        self._timezone = _timezone_of(timezone)
        fields = _resolved(spec, random.Random(seed))
        self._spec = " ".join(fields)
        self._by_the_clock = fields[0].startswith("*") or fields[1].startswith("*")
        try:
            next(CronSim(self._spec, _SOME_DAY))
        except (CronSimError, StopIteration) as error:
            drawn = f' ("{self._spec}")' if "~" in spec else ""
            raise ValueError(
                f"The crontab {spec!r} never comes: no month has such a day{drawn}."
            ) from error

    def __str__(self) -> str:
        return self._spec

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.timezone == other.timezone  # type: ignore[attr-defined]

    __hash__ = _BuiltIn.__hash__

    def seeded(self, seed: str | int | None) -> "Crontab":
        """Return the same crontab; if it had no seed, with this one."""
        spec, own = self._given
        if own is not None or "~" not in spec:
            return self
        drawn = copy(self)
        Crontab.__init__(drawn, spec, self._timezone, seed)
        return drawn

    @property
    def timezone(self) -> tzinfo:
        return self._timezone or get_default_timezone()

    def match(self, time: datetime) -> bool:
        """Return whether the minute of ``time`` is one of the times."""
        time = _plain(time)
        here = time.astimezone(self.timezone) if time.tzinfo else time
        return super().match(here.replace(second=0, microsecond=0))

    def _first_after(self, after: datetime) -> datetime | None:
        if after.tzinfo is None:
            return next(CronSim(self._spec, after), None)
        zone = self.timezone
        here = after.astimezone(zone)
        wall = here.replace(tzinfo=None)
        first = None
        # What the clock shows again when it is set back soon may be next.
        for shown in CronSim(self._spec, wall - _set_back(here)):
            for time in self._moments(shown, zone):
                if time > after and (first is None or time < first):
                    first = time
            if first is not None and shown > wall:
                break
        return first

    def _moments(self, shown: datetime, zone: tzinfo) -> tuple[datetime, ...]:
        """Return when in UTC a time is due that the clock of the zone shows once, twice or never.

        Python gives two offsets to such a time (PEP 495): ``fold=0`` that of before the clock is
        set, ``fold=1`` that of after.
        """
        before, after = (shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if before == after:
            return (before,)
        if before < after:  # twice
            return (before, after) if self._by_the_clock else (before,)
        return () if self._by_the_clock else (_set_forward(after, before, zone),)


def _set_back(here: datetime) -> timedelta:
    """Return how far the clock of its zone will be set back so soon after ``here`` that it shows
    again what it showed before."""
    now, zone = here.astimezone(UTC), here.tzinfo
    within_a_day = _offset(here) - _offset((now + DAY).astimezone(zone))
    soon = now + max(timedelta(), within_a_day)
    return max(timedelta(), _offset(here) - _offset(soon.astimezone(zone)))


def _set_forward(early: datetime, late: datetime, zone: tzinfo) -> datetime:
    """Return the moment between two of UTC at which the clock of the zone is set."""
    offset = _offset(late.astimezone(zone))
    seconds = bisect_left(
        range((late - early) // SECOND),
        True,
        key=lambda count: _offset((early + count * SECOND).astimezone(zone)) == offset,
    )
    return early + seconds * SECOND


def _offset(time: datetime) -> timedelta:
    return time.utcoffset() or timedelta()


def _timezone_of(given: Any) -> tzinfo | None:
    if given is None or isinstance(given, tzinfo):
        return given
    if not isinstance(given, str):
        raise TypeError(f"A time zone must be a tzinfo or the name of one, not {given!r}.")
    try:
        return ZoneInfo(given)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f'{given!r} is no time zone that is known here; names are such as "Europe/Berlin".'
        ) from error


def _resolved(spec: str, source: random.Random) -> list[str]:
    """Return the five fields, in capitals, with a drawn value in the place of each ``~``.

    Raises ``ValueError`` that names the field which is wrong.
    """
    text = spec.strip().upper()
    if text == "@REBOOT":
        raise ValueError("The crontab '@reboot' is no time: a schedule does not know of starts.")
    if text.startswith("@") and text not in _SHORTHANDS:
        known = ", ".join(_SHORTHANDS).lower()
        raise ValueError(f"The crontab {spec!r} is unknown; with an @ there are {known}.")
    fields = _SHORTHANDS.get(text, text).split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"The crontab {spec!r} must have five fields (minute, hour, day of month, month, "
            f"weekday), not {len(fields)}. For every so often, write a length of time such as "
            '"10s" or "1h30m".'
        )
    return [_resolved_field(spec, place, each, source) for place, each in enumerate(fields)]


def _resolved_field(spec: str, place: int, text: str, source: random.Random) -> str:
    field = _FIELDS[place]
    alone = ["*"] * len(_FIELDS)
    # For cronsim, "5-5/2" has no end.
    plain = re.sub(r"\b(\w+)-\1/[1-9][0-9]*", r"\1", field.shortened(text))
    if field.name == "weekday":  # as the end of a range, Sunday is the 7 and not the 0
        plain = re.sub("(?<=[-~])SUN", "7", plain)
    try:
        alone[place] = ",".join(
            _drawn(item, field, source) if "~" in item else item for item in plain.split(",")
        )
        CronSim(" ".join(alone), _SOME_DAY)
    except (CronSimError, ValueError) as error:
        raise ValueError(
            f"The crontab {spec!r} has a wrong {field.name}, {text.lower()!r}. Allowed: "
            f"{field.allowed}; of these * (all), lists (1,2), ranges (1-5), steps (*/5, 1-5/2), "
            "and ~ or 1~5 (random)."
        ) from error
    return alone[place]


def _drawn(item: str, field: _Field, source: random.Random) -> str:
    """Return a random value for ``low~high``; with a step, all from a random one of the first."""
    found = _RANDOM.fullmatch(item)
    if found is None:
        raise ValueError(item)
    low = field.number(found["low"]) if found["low"] else field.low
    high = field.number(found["high"]) if found["high"] else field.open_high
    count = high - low + 1
    step = int(found["step"]) if found["step"] else count
    if not field.low <= low <= high <= field.high or step < 1:
        raise ValueError(item)
    # random() is the one method that draws the same in every version of Python.
    first = low + int(source.random() * min(step, count))
    return str(first) if first + step > high else f"{first}-{high}/{step}"
