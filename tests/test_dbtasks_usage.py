"""A project that used django-dbtasks finds its settings, command and classes here, by our names.

One test for each thing that its documentation shows.
"""

import logging
import logging.config
import subprocess
import threading
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO

from django.db import connection
from django.test import override_settings
from django.utils import timezone

from durable_tasks import Periodic, Runner
from durable_tasks.chores.prune import Pruning
from durable_tasks.compat import task_backends
from durable_tasks.models import Job, PeriodicTask
from durable_tasks.store import store_for
from durable_tasks.testing import RunnerTestCase

from .app import tasks
from .helpers import (
    PATIENCE,
    ROOT,
    WorkerTestCase,
    command,
    ended,
    environment,
    eventually,
    held,
    let_go,
    run_command,
    tasks_setting,
)


@contextmanager
def in_process():
    """Give a runner that works in a thread."""
    runner = Runner(workers=4, worker_id="in-process")
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield runner
    finally:
        runner.stop()
        thread.join()


class QuickstartTests(WorkerTestCase):
    def setUp(self):
        periodic = {"tests.app.tasks.no_value": "30 3 * * 1-5"}
        options = {"immediate": False, "retain": timedelta(days=7), "periodic": periodic}
        self.enterContext(override_settings(TASKS=tasks_setting(**options)))

    def test_nothing_is_wrong_with_the_settings(self):
        self.assertEqual(list(task_backends["default"].check()), [])

    def test_a_task_is_run_by_a_runner_and_kept_for_a_week(self):
        result = tasks.add.enqueue(1, 2)
        self.assertEqual(result.job.status, "READY")
        with in_process() as runner:
            self.assertTrue(runner.wait_for(result, timeout=PATIENCE))
        self.assertEqual((result.return_value, result.worker_ids), (3, ["in-process"]))
        for days, left in ((6, 1), (8, 0)):
            Pruning().tick(store_for(connection), timezone.now() + timedelta(days=days))
            self.assertEqual(Job.objects.count(), left)

    def test_immediate_needs_no_runner(self):
        with override_settings(TASKS=tasks_setting(immediate=True)):
            self.assertEqual(tasks.add.enqueue(1, 2).return_value, 3)

    def test_a_periodic_task_is_due_when_its_crontab_says(self):
        with in_process():
            row = eventually(PeriodicTask.objects.first)
        at = row.next_run_at
        at = timezone.localtime(at) if timezone.is_aware(at) else at
        self.assertEqual((row.spec, at.hour, at.minute), ("30 3 * * 1-5", 3, 30))
        self.assertIn(at.isoweekday(), range(1, 6))


class PeriodicTests(WorkerTestCase):
    def test_its_arguments_are_values_or_made_at_each_run(self):
        week = int(timedelta(days=7).total_seconds())
        periodic = Periodic("~ * * * *", args=[week], kwargs={"name": lambda: "made now"})
        with override_settings(TASKS=tasks_setting(periodic={"tests.app.tasks.echo": periodic})):
            with in_process():
                row = eventually(PeriodicTask.objects.first)
            self.assertRegex(row.spec, r"^[1-5]?\d \* \* \* \*$")
            PeriodicTask.objects.update(next_run_at=timezone.now())
            with in_process():
                job = ended(eventually(Job.objects.first))
        self.assertEqual(job.return_value, {"args": [week], "kwargs": {"name": "made now"}})


class TaskrunnerTests(WorkerTestCase):
    def test_it_takes_the_same_options(self):
        usage = run_command("taskrunner", "--help").stdout
        for option in ("-w", "--workers", "-i", "--worker-id", "--backend", "--delay"):
            self.assertIn(option, usage)
        result = tasks.hold.using(queue_name="any").enqueue("x")
        arguments = ("-w", "2", "-i", "a-name", "--backend", "default", "--delay", "0.5")
        process = subprocess.Popen(command("taskrunner", *arguments), cwd=ROOT, env=environment())
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        held("x")
        process.terminate()
        let_go()
        self.assertEqual(process.wait(PATIENCE), 0)
        result.refresh()
        self.assertEqual((result.return_value, result.worker_ids), ("x", ["a-name"]))


class LoggingTests(WorkerTestCase):
    def test_the_loggers_name_is_enough(self):
        console = StringIO()
        logger = logging.getLogger("durable_tasks")
        before = logger.level, logger.handlers[:]
        self.addCleanup(
            lambda: (logger.setLevel(before[0]), setattr(logger, "handlers", before[1]))
        )
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {"console": {"class": "logging.StreamHandler", "stream": console}},
                "loggers": {"durable_tasks": {"handlers": ["console"], "level": "INFO"}},
            }
        )
        result = tasks.fail.enqueue("no luck")
        with in_process() as runner:
            self.assertTrue(runner.wait_for(result, timeout=PATIENCE))
        lines = console.getvalue()
        self.assertEqual(lines.count("Worker in-process serves queues: all"), 1, lines)
        self.assertEqual(
            lines.count("of tests.app.tasks.fail failed: builtins.ValueError"), 1, lines
        )


class RunnerTestCaseTests(RunnerTestCase):
    available_apps = WorkerTestCase.available_apps

    def test_a_runner_works_beside_the_test(self):
        result = tasks.add.enqueue(1, 2)
        self.assertTrue(self.runner.wait_for(result, timeout=PATIENCE))
        self.assertEqual(result.return_value, 3)
