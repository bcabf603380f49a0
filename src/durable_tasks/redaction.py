"""Secrets in what pages show: values under names that match a pattern."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Any

# Names whose values are secrets, most likely; case does not matter.
SECRETS = (
    *("*password*", "*passwd*", "*secret*", "*token*", "*api_key*", "*apikey*", "*private_key*"),
    *("*credential*", "*authorization*", "*cookie*", "*card_number*", "*cvv*", "*iban*"),
)
MASK = "••••••"

# name=, name:, name ==, "name":, 'name', and \"name\":, as tracebacks, reprs and JSON in a text
# have them.
# A name is tried once, from its beginning: a long word costs no more than its length.
_NAME = re.compile(r"""(?<![\w-])-*(?P<name>\w[\w-]*+)(?:\\*["']\s*[=:,]|\s*[=:])=?\s*""")
# Its value: a text, perhaps of bytes or cut off before its end, or a word. Before a bracket stands
# perhaps the kind, as in Decimal('1').
_VALUE = re.compile(
    r"""(?P<bracket>[\w.]*[\[({])
    |[A-Za-z]{0,2}(?:"(?:[^"\\\n]|\\.)*+(?:"|\\?$)|'(?:[^'\\\n]|\\.)*+(?:'|\\?$))
    |(?P<escaped>\\+["']).*?(?:(?P=escaped)|$)
    |(?:Basic|Bearer|Digest|Token)\s+[^\s,;"']+
    |[^\s,;()\[\]{}"']+
    """,
    re.VERBOSE | re.MULTILINE,
)
# What is in brackets: texts, which may have brackets in them, brackets, and the end of the line.
_PART = re.compile(
    r"""["'](?:(?<=")(?:[^"\\\n]|\\.)*+"|(?<=')(?:[^'\\\n]|\\.)*+')|(?P<open>[\[({])|(?P<close>[\])}])|$""",
    re.MULTILINE,
)
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

    Known forms, each in one line: ``name=value``, ``name: value``, ``"name": "value"``,
    ``("name", "value")``, and, whatever the patterns are, ``scheme://user:value@host``. A secret
    that stands for itself, as in "wrong password hunter2", is not found.
    """
    match = _matcher(tuple(patterns)).match
    text = _ADDRESS.sub(rf"\g<user>:{MASK}@", text)
    shown, at = [], 0
    for found in _NAME.finditer(text):
        if found.start() < at or not match(found["name"]):
            continue
        if value := _VALUE.match(text, found.end()):
            shown += [text[at : found.end()], MASK]
            at = _end_of_bracket(text, value.end()) if value["bracket"] else value.end()
    return "".join([*shown, text[at:]])


def _end_of_bracket(text: str, at: int) -> int:
    """Return where the bracket ends whose inside begins at ``at``, at most the end of its line."""
    depth = 1
    for part in _PART.finditer(text, at):
        depth += bool(part["open"]) - bool(part["close"])
        if not depth or not part[0]:
            return part.end()
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
