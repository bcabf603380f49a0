"""``adopt_tasks`` that is killed or interrupted at any moment, and started again."""

import json
import subprocess
import sys

from django.core.management import call_command
from django.utils import timezone

from durable_tasks.adoption.adopt import Adopted
from durable_tasks.models import Job

from ..app import tasks
from ..helpers import PATIENCE, ROOT, environment
from .old import HOUR, DBTaskResult, OldTestCase, ScheduledTask, ended, path_of

TIMES = 20
ROWS = 100  # of each of the eight kinds


def filled():
    """Insert rows of every kind that both packages have."""
    later = timezone.now() + HOUR
    error = "builtins.ValueError"
    running = {"status": "RUNNING", "worker_ids": ["v", "w"]}
    args_kwargs = {"args": ["key"], "kwargs": {}}
    DBTaskResult.objects.bulk_create(
        DBTaskResult(args_kwargs=args_kwargs, **values)
        for values in (
            {},
            {"run_after": later},
            running,
            ended("FAILED", exception_class_path=error),
        )
        for _ in range(ROWS)
    )
    ScheduledTask.objects.bulk_create(
        ScheduledTask(args=["key"], **values)
        for values in (
            {"run_after": later},
            {**running, "task_path": path_of(tasks.once_mark)},
            ended(return_value=[1]),
            ended("FAILED", exception_path=error),
        )
        for _ in range(ROWS)
    )


def state():
    """Return all that was written, but for when the lost runs were noticed."""
    jobs = list(Job.objects.order_by("id").values())
    for job in jobs:
        if job["lost"]:
            job["finished_at"] = None
            for entry in job["errors"]:
                entry["finished_at"] = None
    return jobs, list(Adopted.objects.order_by("id").values())


class InterruptedTests(OldTestCase):
    def test_it_comes_to_the_same_end(self):
        filled()
        call_command("adopt_tasks", verbosity=0)
        expected = state()
        self.assertEqual([len(each) for each in expected], [8 * ROWS, 8 * ROWS])
        Job.objects.all().delete()
        Adopted.objects.all().delete()

        done = subprocess.run(
            [sys.executable, "-m", "tests.adoption.interrupt", str(8 * ROWS), str(TIMES)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        seen = json.loads(done.stdout)
        self.assertEqual(seen["code"], 0, done.stderr)
        within = [count for count in seen["counts"] if 0 < count < 8 * ROWS]
        self.assertGreater(len(set(within)), 5, seen["counts"])
        self.assertEqual(state(), expected)
