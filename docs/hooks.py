"""What MkDocs is told beyond ``mkdocs.yml``: files of the repository that are pages as well."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent

# Files outside of docs/ that are pages of the site; the README's place is the site's first page.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "dropins/README.md": "drop-ins.md",
    "example/README.md": "example.md",
}
PLACES = {**PAGES, "README.md": "index.md"}
SOURCES = {page: path for path, page in PAGES.items()}

# Code that the tests need and readers do not.
HIDDEN = re.compile(r"^<!--.*?-->\n", re.M | re.S)
# "python before" and the like: what tests are told about a block is no language.
FENCE = re.compile(r"^( *```\w+) .+$", re.M)
# A page's list of its own headings: the site shows one beside each page.
CONTENTS = re.compile(r"(^- \[[^\]]+\]\(#[^)]+\)\n){3,}\n?", re.M)
# Drawing it would need a script from elsewhere.
DIAGRAM = re.compile(r"^```mermaid$.*?^```$", re.M | re.S)
INSTEAD = "The moves are in the table of [statuses](../reference/statuses.md)."
# A link to a file of this project; code and comments may hold what looks like one.
LINK = re.compile(
    r"(?P<skip>^( *)```.*?^\2```$|`[^`\n]+`)|\]\((?!\w+:)(?P<to>[^)#\s]+)", re.M | re.S
)


def on_files(files, config):
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links lead to the same files from the page's place on the site."""
    markdown = FENCE.sub(r"\1", CONTENTS.sub("", HIDDEN.sub("", markdown)))
    markdown = DIAGRAM.sub(INSTEAD, markdown)
    return moved(markdown, page.file.src_uri)


def moved(markdown, page):
    """Return a page's text with the links that it needs as ``page`` of the site."""
    path = SOURCES.get(page, f"docs/{page}")

    def link(found):
        if found["skip"]:
            return found[0]
        to = posixpath.normpath(posixpath.join(posixpath.dirname(path), found["to"]))
        place = PLACES.get(to, to.removeprefix("docs/"))
        return "](" + posixpath.relpath(place, posixpath.dirname(page) or ".")

    return LINK.sub(link, markdown)
