"""Jobs that run again, or not now, or no more, because their task says so."""

import tempfile
from datetime import timedelta
from pathlib import Path

from django.test import override_settings, skipUnlessDBFeature

from durable_tasks.compat import task_finished
from durable_tasks.models import Job

from ..app import tasks
from ..helpers import (
    WorkerTestCase,
    effects,
    ended,
    eventually,
    heard,
    running_worker,
    statuses,
    tasks_setting,
    work,
)


class RetryTests(WorkerTestCase):
    def test_a_job_runs_again_until_it_succeeds(self):
        for task in (tasks.fail_until, tasks.async_fail_until):
            with self.subTest(task.name), heard(task_finished) as ends:
                result = task.enqueue(task.name, 3)
                work(worker_id="w")
                job = result.job
                self.assertEqual(
                    (job.status, job.return_value, job.attempts, job.lost, job.worker_id),
                    ("SUCCESSFUL", 3, 3, 0, "w"),
                )
                self.assertEqual([error["attempt"] for error in job.errors], [1, 2])
                self.assertIn("run 2", job.errors[1]["traceback"])
                self.assertTrue(job.started_at < job.last_attempted_at < job.finished_at)
                result.refresh()
                self.assertEqual((result.attempts, result.worker_ids), (3, ["w"] * 3))
                self.assertEqual(len(result.errors), 2)
                # Only the end is announced.
                self.assertEqual([each.status for _, each in ends], ["SUCCESSFUL"])

    def test_a_job_fails_when_its_attempts_are_used_up(self):
        result = tasks.fail_until.enqueue("x", 99)
        with heard(task_finished) as ends:
            work()
        job = result.job
        self.assertEqual((job.status, job.attempts, len(job.errors)), ("FAILED", 3, 3))
        self.assertEqual(effects(), ["x"] * 3)
        self.assertEqual([each.status for _, each in ends], ["FAILED"])

    def test_a_retry_that_waits_is_scheduled_with_its_errors(self):
        result = tasks.fail_for_an_hour.enqueue()
        work()
        job = result.job
        self.assertEqual(
            (job.status, job.attempts, job.worker_id, job.finished_at, job.lease),
            ("SCHEDULED", 1, None, None, 2),
        )
        self.assertEqual(job.exception_class_path, "builtins.ValueError")
        wait = job.run_at - job.last_attempted_at
        self.assertTrue(timedelta(hours=1) <= wait < timedelta(hours=1, minutes=1), wait)
        result.refresh()
        self.assertEqual((result.status, len(result.errors)), ("READY", 1))
        # As a scheduled job it runs when it is due.
        Job.objects.update(run_at=job.enqueued_at)
        work()
        self.assertEqual((result.job.status, result.job.attempts), ("FAILED", 2))

    def test_a_lost_run_uses_up_no_attempt(self):
        result = tasks.fail_until.enqueue("x", 3)
        Job.objects.update(attempts=2, lost=2)
        work()
        self.assertEqual((result.job.status, result.job.attempts), ("SUCCESSFUL", 5))

    def test_rules_that_fail_end_the_job_and_show_both_errors(self):
        result = tasks.fail_with_bad_rules.enqueue()
        work()
        self.assertEqual((result.job.status, result.job.attempts), ("FAILED", 1))
        text = result.job.errors[0]["traceback"]
        self.assertIn("What backoff returns must be seconds", text)
        self.assertIn("what happened", text)

    def test_a_task_may_ask_for_another_run(self):
        result = tasks.ask_again.enqueue(0)
        later = tasks.ask_again.enqueue(3600)
        work()
        self.assertEqual(result.job.return_value, 2)
        self.assertEqual(statuses([result, later]), ["SUCCESSFUL", "SCHEDULED"])

    def test_a_snoozed_run_does_not_count(self):
        result = tasks.snooze.enqueue("x", 2)
        later = tasks.snooze.enqueue("y", 1, after=3600)
        with heard(task_finished) as ends:
            work()
        job = result.job
        self.assertEqual(
            (job.status, job.return_value, job.attempts, job.errors), ("SUCCESSFUL", 1, 1, None)
        )
        self.assertEqual(effects("x"), ["x 1"] * 3)
        self.assertEqual((later.job.status, later.job.attempts), ("SCHEDULED", 0))
        self.assertEqual(len(ends), 1)

    def test_a_snooze_for_no_time_is_the_tasks_error(self):
        result = tasks.snooze_for_ever.enqueue()
        work()
        self.assertEqual(result.job.status, "FAILED")
        self.assertIn("Snooze(after) must be seconds", result.job.errors[0]["traceback"])

    def test_a_task_may_cancel_its_own_job(self):
        result = tasks.cancel_itself.enqueue("nobody wants it")
        with heard(task_finished) as ends:
            work()
        self.assertEqual(result.job.status, "CANCELLED")
        result.refresh()
        [error] = result.errors
        self.assertEqual(error.exception_class_path, "durable_tasks.exceptions.TaskCancelled")
        self.assertIn("nobody wants it", error.traceback)
        self.assertEqual([each.status for _, each in ends], ["FAILED"])

    @override_settings(TASKS=tasks_setting(max_attempts=2, backoff="tests.app.tasks.at_once"))
    def test_tasks_that_say_nothing_have_the_options_rules(self):
        results = [tasks.fail.enqueue(), tasks.fail_until.enqueue("x", 3)]
        work()
        self.assertEqual([result.job.attempts for result in results], [2, 3])

    def test_a_retry_that_is_due_soon_starts_then_and_not_at_the_next_look(self):
        result = tasks.ask_again.enqueue(0.2)
        # At this interval the test would never end.
        with running_worker("--interval", "3600"):
            self.assertEqual(result.wait_finished(30).return_value, 2)


class AtomicTests(WorkerTestCase):
    def test_effects_jobs_and_completion_commit_together(self):
        with heard(task_finished) as ends:
            result = tasks.atomic_effect.enqueue("x")
            work(worker_id="w")
        job = result.job
        self.assertEqual(
            (job.status, job.return_value, job.attempts, job.worker_id),
            ("SUCCESSFUL", "x", 1, "w"),
        )
        self.assertEqual(effects(), ["x", "x child"])
        self.assertEqual([each.status for _, each in ends], ["SUCCESSFUL"] * 2)

    def test_a_failure_undoes_all(self):
        result = tasks.atomic_effect.enqueue("x", "fail")
        work()
        self.assertEqual((result.job.status, effects()), ("FAILED", []))
        self.assertEqual(Job.objects.count(), 1)

    def test_a_value_that_cannot_be_stored_undoes_all(self):
        result = tasks.atomic_effect.enqueue("x", "unstorable")
        work()
        self.assertEqual((result.job.status, effects()), ("FAILED", []))

    def test_what_fails_after_the_commit_undoes_nothing(self):
        with self.assertLogs("durable_tasks", "ERROR") as logs:
            result = tasks.atomic_effect.enqueue("x", "callback fails")
            work()
        self.assertIn("has committed; a function that it registered", logs.output[0])
        self.assertEqual((result.job.status, effects()), ("SUCCESSFUL", ["x", "x child"]))

    @skipUnlessDBFeature("has_select_for_update")  # on SQLite nobody else can write meanwhile
    def test_a_run_that_lost_its_job_undoes_all(self):
        result = tasks.atomic_but_lost.enqueue("x")
        with self.assertLogs("durable_tasks", "WARNING") as logs:
            work()
        self.assertIn("does not count: another worker has the job", "".join(logs.output))
        job = result.job
        self.assertEqual((job.status, job.lease, job.worker_id), ("RUNNING", 9, "another"))
        self.assertEqual(effects(), [])

    def test_a_killed_run_leaves_nothing_and_runs_again(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "held"
            result = tasks.atomic_hold.enqueue("x", str(path))
            with running_worker() as worker:
                eventually(path.exists, "the task holds")
                worker.kill()
            path.unlink()
            with running_worker():
                eventually(path.exists, "it runs again")
                path.unlink()
                self.assertEqual(ended(result).status, "SUCCESSFUL")
        self.assertEqual(effects(), ["x"])
