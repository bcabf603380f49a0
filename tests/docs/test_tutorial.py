"""The tutorial works as it says: each command and each file, in an empty folder."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest import skipIf, skipUnless

import pytest
from django.db import connection
from django.test import SimpleTestCase

from ..helpers import ROOT, eventually
from .code import BACKPORT
from .pages import blocks

pytestmark = [pytest.mark.any_database, pytest.mark.any_version]

PAGE = ROOT / "docs" / "tutorial.md"
# What is installed here already, or is for people only.
NOT_RUN = ("mkdir ", "python3 -m venv", ". .venv", "python -m pip", "python manage.py runserver")
# What differs from run to run: dates and times, ids, names of workers, process ids.
OWN = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,+\d:]*|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|\b[\w.]+-\d+-[0-9a-f]{8}\b|\d+\.\d+ s\b|process \d+"
)


@skipUnless(connection.vendor == "sqlite", "the project has a database of its own")
@skipIf(BACKPORT, "the page is for Django's own tasks")
class TutorialTests(SimpleTestCase):
    def setUp(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.folder = folder / "tutorial"
        self.folder.mkdir()
        bin = folder / "bin"  # "python" and "django-admin" of this environment
        bin.mkdir()
        (bin / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (bin / "django-admin").write_text(f'#!/bin/sh\nexec {sys.executable} -m django "$@"\n')
        for each in bin.iterdir():
            each.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
        for name in ("DJANGO_SETTINGS_MODULE", "PYTHONWARNINGS"):
            self.environment.pop(name, None)

    def test_it_works_as_it_is_written(self):
        lines, log, done = PAGE.read_text().splitlines(), self.folder.parent / "log", 0
        for block in blocks(PAGE):
            if block.language == "python":
                name = block.text.split("\n", 1)[0].removeprefix("# ")
                with (self.folder / name).open("a") as file:
                    file.write(f"\n\n{block.text}\n")
            elif block.language == "text":
                eventually(lambda text=block.text: self.tell(text, log.read_text()))
            elif lines[block.line - 3] == "<!-- beside -->":
                command, expected = block.text.removeprefix("$ ").split("\n", 1)
                self.start(command, log)
                eventually(lambda text=expected: self.tell(text, log.read_text()))
                eventually(lambda: log.read_text().count(" serves queues: ") == 2)
            else:
                done += self.type(block.text)
        self.assertGreater(done, 12)
        self.beside.send_signal(signal.SIGINT)
        self.assertEqual(self.beside.wait(30), 0, log.read_text())

    def start(self, command, log):
        with log.open("w") as file:
            # Of a session of its own, as in a terminal of its own.
            self.beside = subprocess.Popen(
                f"exec {command}",
                shell=True,
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.addCleanup(self.end)

    def end(self):
        with suppress(ProcessLookupError):
            os.killpg(self.beside.pid, signal.SIGKILL)
        self.beside.wait()

    def type(self, text):
        """Run a block's commands; return how many. What is shown below one has to be printed."""
        done = 0
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            if command.startswith(NOT_RUN):
                continue
            ran = subprocess.run(
                command,
                shell=True,
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.assertEqual(ran.returncode, 0, f"{command}\n{ran.stdout}")
            self.assertTrue(self.tell(expected, ran.stdout), f"{command}\n{ran.stdout}")
            done += 1
        return done

    def tell(self, expected, printed):
        """Return whether the lines were printed, in this order.

        ``...`` stands for any number of lines, and at the end of one for the rest of it.
        """
        rest = iter(OWN.sub("~", printed).splitlines())
        return all(
            any(each == line or fits(each, line) for each in rest)
            for line in OWN.sub("~", expected).splitlines()
            if line != "..."
        )


def fits(printed, line):
    return line.endswith("...") and printed.startswith(line.removesuffix("..."))
