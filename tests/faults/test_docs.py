"""what-happens.md names tests that exist, and draws the moves that the code allows."""

import re
from pathlib import Path

import pytest
from django.test import SimpleTestCase

from durable_tasks.statuses import ENDED, MOVES

from ..helpers import ROOT

pytestmark = pytest.mark.any_database

PAGE = ROOT / "docs" / "explanation" / "what-happens.md"


def diagram() -> str:
    """Return the state diagram of the moves."""
    lines = ["    [*] --> READY", "    [*] --> SCHEDULED"]
    lines += [f"    {before} --> {after}" for before, moves in MOVES.items() for after in moves]
    lines += [f"    {status} --> [*]" for status in ENDED]
    return "\n".join(["stateDiagram-v2", *lines])


class WhatHappensTests(SimpleTestCase):
    def test_every_test_that_is_named_exists(self):
        named = re.findall(r"`(tests/[^`]+)`", PAGE.read_text())
        self.assertGreater(len(named), 20)
        for name in named:
            path, *parts = name.split("::")
            text = Path(ROOT / path).read_text()
            for word, part in zip(("class", "def"), parts, strict=False):
                self.assertRegex(text, rf"\b{word} {part}\(", name)

    def test_every_module_of_the_fault_suite_is_named(self):
        text = PAGE.read_text()
        for path in (ROOT / "tests" / "faults").glob("test_*.py"):
            if path.name != Path(__file__).name:
                self.assertIn(f"tests/faults/{path.name}", text)

    def test_the_state_diagram_is_what_the_code_allows(self):
        found = re.search(r"```mermaid\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
        assert found is not None
        self.assertEqual(found[1], diagram())
