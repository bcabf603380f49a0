"""Who is who among processes, and who is provably gone."""

import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import skipUnless

import pytest
from django.test import SimpleTestCase

from durable_tasks.store.registry import WorkerRow
from durable_tasks.worker.process import is_gone, is_running, process_start, this_host

from ..helpers import eventually

pytestmark = pytest.mark.any_database


def row_for(pid):
    return WorkerRow(
        id="w",
        life=uuid.uuid4(),
        backend_name="default",
        host=this_host(),
        pid=pid,
        process_started=process_start(pid),
        last_seen=0,
    )


class ProcessTests(SimpleTestCase):
    def start(self, *command):
        process = subprocess.Popen(command)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_a_process_is_running_until_it_is_gone(self):
        process = self.start("sleep", "60")
        row = row_for(process.pid)
        self.assertEqual((is_running(row), is_gone(row)), (True, False))
        process.kill()
        # Also while it is a zombie, whose parent has not asked how it ended.
        eventually(lambda: is_gone(row), "a killed process is gone")
        process.wait()
        self.assertEqual((is_running(row), is_gone(row)), (False, True))

    @skipUnless(sys.platform == "linux", "start times are known on Linux")
    def test_another_process_with_the_same_number_is_not_it(self):
        row = replace(row_for(os.getpid()), process_started="1")
        self.assertEqual((is_running(row), is_gone(row)), (False, True))

    def test_nothing_is_known_of_another_host(self):
        for pid in (os.getpid(), 2**22 + 1):
            row = replace(row_for(pid), host="elsewhere")
            self.assertEqual((is_running(row), is_gone(row)), (False, False))

    def test_the_host_has_one_name_that_fits_its_column(self):
        self.assertEqual(this_host(), this_host())
        self.assertLessEqual(len(this_host()), 255)

    @skipUnless(sys.platform == "linux", "reads /proc")
    def test_any_program_name_is_read_past(self):
        with TemporaryDirectory() as folder:
            program = Path(folder) / "a) S 1 (b"
            shutil.copy(shutil.which("sleep"), program)
            program.chmod(0o755)
            process = self.start(str(program), "60")
            self.assertEqual(process_start(process.pid), self.start_by_parts(process.pid))
            self.assertTrue(is_running(row_for(process.pid)))

    def start_by_parts(self, pid):
        text = Path(f"/proc/{pid}/stat").read_text()
        return text[text.rindex(")") + 2 :].split(" ")[22 - 3]

    def test_a_process_that_is_not_there_has_no_start(self):
        self.assertEqual(process_start(2**22 + 1), "")
