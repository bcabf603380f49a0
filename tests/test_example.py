"""The example's own tests, as a project runs them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from urllib.request import urlopen

import pytest
from django.test import SimpleTestCase

from example import past

from .helpers import PATIENCE, ROOT, eventually, running
from .servers import free_port

# What a user's shell has, not what these tests have set.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name[:7] != "DJANGO_"}

pytestmark = pytest.mark.any_database


class PastTests(SimpleTestCase):
    def test_a_time_so_long_ago_is_one_time_to_the_second(self):
        with self.settings(USE_TZ=True):
            times = {past.at(1_800_000_000, 60) for _ in range(3)}
        self.assertEqual(times, {datetime(2027, 1, 15, 7, 59, tzinfo=UTC)})

    def test_what_was_tried_again_is_due_when_it_is_tried_the_last_time(self):
        [kind] = (each for each in past.KINDS if each.retries)
        for seed in range(5):
            job = past.ended_job(Random(seed), "default", 1_800_000_000, 600, kind, True)
            self.assertLess(job.last_attempted_at - job.run_at, timedelta(seconds=0.5))
            self.assertGreaterEqual(job.run_at, job.enqueued_at)

    def test_it_ends_as_deep_as_the_customers_of_the_demo_keep_it(self):
        # An order each 1.5 s, charged 10 s later: 7 are scheduled; hardly any other job waits.
        chance = Random(6)
        depths = [past.depth(chance, "default", 60 * number) for number in range(30)]
        self.assertLess(max(each["ready"] for each in depths), 6)
        self.assertLess(max(abs(each["scheduled"] - 7) for each in depths), 4)


class ExampleTests(SimpleTestCase):
    def test_the_shops_tests_pass(self):
        done = subprocess.run(
            [sys.executable, "manage.py", "test"],
            cwd=ROOT / "example",
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Ran 11 tests", done.stderr)

    def test_the_demo_serves_and_ends_cleanly(self):
        with tempfile.TemporaryDirectory(prefix="durable-tasks-") as folder:
            # A copy: the checkout's own database may be in use.
            example = shutil.copytree(
                ROOT / "example",
                Path(folder) / "example",
                ignore=shutil.ignore_patterns("var", "*.sqlite3*"),
            )
            port = str(free_port())
            command = [sys.executable, "-u", str(example / "demo.py"), "--serve"]
            with running(command, {**ENVIRONMENT, "PORT": port}, cwd=example) as demo:
                demo.says("Ctrl-C stops it.")
                overview = f"http://127.0.0.1:{port}/admin/durable_tasks/"
                self.assertIn(overview, demo.output())
                with urlopen(overview, timeout=PATIENCE) as answer:
                    self.assertIn("/admin/login/", answer.url)
                eventually(lambda: "successful" in demo.output(), demo.output)
                # A worker that somebody stops in the admin ends alone.
                ask = "from durable_tasks.models import Worker as W; W.objects.update(wish='stop')"
                shell = [sys.executable, "manage.py", "shell", "-v0", "-c", ask]
                subprocess.run(shell, cwd=example, env=ENVIRONMENT, check=True, timeout=PATIENCE)
                demo.says("The first worker has stopped")
                demo.says("The second worker has stopped")
                demo.send_signal(signal.SIGINT)
                self.assertEqual(demo.wait(), 0, demo.output())
                self.assertIn("Stopped.", demo.output())
                # Nothing is left behind that would keep the port.
                with self.assertRaises(OSError):
                    urlopen(overview, timeout=PATIENCE)
