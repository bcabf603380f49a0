"""Ended jobs are deleted when their time has come."""

import threading
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock

import pytest
from django.db import DatabaseError
from django.test import override_settings
from django.utils import timezone

from durable_tasks import Periodic, Runner
from durable_tasks.chores import prune
from durable_tasks.models import Job

from ..app import slow_tasks, tasks
from ..helpers import (
    WorkerTestCase,
    ended,
    eventually,
    held,
    let_go,
    row_of,
    running_worker,
    tasks_setting,
    work,
)

ADD = "tests.app.tasks.add"
DAY = timedelta(days=1)
SOON = {"DURABLE_TASKS_TEST_PRUNE": "0.05"}


@contextmanager
def running():
    """Let a runner work during the block."""
    runner = Runner(interval=0.05)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield
    finally:
        runner.stop()
        thread.join()


def stays(result):
    """Return how long an ended job stays."""
    row = row_of(result)
    return row["delete_after"] and row["delete_after"] - row["finished_at"]


class EndingTests(WorkerTestCase):
    """However a job ends, it is known then how long it stays."""

    def test_a_task_says_how_long_its_jobs_stay(self):
        results = [tasks.retained.enqueue(then) for then in ("", "fail", "cancel")]
        results.append(tasks.atomic_retained.enqueue())
        plain = [tasks.add.enqueue(1), tasks.fail.enqueue(), tasks.kept.enqueue()]
        work()
        self.assertEqual([stays(result) for result in results], [DAY, 2 * DAY, 2 * DAY, DAY])
        self.assertEqual([stays(result) for result in plain], [None] * 3)

    @override_settings(TASKS=tasks_setting(retain="1d", retain_failed={"tests.app.tasks.fail": 0}))
    def test_the_options_say_it_for_the_others(self):
        results = [tasks.add.enqueue(1), tasks.async_add.enqueue(1), tasks.fail.enqueue()]
        results += [tasks.fail_until.enqueue("x", 99), tasks.kept.enqueue()]
        work()
        self.assertEqual([stays(each) for each in results], [DAY, DAY, timedelta(), DAY, None])

    @override_settings(TASKS=tasks_setting(retain="1d"))
    def test_a_cancel_by_hand_is_an_end_and_a_retry_is_none(self):
        for cancel in (lambda result: result.cancel(), lambda result: self.of(result).cancel()):
            result = tasks.add.enqueue(1)
            self.assertTrue(cancel(result))
            self.assertEqual(stays(result), DAY)
            self.assertTrue(self.of(result).retry())
            self.assertIsNone(row_of(result)["delete_after"])
            work()
            self.assertEqual((result.job.status, stays(result)), ("SUCCESSFUL", DAY))

    @override_settings(
        TASKS=tasks_setting(
            retain="1d", periodic={"hourly": Periodic("1h", task=ADD, retain="2d"), ADD: "1h"}
        )
    )
    def test_what_a_periodic_task_says_wins_for_its_jobs(self):
        results = [tasks.add.enqueue(1) for _ in range(4)]
        for result, schedule in zip(results, ("hourly", ADD, "gone"), strict=False):
            self.of(result).update(schedule=schedule)
        cancelled = tasks.add.enqueue(1)
        self.of(cancelled).update(schedule="hourly")
        cancelled.cancel()
        work(periodic=False)
        self.assertEqual(
            [stays(result) for result in [*results, cancelled]], [2 * DAY, DAY, DAY, DAY, 2 * DAY]
        )

    def of(self, result):
        return Job.objects.filter(id=result.id)

    def test_a_job_of_a_task_that_is_gone(self):
        result = tasks.add.enqueue(1)
        self.of(result).update(task_path="tests.app.gone.task")
        with override_settings(TASKS=tasks_setting(retain={"tests.app.gone.task": "1d"})):
            work()
        self.assertEqual((result.job.status, stays(result)), ("FAILED", DAY))

    def test_a_job_that_is_interrupted_or_given_up(self):
        grace = {"DURABLE_TASKS_TEST_GRACE": "0.5"}
        minute, stuck = tasks.minute.enqueue("x"), slow_tasks.catch_all.enqueue()
        with running_worker("--threads", "2", env=grace, options={"retain_failed": "1d"}) as worker:
            held("x")
            self.assertTrue(minute.cancel())
            worker.wait()
        self.assertEqual((minute.job.status, stuck.job.status), ("CANCELLED", "FAILED"))
        self.assertEqual((stays(minute), stays(stuck)), (DAY, DAY))

    def test_a_job_that_fails_with_its_worker(self):
        result = tasks.hold_once.enqueue("x")
        with running_worker() as worker:
            held("x")
            worker.kill()
        with running_worker(options={"retain": "1d"}):
            ended(result)
        self.assertEqual((result.job.status, stays(result)), ("FAILED", DAY))


class PruneTests(WorkerTestCase):
    def make_rows(self, count, **changes):
        now = timezone.now()
        values = {
            "backend_name": "default",
            "queue_name": "not served",
            "task_path": "tests.app.tasks.add",
            "status": "SUCCESSFUL",
            "run_at": now,
            "enqueued_at": now,
            "finished_at": now,
        }
        Job.objects.bulk_create([Job(**values | changes) for _ in range(count)])

    def test_a_worker_deletes_what_is_due_and_leaves_the_rest(self):
        self.make_rows(3, finished_at=timezone.now() - 999 * DAY)
        self.make_rows(3, delete_after=timezone.now() + DAY)
        self.make_rows(700, delete_after=timezone.now() - DAY)
        options = {"retain": {"tests.app.tasks.add": 0}}
        with running_worker("--threads", "2", env=SOON, options=options) as worker:
            gone = [tasks.add.enqueue(n) for n in range(5)]
            stays = [tasks.fail.enqueue(), tasks.retained.enqueue()]
            running = tasks.hold.enqueue("x")
            for result in stays:
                ended(result)
            held("x")
            eventually(lambda: Job.objects.count() == 9, lambda: f"{Job.objects.count()} are left")
            left = set(Job.objects.values_list("id", flat=True))
            self.assertLessEqual({each.job.id for each in (*stays, running)}, left)
            self.assertFalse(Job.objects.filter(id__in=[each.id for each in gone]).exists())
            let_go()
            self.assertEqual(ended(running).status, "SUCCESSFUL")
            self.assertEqual(worker.stop(), 0)

    @pytest.mark.any_version
    def test_two_workers_share_it_while_they_work(self):
        self.make_rows(5000, delete_after=timezone.now() - DAY)
        with running_worker(env=SOON) as one, running_worker(env=SOON) as other:
            results = [tasks.add.enqueue(n) for n in range(200)]
            eventually(lambda: Job.objects.count() == 200)
            eventually(lambda: Job.objects.successful().count() == 200)
            for worker in (one, other):
                self.assertEqual(worker.stop(), 0)
                self.assertNotIn("Pruning", worker.output())
                self.assertNotIn("WARNING", worker.output())
        self.assertEqual(len(results), 200)

    def test_it_says_once_in_a_round_how_many_can_not_go(self):
        ticks = [prune.Pruned(1, 0.0), prune.Pruned(0, 0.0, kept=3), prune.Pruned(0, 3600.0)]
        with (
            mock.patch.object(prune, "EVERY", 0.05),
            mock.patch.object(prune.Pruning, "tick", side_effect=ticks) as tick,
            self.assertLogs("durable_tasks", "WARNING") as logs,
            running(),
        ):
            eventually(lambda: tick.call_count == 3)
        [said] = logs.output
        self.assertIn("stay, since other rows refer to them: 3.", said)

    def test_a_runner_does_too(self):
        self.make_rows(70, delete_after=timezone.now())
        with mock.patch.object(prune, "EVERY", 0.05), running():
            eventually(lambda: not Job.objects.exists())

    def test_a_batch_does_not(self):
        self.make_rows(7, delete_after=timezone.now() - DAY)
        with mock.patch.object(prune, "EVERY", 0.0):
            tasks.add.enqueue(1)
            work()
        self.assertEqual(Job.objects.count(), 8)

    def test_a_fault_is_told_and_the_worker_goes_on(self):
        self.make_rows(1, delete_after=timezone.now())
        broken = mock.patch.object(
            prune.Pruning, "tick", side_effect=DatabaseError("referenced elsewhere")
        )
        with (
            mock.patch.object(prune, "EVERY", 0.05),
            self.assertLogs("durable_tasks", "WARNING") as logs,
            running(),
        ):
            with broken:
                eventually(lambda: len(logs.records) > 1)
            eventually(lambda: not Job.objects.exists())
        self.assertIn("Pruning has failed and is tried again", logs.output[0])
        self.assertIn("referenced elsewhere", logs.output[0])
