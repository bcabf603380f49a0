"""The pages of the documentation, cut into their blocks of code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..helpers import ROOT

PAGES = [
    *(
        ROOT / f"{name}.md"
        for name in ("README", "CONTRIBUTING", "example/README", "dropins/README")
    ),
    *sorted((ROOT / "docs").glob("**/*.md")),
]

FENCE = re.compile(r"( *)```(\w*)(.*)")
# Code that readers don't see, but which the blocks after it need.
HIDDEN = re.compile(r"<!-- (python|console)")
# The next block is for one database only.
DATABASE = re.compile(r"<!-- database: (\w+) -->")


@dataclass(frozen=True)
class Block:
    """Some code on a page. ``line``: of its first line; ``section``: how many headings before."""

    path: Path
    line: int
    section: int
    language: str
    text: str
    database: str | None = None  # the vendor that it is for, or None for any

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """Give the page's blocks in their order, hidden ones as well."""
    lines = path.read_text().splitlines()
    section, database, at = 0, None, 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if fence := FENCE.fullmatch(line):
            indent, language, end = len(fence[1]), fence[2] + fence[3], f"{fence[1]}```"
        elif hidden := HIDDEN.fullmatch(line):
            indent, language, end = 0, hidden[1], "-->"
        else:
            section += line.startswith("#")
            if found := DATABASE.fullmatch(line):
                database = found[1]
            continue
        begin, at = at, lines.index(end, at)
        text = "\n".join(each[indent:] for each in lines[begin:at])
        yield Block(path, begin + 1, section, language, text, database)
        at += 1
        database = None
