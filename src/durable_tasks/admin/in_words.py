"""A schedule in words, where words tell the truth: ``at 06:00 on Monday to Friday``."""

import re
from collections.abc import Sequence
from datetime import timedelta

from django.utils.dates import MONTHS, WEEKDAYS
from django.utils.text import get_text_list
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..schedules import Duration

# More than so many times or days are no help to a reader.
MOST = 4
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS = (*("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),)
_STEP = re.compile(r"\*/([1-9][0-9]*)")


def in_words(spec: str) -> str:
    """Return a crontab, as it is resolved, or a length of time in words; others as they are."""
    fields = spec.split()
    if len(fields) != 5 or " from " in spec:
        return _every(spec) or spec
    minute, hour, day, month, weekday = fields
    time, is_at = _time(minute, hour)
    days = _days(day, weekday)
    months = _months(month)
    if time is None or days is None or months is None:
        return spec
    if is_at and not days:
        days = _("every day")
    return " ".join(part for part in (time, days, months) if part)


def _every(spec: str) -> str | None:
    try:
        length = Duration(spec)
    except ValueError:
        return None
    for size, words in (
        (timedelta(weeks=1), _weeks),
        (timedelta(days=1), _some_days),
        (timedelta(hours=1), _hours),
        (timedelta(minutes=1), _minutes),
        (timedelta(seconds=1), _seconds),
    ):
        count, rest = divmod(length, size)
        if count and not rest:
            return words(count)
    return _("every %(length)s") % {"length": length}


def _weeks(count: int) -> str:
    return _filled(ngettext("every week", "every %d weeks", count), count)


def _some_days(count: int) -> str:
    return _filled(ngettext("every day", "every %d days", count), count)


def _hours(count: int) -> str:
    return _filled(ngettext("every hour", "every %d hours", count), count)


def _minutes(count: int) -> str:
    return _filled(ngettext("every minute", "every %d minutes", count), count)


def _seconds(count: int) -> str:
    return _filled(ngettext("every second", "every %d seconds", count), count)


def _filled(text: str, number: int) -> str:
    return text % number if "%d" in text else text


def _time(minute: str, hour: str) -> tuple[str | None, bool]:
    """Return the words for minute and hour, and whether they name times of the day."""
    minutes, hours = _numbers(minute), _numbers(hour)
    every_minutes, every_hours = _step(minute, 60), _step(hour, 24)
    if minutes and hours and len(minutes) * len(hours) <= MOST:
        times = [f"{h:02}:{m:02}" for h in hours for m in minutes]
        return _("at %(times)s") % {"times": _listed(times)}, True
    if every_minutes and hour == "*":
        return _minutes(every_minutes), False
    if every_minutes and (found := re.fullmatch(r"(\d+)(?:-(\d+))?", hour)):
        span = {"first": f"{int(found[1]):02}:00", "last": f"{int(found[2] or found[1]):02}:59"}
        between = _("from %(first)s to %(last)s") % span
        return f"{_minutes(every_minutes)} {between}", False
    if minutes and len(minutes) <= MOST and every_hours:
        text = _hours(every_hours)
        if minutes == [0]:
            return text, False
        numbers = _listed([str(number) for number in minutes])
        at = ngettext("at minute %(numbers)s", "at minutes %(numbers)s", len(minutes))
        return f"{text} {at % {'numbers': numbers}}", False
    return None, False


def _step(text: str, whole: int) -> int | None:
    """Return how many lie between two, if that is always the same; 1 for all."""
    if text == "*":
        return 1
    found = _STEP.fullmatch(text)
    return int(found[1]) if found and whole % int(found[1]) == 0 else None


def _days(day: str, weekday: str) -> str | None:
    """Return the words for days; "" for all, None if there are none."""
    if day == "*" and weekday == "*":
        return ""
    if day == "*":
        names = _names(weekday, _WEEKDAYS, lambda number: str(WEEKDAYS[(number - 1) % 7]))
        return names and _("on %(days)s") % {"days": names}
    if weekday != "*":
        return None  # cron means either of the two, which no reader expects
    if day == "L":
        return _("on the last day of the month")
    if day == "LW":
        return _("on the last day of the month from Monday to Friday")
    numbers = _numbers(day)
    if not numbers or len(numbers) > MOST:
        return None
    text = ngettext("on day %(days)s of the month", "on days %(days)s of the month", len(numbers))
    return text % {"days": _listed([str(number) for number in numbers])}


def _months(month: str) -> str | None:
    if month == "*":
        return ""
    names = _names(month, _MONTHS, lambda number: str(MONTHS[number + 1]), first=1)
    return names and _("in %(months)s") % {"months": names}


def _names(text: str, short: Sequence[str], name: object, first: int = 0) -> str | None:
    """Return the names that a field stands for; ``first``: what its first value is called."""
    assert callable(name)
    found = []
    for item in text.split(","):
        ends = []
        for end in item.split("-"):
            if end in short:
                ends.append(name(short.index(end)))
            elif end.isdigit():
                ends.append(name(int(end) - first))
            else:
                return None
        if len(ends) > 2:
            return None
        found.append(
            _("%(first)s to %(last)s") % dict(zip(("first", "last"), ends, strict=True))
            if len(ends) == 2
            else ends[0]
        )
    return _listed(found) if len(found) <= MOST else None


def _numbers(text: str) -> list[int] | None:
    items = text.split(",")
    return sorted({int(item) for item in items}) if all(map(str.isdigit, items)) else None


def _listed(items: list[str]) -> str:
    return get_text_list(items, _("and"))
