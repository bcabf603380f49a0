"""Secrets in what pages show: values under names that match a pattern."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Any

MASK = "••••••"

# name=value, name: value, "name": "value" and 'name': 'value', as tracebacks and reprs have them.
# A value may be a text of bytes, a list, a call such as Decimal('1'), or have its kind before it.
_PAIR = re.compile(
    r"""(?P<name>[A-Za-z_][\w-]*)(?P<quote>["']?)(?P<between>\s*[=:]\s*)
    (?P<value>
        [A-Za-z]{0,2}(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
        |[\w.]*(?:\[[^\]\n]*\]|\([^)\n]*\)|\{[^}\n]*\})
        |(?:Basic|Bearer|Digest|Token)\s+[^\s,;"']+
        |[^\s,;()\[\]{}"']+
    )""",
    re.VERBOSE,
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

    Known forms: ``name=value``, ``name: value``, ``"name": "value"``, and, whatever the patterns
    are, ``scheme://user:value@host``. A secret that stands for itself, as in "wrong password
    hunter2", is not found.
    """
    match = _matcher(tuple(patterns)).match

    def mask(found: re.Match[str]) -> str:
        if not match(found["name"]):
            return found[0]
        return f"{found['name']}{found['quote']}{found['between']}{MASK}"

    return _PAIR.sub(mask, _ADDRESS.sub(rf"\g<user>:{MASK}@", text))


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
