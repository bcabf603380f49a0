"""Links between the pages of the documentation lead to what is there."""

import re
from functools import cache

from django.test import SimpleTestCase

from ..helpers import ROOT
from .pages import PAGES

# A link to a file here, to a heading, or both.
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# Blocks of code and comments: what looks like a heading or a link there is none.
NO_PROSE = re.compile(r"^( *)```.*?^\1```$|^<!--.*?-->$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]+`")


class LinkTests(SimpleTestCase):
    def test_each_link_leads_to_a_file_and_a_heading_of_it(self):
        broken, found = [], 0
        for page in [*PAGES, ROOT / "CHANGELOG.md"]:
            for path, anchor in LINK.findall(INLINE_CODE.sub("", prose(page))):
                found += 1
                to = (page.parent / path).resolve() if path else page
                if not to.exists() or (anchor and anchor not in anchors(to)):
                    broken.append(f"{page.relative_to(ROOT)}: {path}#{anchor}")
        self.assertEqual(broken, [])
        self.assertGreater(found, 100)

    def test_the_anchors_of_a_page(self):
        found = anchors(ROOT / "docs" / "how-to" / "periodic.md")
        self.assertIn("when-time-zones-and-the-nights-on-which-clocks-are-set", found)
        self.assertIn("when-at-random-with-", found)
        self.assertNotIn("shoptaskspy", found)  # a comment in a block of code


@cache
def prose(page):
    return NO_PROSE.sub("", page.read_text())


@cache
def anchors(page):
    """Return what the page's headings are linked by, as GitHub makes it."""
    found = set()
    for heading in HEADING.findall(prose(page)):
        text = re.sub(r"\]\([^)]*\)", "]", heading)  # a link's text counts, its address does not
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = 1
        anchor = name
        while anchor in found:
            anchor = f"{name}-{again}"
            again += 1
        found.add(anchor)
    return found
