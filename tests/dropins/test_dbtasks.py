"""A project with the settings of django-dbtasks' README, and what its names mean elsewhere."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from django.test import SimpleTestCase, override_settings
from django.utils import timezone

from dbtasks import Periodic
from dbtasks.runner import cleanup
from durable_tasks.compat import task_backends
from durable_tasks.models import Job, PeriodicTask

from ..app import tasks
from ..helpers import PATIENCE, ROOT, WorkerTestCase, tasks_setting, work

PROJECT = Path(__file__).parent / "dbtasks_project"


def in_project(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a management command of the project, on databases of its own."""
    variables = {name: value for name, value in os.environ.items() if "_TEST_DB_NAME" not in name}
    folders = [PROJECT, ROOT, ROOT / "src", ROOT / "dropins" / "src"]
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", *arguments],
        cwd=PROJECT,
        env={
            **variables,
            "DJANGO_SETTINGS_MODULE": "myproject.settings",
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=10 * PATIENCE,
    )


class ProjectTests(SimpleTestCase):
    def test_the_projects_own_tests_pass(self):
        done = in_project("test", "myproject", "--noinput")
        self.assertEqual(done.returncode, 0, done.stdout)
        found = re.search(r"Ran (\d+) tests", done.stdout)
        self.assertIsNotNone(found, done.stdout)
        self.assertGreater(int(found[1]), 20)

    def test_beside_our_own_apps_and_with_a_schedule_for_cleanup(self):
        settings = "--settings=myproject.beside"
        for arguments in (("check", "--fail-level=WARNING"), ("makemigrations", "--check")):
            done = in_project(*arguments, settings)
            self.assertEqual(done.returncode, 0, done.stdout)


class CleanupTests(WorkerTestCase):
    """In a project whose app is durable_tasks."""

    def test_it_may_stand_in_periodic(self):
        key = "dbtasks.runner.cleanup"
        periodic = {key: Periodic("~ * * * *", args=[timedelta(days=7).total_seconds()])}
        with override_settings(TASKS=tasks_setting(periodic=periodic)):
            self.assertEqual(list(task_backends["default"].check()), [])
            tasks.add.enqueue(1, 2)
            work()
            Job.objects.update(finished_at=timezone.now() - timedelta(days=8))
            PeriodicTask.objects.update(next_run_at=timezone.now())
            work(queue_names=None)
        job = Job.objects.get()
        self.assertEqual((job.task_path, job.return_value), (key, 1))

    def test_in_a_second_backend_it_may_be_in_a_queue_of_that(self):
        periodic = {"dbtasks.runner.cleanup": Periodic("1h", args=[60], queue_name="a")}
        second = {**tasks_setting(periodic=periodic)["default"], "QUEUES": ["a"]}
        with override_settings(TASKS={**tasks_setting(), "second": second}):
            self.assertEqual(list(task_backends["second"].check()), [])

    def test_it_deletes_those_of_its_own_backend(self):
        both = {name: tasks_setting()["default"] for name in ("default", "second")}
        with override_settings(TASKS=both):
            for backend in both:
                tasks.add.using(backend=backend).enqueue(1, 2)
            Job.objects.update(status="FAILED", finished_at=timezone.now() - timedelta(hours=2))
            cleanup.enqueue(3600)
            work(queue_names=None)
            self.assertEqual(Job.objects.get(backend_name="second").status, "FAILED")
            self.assertEqual(Job.objects.get(backend_name="default").return_value, 1)
