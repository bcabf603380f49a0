"""What people write into the search box, and times in links; pure."""

import json
import re
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from . import clock

# Of all values that are searched for: how many in all, and how deep they lie. What is asked for
# beyond that is no question of a person, and more than a database takes in one statement.
MOST_VALUES, MOST_LEVELS = 50, 20
# Times that no zone and no page moves out of the calendar.
_FIRST, _LAST = datetime(1900, 1, 1), datetime(9000, 1, 1)
# Hexadecimal digits of an id's beginning that are told from a part of a task's path.
LEAST_OF_AN_ID = 8

_KEY = re.compile(r"(?P<root>args|kwargs)(?P<path>(?:\.[^\s.=]+)+)=")
_OTHER_KEY = re.compile(r"[\w.]+=")
_AGO = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_decoder = json.JSONDecoder()


class SearchError(ValueError):
    """What was asked for can't be searched; the message says what can."""


def parse_text(text: str) -> dict[str, Any]:
    """Return the fields of a ``JobSearch`` that the text of the search box stands for.

    An id or its beginning, a part of a task's path, and values of arguments, separated by spaces:
    ``reports.send args.0=5 kwargs.user.name="Ada"``. Raises ``SearchError``.
    """
    found: dict[str, Any] = {}
    arguments: list[tuple[str, Any]] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif match := _KEY.match(text, at):
            value, at = _value(text, match.end())
            arguments.append((match["root"] + match["path"], value))
        else:
            at = _word(text, at, found)
    if arguments:
        _check(arguments)
        found["arguments"] = tuple(arguments)
    return found


def _check(arguments: list[tuple[str, Any]]) -> None:
    """Raise ``SearchError`` for values that no job can have, or too many or too deep ones."""
    count = 0
    left = [(path.count("."), path, value) for path, value in arguments]
    if any(_is_no_place(key) for path, value in arguments for key in path.split(".")):
        raise SearchError(_("Places in a list are numbered from 0 on."))
    while left:
        level, path, value = left.pop()
        texts: list[Any] = [*value] if isinstance(value, dict) else [value]
        if isinstance(value, dict | list):
            items = value.values() if isinstance(value, dict) else value
            left += [(level + 1, path, item) for item in items]
        if any(map(is_beyond, texts)) or (
            isinstance(value, dict) and any(map(_is_no_place, value))
        ):
            raise SearchError(_("What is asked for of “%s” is in no job.") % path[:100])
        count += 1
        if level > MOST_LEVELS or count + len(left) > MOST_VALUES:
            raise SearchError(
                _("This asks for too much at once: %(values)d values at most, %(levels)d deep.")
                % {"values": MOST_VALUES, "levels": MOST_LEVELS}
            )


def _is_no_place(key: str) -> bool:
    """Return whether a key is a number that databases take for a place in a list, and is none."""
    try:
        return not 0 <= int(key) < 1 << 31
    except ValueError:
        return False


def is_beyond(value: Any) -> bool:
    """Return whether no row can have this value: a text with a NUL or half a character, a number
    without an end, or a time at an end of the calendar."""
    match value:
        case str():
            return "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value)
        case float():
            return not isfinite(value)
        case datetime():
            return not _FIRST <= value.replace(tzinfo=None) <= _LAST
    return False


def _word(text: str, at: int, found: dict[str, Any]) -> int:
    """Note an id or a part of a path; return where it ends."""
    word = text[at:].split(None, 1)[0]
    if _OTHER_KEY.match(word):
        raise SearchError(
            _(
                "“%s” can't be searched for. Write an id or its beginning, a part of a task's "
                "path, args.0=5 or kwargs.user_id=42."
            )
            % word
        )
    name, value = "text", word
    if (digits := id_digits(word)) and len(digits) >= LEAST_OF_AN_ID:
        name, value = "id", digits
    if name in found:
        raise SearchError(
            _("“%s” is one word too many: write one id, or one part of a task's path.") % word
        )
    found[name] = value
    return at + len(word)


def _value(text: str, at: int) -> tuple[Any, int]:
    """Return the value that begins here, JSON or else text, and where it ends."""
    if text[at : at + 1] in ("", " "):
        raise SearchError(_("A value is missing after “%s”.") % text[:at].split()[-1])
    if text[at] in '"[{':
        try:
            return _decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise SearchError(
                _("“%(text)s” is no value: %(error)s.") % {"text": text[at:], "error": error}
            ) from error
    word = text[at:].split(None, 1)[0]
    try:
        value = json.loads(word, parse_constant=str)
    except (ValueError, RecursionError):
        value = word
    return value, at + len(word)


def as_text(fields: dict[str, Any]) -> str:
    """Return the text of the search box for these fields: the opposite of ``parse_text()``."""
    arguments = (
        f"{path}={json.dumps(value, ensure_ascii=False)}" for path, value in fields["arguments"]
    )
    return " ".join(filter(None, (fields["id"], fields["text"], *arguments)))


def id_digits(text: str) -> str:
    """Return the hexadecimal digits of an id or of its beginning; nothing if it is none."""
    digits = text.replace("-", "").lower()
    return digits if re.fullmatch(r"[0-9a-f]{1,32}", digits, re.ASCII) else ""


def parse_time(name: str, text: str) -> datetime:
    """Return the time in a link: ISO 8601, or so long ago, such as ``15m``, ``24h`` and ``7d``.

    A time without a zone is in the current one. Raises ``SearchError``.
    """
    time: datetime | None
    try:
        if match := _AGO.fullmatch(text):
            time = clock.now() - timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            time = parse_datetime(text)
        time = None if is_beyond(time) else time
        if time is not None and timezone.is_naive(time) and settings.USE_TZ:
            time = timezone.make_aware(time)
        elif time is not None and timezone.is_aware(time) and not settings.USE_TZ:
            time = timezone.make_naive(time)
    except (ValueError, OverflowError):
        time = None
    if time is None:
        raise SearchError(
            _(
                "%(name)s must be a time such as 2026-01-31T14:00, or 24h for so long ago, "
                "not “%(text)s”."
            )
            % {"name": name, "text": text}
        )
    return time
