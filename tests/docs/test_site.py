"""The documentation's site is built without a warning, and asks no other server for anything."""

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from unittest import skipUnless

import pytest
from django.test import SimpleTestCase

from ..helpers import ROOT

pytestmark = [pytest.mark.any_database, pytest.mark.any_version]

# What a browser would fetch by itself from elsewhere.
FETCHED = re.compile(r"<(?:script|img|iframe|source)[^>]* src=\"?(?:https?:)?//[^>]*>")
LINKED = re.compile(
    r"<link(?![^>]*rel=\"?(?:canonical|next|prev))[^>]* href=\"?(?:https?:)?//[^>]*>"
)


@skipUnless(find_spec("mkdocs") or os.environ.get("CI"), "mkdocs is not installed")
class SiteTests(SimpleTestCase):
    def test_it_is_built_strictly_and_is_complete_in_itself(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
                cwd=ROOT,
                env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.assertEqual(done.returncode, 0, done.stdout)
            pages = {path: path.read_text() for path in Path(folder).rglob("*.html")}
        self.assertGreater(len(pages), 40)
        for path, text in pages.items():
            self.assertEqual(FETCHED.findall(text) + LINKED.findall(text), [], path)
            self.assertNotIn("```", re.sub(r"<code.*?</code>", "", text, flags=re.S), path)
