"""The example's own tests, as a project runs them."""

import os
import subprocess
import sys

import pytest
from django.test import SimpleTestCase

from .helpers import PATIENCE, ROOT

pytestmark = pytest.mark.any_database


class ExampleTests(SimpleTestCase):
    def test_the_shops_tests_pass(self):
        done = subprocess.run(
            [sys.executable, "manage.py", "test"],
            cwd=ROOT / "example",
            env={name: value for name, value in os.environ.items() if name[:7] != "DJANGO_"},
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Ran 8 tests", done.stderr)
