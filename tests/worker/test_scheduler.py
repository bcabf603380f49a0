"""Periodic tasks with real workers."""

import signal
import threading
from datetime import timedelta
from unittest import mock

import pytest
from django.db import OperationalError
from django.utils import timezone

from durable_tasks import Runner
from durable_tasks.chores.schedule import Fired, Timetable
from durable_tasks.models import Job, PeriodicTask
from durable_tasks.worker.clock import Clock
from durable_tasks.worker.scheduler import Scheduler
from tests.app import tasks
from tests.helpers import WorkerTestCase, effects, eventually, run_worker, running_worker

EACH_SECOND = {
    "periodic": {"tick": {"spec": 1, "task": "tests.app.tasks.effect", "args": ["tick"]}}
}
HOURLY = {"periodic": {"tests.app.tasks.no_value": "1h"}}


def row():
    return PeriodicTask.objects.first()


def due_now():
    PeriodicTask.objects.update(next_run_at=timezone.now() - timedelta(seconds=1))


class RealWorkerTests(WorkerTestCase):
    def test_a_worker_fires_and_runs_what_is_due(self):
        with running_worker(options=EACH_SECOND) as worker:
            eventually(lambda: effects().count("tick") >= 2, "it runs each second")
            self.assertEqual(worker.stop(), 0)
        jobs = Job.objects.filter(schedule="tick")
        self.assertTrue(
            all(job.started_at >= job.run_after for job in jobs.exclude(started_at=None))
        )
        self.assertEqual(len(set(jobs.values_list("run_after"))), len(jobs))
        # Stopped, it fires no more.
        self.assertIsNotNone(row().next_run_at)

    @pytest.mark.any_version
    def test_another_worker_goes_on_where_a_killed_one_was(self):
        options = {**EACH_SECOND, "worker_timeout": 2}
        with running_worker(options=options) as first, running_worker(options=options):
            eventually(lambda: Job.objects.count() >= 1, "they fire")
            first.kill()
            before = Job.objects.count()
            eventually(lambda: Job.objects.count() >= before + 2, "the other one fires")
        times = list(Job.objects.order_by("run_after").values_list("run_after", flat=True))
        self.assertEqual(len(set(times)), len(times))

    def test_a_worker_told_not_to_fires_nothing(self):
        with running_worker("--no-periodic", options=EACH_SECOND) as worker:
            result = tasks.effect.enqueue("done")
            eventually(lambda: "done" in effects(), "it works")
            self.assertEqual(worker.stop(), 0)
        self.assertEqual((Job.objects.count(), PeriodicTask.objects.count()), (1, 0))
        self.assertIsNone(result.job.schedule)

    def test_a_database_without_autocommit_does_no_harm(self):
        database = {"DURABLE_TASKS_TEST_DATABASE": '{"AUTOCOMMIT": false}'}
        options = {"periodic": {"tests.app.tasks.no_value": 1}}
        with running_worker(options=options, env=database):
            eventually(Job.objects.exists, "it fires")

    def test_a_batch_fires_what_is_due_and_runs_it(self):
        run_worker(options=HOURLY)
        self.assertEqual(Job.objects.count(), 0)
        due_now()
        run_worker(options=HOURLY)
        self.assertEqual([job.status for job in Job.objects.all()], ["SUCCESSFUL"])

    @pytest.mark.any_version
    def test_workers_under_a_supervisor_fire_each_time_once(self):
        with running_worker("--processes", "3", options=EACH_SECOND, ready=False) as worker:
            eventually(lambda: effects().count("tick") >= 2, "they fire")
            worker.send_signal(signal.SIGTERM)
            self.assertEqual(worker.wait(), 0)
        times = list(Job.objects.order_by("run_after").values_list("run_after", flat=True))
        self.assertEqual(len(set(times)), len(times))

    def test_the_rows_follow_the_settings_at_a_start(self):
        run_worker(options=HOURLY)
        self.assertEqual(row().name, "tests.app.tasks.no_value")
        run_worker()
        self.assertIsNone(row())


class RunnerTests(WorkerTestCase):
    def looks(self, **changes):
        """Return whether a runner looked at what is due while it ran a task."""
        runner = Runner(**changes)
        with mock.patch.object(Timetable, "tick", return_value=Fired()) as tick:
            thread = threading.Thread(target=runner.run)
            thread.start()
            try:
                if changes["periodic"]:
                    eventually(lambda: tick.called, "it looks")
                self.assertTrue(runner.wait_for(tasks.add.enqueue(1, 2), 30))
            finally:
                runner.stop()
                thread.join()
        return tick.called

    def test_a_runner_fires_unless_it_is_told_not_to(self):
        self.assertTrue(self.looks(periodic=True))
        self.assertFalse(self.looks(periodic=False))


class OutageTests(WorkerTestCase):
    def test_an_outage_is_said_once_and_outlasted(self):
        away = threading.Event()
        away.set()
        scheduler = Scheduler(
            Timetable("default", {}),
            worker_id="w",
            clock=Clock(),
            look_every=0.01,
            on_fired=lambda: None,
        )

        def tick(now):
            if away.is_set():
                raise OperationalError("away")
            return Fired()

        with (
            mock.patch.object(Timetable, "tick", side_effect=tick) as looks,
            mock.patch("durable_tasks.worker.scheduler.PAUSE", 0.01),
            self.assertLogs("durable_tasks") as logs,
        ):
            scheduler.start()
            eventually(lambda: looks.call_count > 2, "it tries again")
            away.clear()
            eventually(lambda: len(logs.output) > 1, "it says that it can")
            scheduler.stop()
        self.assertEqual(
            [line.split(":", 2)[2] for line in logs.output],
            [
                "Periodic tasks can't be fired, and this is tried again: away",
                "Periodic tasks are fired again.",
            ],
        )
