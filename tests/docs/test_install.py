"""README.md's installation makes a project that works, with nothing else in it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from shlex import split
from unittest import skipUnless

from django.core.management import call_command
from django.db import connection
from django.test import SimpleTestCase

from ..helpers import ROOT
from .code import BACKPORT
from .pages import blocks


@skipUnless(connection.vendor == "sqlite", "the project has a database of its own")
class InstallTests(SimpleTestCase):
    def test_a_new_project_works_with_what_the_page_says(self):
        page = list(blocks(ROOT / "README.md"))
        section = next(block.section for block in page if "INSTALLED_APPS" in block.text)
        with tempfile.TemporaryDirectory() as folder:
            call_command("startproject", "mysite", folder)
            with Path(folder, "mysite", "settings.py").open("a") as settings:
                for block in page:
                    if (block.section, block.language) == (section, "python"):
                        settings.write(block.text.replace("# ...", "*INSTALLED_APPS,") + "\n")
                if BACKPORT:
                    settings.write('INSTALLED_APPS.append("django_tasks")\n')
            said = [
                self.manage(split(line, comments=True)[3:], folder)
                for block in page
                if (block.section, block.language) == (section, "console")
                for line in block.text.splitlines()
                if "manage.py" in line
            ]
            said.append(self.manage(["db_worker", "--batch", "--no-startup-delay"], folder))
        self.assertIn("Applying durable_tasks.0001_initial... OK", said[0])
        self.assertIn("no issues", said[1])
        self.assertIn("has stopped.", said[2])

    def manage(self, arguments, folder):
        """Run a command of the project and return what it said."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=folder,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout
