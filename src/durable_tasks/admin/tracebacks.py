"""Tracebacks as stored, line by line, with the project's own frames marked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..places import is_own

_FILE = re.compile(r'^\s*(?:\|\s*)*File "(?P<name>[^"\n]+)", line \d+')


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that belong together. ``is_own``: a frame of the project's own code."""

    text: str
    is_own: bool


def blocks(traceback: str) -> Iterator[Block]:
    """Yield a traceback's lines, in as few blocks as there are changes of whose they are."""
    lines: list[str] = []
    own = False
    for line in traceback.splitlines():
        match = _FILE.match(line)
        # A frame goes on with its source, which is indented further.
        now = is_own(match["name"]) if match else own and line.startswith(("    ", "  |  "))
        if now != own and lines:
            yield Block("\n".join(lines), own)
            lines = []
        own = now
        lines.append(line)
    if lines:
        yield Block("\n".join(lines), own)
