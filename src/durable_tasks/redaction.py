"""Secrets in what pages show: values under names that match a pattern."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Any

MASK = "••••••"

# A name, and perhaps what stands between it and a value: name=value, name: value, "name": "value"
# and 'name': 'value', as tracebacks and reprs have them. Possessive (the second +), so that a long
# word is read once: what an error says may come from anybody.
_NAME = re.compile(r"""(?P<name>[\w-]++)(?P<between>["']?\s*+[=:]=?\s*+)?""")
# A value: a text, perhaps of bytes; the begin of a list or a call; one with its kind before it; a
# word. A text without its end goes to the end of the line.
_VALUE = re.compile(
    r"""[A-Za-z]{0,2}(?:"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?)
    |[\w.]*+(?P<bracket>[(\[{])
    |(?:Basic|Bearer|Digest|Token)\s+[^\s,;"']+
    |[^\s,;()\[\]{}"']+
    """,
    re.VERBOSE,
)
_BRACKET = re.compile(r"[(\[{\n)\]}]")
# The password in an address, as errors of databases and brokers have it.
_ADDRESS = re.compile(r"(?<=://)(?P<user>[^\s/:@]*):[^\s/@]+@")


@lru_cache(maxsize=64)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)) or "(?!)", re.IGNORECASE)


def is_secret(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches one of the patterns, as of ``fnmatch``, in any case."""
    return _matcher(tuple(patterns)).match(name) is not None


def redacted(value: Any, patterns: Iterable[str]) -> Any:
    """Return a value of JSON with all that is under a secret name masked, at any depth."""
    match = _matcher(tuple(patterns)).match

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: MASK if match(str(key)) else masked(item) for key, item in value.items()}
        return [masked(item) for item in value] if isinstance(value, list) else value

    return masked(value)


def redacted_text(text: str, patterns: Iterable[str]) -> str:
    """Return a text, such as a traceback, with values masked that stand behind a secret name.

    Known forms: ``name=value``, ``name: value``, ``"name": "value"``, and, whatever the patterns
    are, ``scheme://user:value@host``. A secret that stands for itself, as in "wrong password
    hunter2", is not found.
    """
    match = _matcher(tuple(patterns)).match
    text = _ADDRESS.sub(rf"\g<user>:{MASK}@", text)
    shown, done, at = [], 0, 0
    while found := _NAME.search(text, at):
        at = found.end()
        # Of other names the value is read on: it may have secrets in it.
        if found["between"] and match(found["name"].strip("-")):
            end = _end_of_value(text, at)
            if end > at:
                shown += [text[done:at], MASK]
                done = at = end
    return "".join([*shown, text[done:]])


def _end_of_value(text: str, at: int) -> int:
    """Return where the value ends that begins here; ``at`` if there is none."""
    found = _VALUE.match(text, at)
    if found is None or not found["bracket"]:
        return at if found is None else found.end()
    depth = 1
    for each in _BRACKET.finditer(text, found.end()):
        if each[0] == "\n":
            return each.start()
        depth += 1 if each[0] in "([{" else -1
        if not depth:
            return each.end()
    return len(text)


def restored(value: Any, before: Any) -> Any:
    """Return a value that was shown redacted with what was masked put back from ``before``.

    Where nothing was masked, it stays as it is.
    """
    if isinstance(value, dict) and isinstance(before, dict):
        return {
            key: before[key] if item == MASK and key in before else restored(item, before.get(key))
            for key, item in value.items()
        }
    if isinstance(value, list) and isinstance(before, list):
        pairs = zip(value, [*before, *[None] * len(value)], strict=False)
        return [restored(item, old) for item, old in pairs]
    return value
