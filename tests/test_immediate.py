"""``OPTIONS["immediate"]``: tasks run where they are enqueued; and ``OPTIONS["signals"]``."""

import logging
import os
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, transaction
from django.test import TestCase, override_settings
from django.utils import timezone

from durable_tasks import Runner
from durable_tasks.chores import rescue
from durable_tasks.compat import (
    InvalidTask,
    TaskResultStatus,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
    tasks_logger,
)
from durable_tasks.models import Job
from durable_tasks.store import store_for

from .app import inline_tasks, tasks
from .app.models import Effect
from .helpers import (
    WorkerTestCase,
    broken_receiver,
    effects,
    heard,
    run_command,
    tasks_setting,
    work,
)

immediate = override_settings(TASKS=tasks_setting(immediate=True))


class EndingsContract:
    """What holds inside of a transaction and outside."""

    def test_a_task_has_run_when_enqueue_returns(self):
        before = timezone.now()
        result = tasks.add.enqueue(1, b=2)
        self.assertEqual((result.status, result.return_value), (TaskResultStatus.SUCCESSFUL, 3))
        self.assertEqual((result.attempts, result.args, result.kwargs), (1, [1], {"b": 2}))
        [worker] = result.worker_ids
        self.assertIn(f"-{os.getpid()}-", worker)
        job = result.job
        self.assertEqual((job.status, job.return_value, job.errors), ("SUCCESSFUL", 3, None))
        self.assertEqual((job.worker_id, job.attempts, job.lost), (worker, 1, 0))
        times = [before, job.enqueued_at, job.started_at, job.finished_at, timezone.now()]
        self.assertEqual(times, sorted(times))
        self.assertEqual(job.last_attempted_at, job.started_at)
        self.assertEqual(tasks.add.get_result(result.id), result)

    def test_what_a_task_raises_is_its_failure_and_not_the_callers(self):
        result = tasks.fail.enqueue("no luck today")
        self.assertEqual(result.status, TaskResultStatus.FAILED)
        self.assertIs(result.errors[0].exception_class, ValueError)
        self.assertIn("no luck today", result.errors[0].traceback)
        job = result.job
        self.assertEqual((job.status, job.attempts, job.worker_id), ("FAILED", 1, None))
        self.assertEqual(job.errors[0]["worker_id"], result.worker_ids[0])
        self.assertEqual(tasks.leave.enqueue().status, TaskResultStatus.FAILED)

    def test_an_interrupt_of_the_caller_goes_on_when_the_job_has_failed(self):
        with self.assertRaises(KeyboardInterrupt):
            tasks.interrupt.enqueue()
        self.assertEqual(Job.objects.get().status, "FAILED")

    def test_what_a_task_wrote_before_it_failed_stays_as_with_a_worker(self):
        inline_tasks.effect_then_fail.enqueue("kept")
        self.assertEqual(effects(), ["kept"])

    def test_a_value_that_cannot_be_stored_is_a_failure(self):
        self.assertEqual(tasks.an_object.enqueue().status, TaskResultStatus.FAILED)

    def test_what_the_database_refuses_is_a_failure(self):
        result = inline_tasks.deep.enqueue()
        self.assertTrue(result.is_finished)
        self.assertEqual(Job.objects.get().status, result.job.status)
        self.assertEqual(tasks.add.enqueue(1, 2).return_value, 3)

    def test_coroutines_run_too(self):
        self.assertEqual(tasks.async_add.enqueue(1, 2).return_value, 3)
        self.assertEqual(tasks.async_effect.enqueue("a").status, TaskResultStatus.SUCCESSFUL)
        self.assertEqual(effects(), ["a"])
        self.assertEqual(tasks.async_fail.enqueue().status, TaskResultStatus.FAILED)

    async def test_it_works_in_async_code(self):
        result = await tasks.add.aenqueue(1, 2)
        self.assertEqual(result.return_value, 3)
        result = await tasks.async_add.aenqueue(1, 2)
        self.assertEqual(result.return_value, 3)
        await tasks.async_effect.aenqueue("a")
        self.assertEqual(await Effect.objects.acount(), 1)

    def test_another_run_comes_at_once(self):
        result = tasks.fail_until.enqueue("x", 3)
        self.assertEqual((result.return_value, result.attempts), (3, 3))
        self.assertEqual(len(result.errors), 2)
        result = tasks.ask_again.enqueue(3600)
        self.assertEqual((result.return_value, result.attempts), (2, 2))
        result = tasks.fail_for_an_hour.enqueue()
        self.assertEqual((result.status, result.attempts), (TaskResultStatus.FAILED, 2))
        self.assertEqual(result.job.attempts, 2)

    def test_nobody_waits_for_a_task_that_asks_to_run_later(self):
        result = tasks.snooze.enqueue("x", times=1, after=30)
        self.assertEqual((result.status, result.attempts), (TaskResultStatus.FAILED, 1))
        self.assertEqual(result.errors[0].exception_class.__name__, "CannotWait")
        self.assertIn('["immediate"] on, nobody runs it later', result.errors[0].traceback)
        self.assertEqual(effects(), ["x 1"])

    def test_a_task_may_cancel_itself(self):
        result = tasks.cancel_itself.enqueue("enough")
        self.assertEqual(result.status, TaskResultStatus.FAILED)
        self.assertEqual(result.job.status, "CANCELLED")

    def test_a_task_sees_itself_running(self):
        value = tasks.describe.enqueue("word").return_value
        self.assertEqual((value["status"], value["attempt"], value["word"]), ("RUNNING", 1, "word"))
        self.assertEqual(inline_tasks.row_status.enqueue().return_value, "RUNNING")

    def test_a_task_may_enqueue_others(self):
        tasks.effect_then_more.enqueue("x", 2)
        self.assertEqual(effects(), ["x", "x+", "x++"])
        self.assertEqual(Job.objects.successful().count(), 3)

    def test_coroutines_may_enqueue_others(self):
        result = inline_tasks.async_enqueue.enqueue(["a", "b"])
        self.assertEqual(result.return_value, ["SUCCESSFUL"] * 4)
        self.assertEqual(effects(), ["a", "a", "b", "b"])

    async def test_coroutines_may_enqueue_others_in_async_code(self):
        result = await inline_tasks.async_enqueue.aenqueue(["a"])
        self.assertEqual(result.return_value, ["SUCCESSFUL"] * 2)

    def test_a_task_that_must_not_run_twice_runs(self):
        result = inline_tasks.once.enqueue()
        self.assertEqual(result.return_value, "once")
        self.assertEqual(result.job.started_lease, 1)

    def test_atomic_tasks_leave_all_or_nothing(self):
        self.assertEqual(tasks.atomic_effect.enqueue("a").return_value, "a")
        self.assertEqual(tasks.atomic_effect.enqueue("b", "fail").status, TaskResultStatus.FAILED)
        self.assertEqual(effects(), ["a", "a child"])
        self.assertEqual(Job.objects.successful().count(), 2)

    def test_many_run_in_order(self):
        backend = task_backends["default"]
        results = backend.enqueue_many(
            [(tasks.effect, [key], {}) for key in "cab"] + [(tasks.fail, [], {})]
        )
        self.assertEqual([result.is_finished for result in results], [True] * 4)
        self.assertEqual(results[-1].status, TaskResultStatus.FAILED)
        self.assertEqual(effects(), ["c", "a", "b"])

    def test_what_is_run_again_by_hand_has_ended_again(self):
        result = inline_tasks.fail_once.enqueue("x")
        self.assertEqual(result.status, TaskResultStatus.FAILED)
        self.assertIs(result.retry(), True)
        result.refresh()
        self.assertEqual((result.status, result.return_value), ("SUCCESSFUL", 2))
        self.assertIs(result.retry(), False)
        self.assertEqual(len(effects()), 2)

    async def test_so_it_has_in_async_code(self):
        result = await inline_tasks.fail_once.aenqueue("x")
        self.assertIs(await result.aretry(), True)
        await result.arefresh()
        self.assertEqual(result.return_value, 2)

    def test_many_that_are_run_again_have_ended_again(self):
        good, bad = inline_tasks.fail_once.enqueue("x"), tasks.fail.enqueue()
        added = tasks.add.enqueue(1, 2)
        self.assertEqual(Job.objects.all().retry(), 2)
        self.assertEqual([each.job.status for each in (good, bad)], ["SUCCESSFUL", "FAILED"])
        self.assertEqual((len(bad.job.errors), added.job.lease), (2, 1))
        self.assertEqual(Job.objects.filter(id=added.id).retry(successful=True), 1)
        self.assertEqual((added.job.status, added.job.lease > 1), ("SUCCESSFUL", True))

    def test_what_an_interrupt_has_left_can_be_run_after_all(self):
        backend = task_backends["default"]
        with self.assertRaises(KeyboardInterrupt):
            backend.enqueue_many([(tasks.interrupt, [], {}), (tasks.effect, ["x"], {})])
        left = Job.objects.ready()
        self.assertEqual((left.cancel(), Job.objects.filter(status="CANCELLED").retry()), (1, 1))
        self.assertEqual(effects(), ["x"])

    def test_a_later_time_is_refused_with_the_reason(self):
        later = timezone.now() + timedelta(hours=1)
        with self.assertRaisesMessage(InvalidTask, "run_after needs a worker"):
            tasks.add.using(run_after=later)

    @override_settings(TASKS=tasks_setting(immediate=True, retain=60, retain_failed="1h"))
    def test_jobs_stay_as_long_as_with_a_worker(self):
        for task, stays in (
            (tasks.no_value, timedelta(minutes=1)),
            (tasks.fail, timedelta(hours=1)),
            (inline_tasks.atomic, timedelta(minutes=1)),
        ):
            job = task.enqueue().job
            self.assertEqual(job.delete_after, job.finished_at + stays)

    def test_signals_come_in_their_order_and_a_broken_receiver_does_no_harm(self):
        order = []
        with (
            heard(task_enqueued) as enqueued,
            heard(task_started) as started,
            heard(task_finished) as finished,
            broken_receiver(task_enqueued, task_started, task_finished),
            self.assertLogs("django.dispatch", "ERROR"),
        ):
            result = tasks.add.enqueue(1, 2)
            order += [calls[0][1].status for calls in (enqueued, started, finished)]
            failed = tasks.fail.enqueue()
        self.assertEqual(order, ["READY", "RUNNING", "SUCCESSFUL"])
        self.assertEqual([len(calls) for calls in (enqueued, started, finished)], [2, 2, 2])
        self.assertEqual([each.id for _, each in finished], [result.id, failed.id])
        self.assertIs(finished[0][0], type(task_backends["default"]))

    def test_log_lines_are_those_of_a_worker(self):
        with self.assertLogs("durable_tasks", "DEBUG") as logs:
            tasks.add.enqueue(1, 2)
            tasks.fail.enqueue("no luck")
        texts = [record.getMessage() for record in logs.records]
        for text in ("starts, attempt 1", "ended well", "failed: builtins.ValueError: no luck"):
            self.assertEqual(sum(text in each for each in texts), 1 + (text[:6] == "starts"), texts)
        self.assertEqual(logs.records[0].task_path, "tests.app.tasks.add")

    def test_what_a_task_leaves_in_its_context_ends_with_it(self):
        self.assertEqual(tasks.leave_context.enqueue("mine").return_value, "nothing")
        self.assertEqual(tasks.leave_context.enqueue("mine").return_value, "nothing")


@immediate
class OutsideTests(EndingsContract, WorkerTestCase):
    def test_jobs_of_a_commit_run_after_it(self):
        with transaction.atomic():
            tasks.effect.enqueue_on_commit("after")
            self.assertEqual(effects(), [])
        self.assertEqual(effects(), ["after"])
        self.assertEqual(Job.objects.get().status, "SUCCESSFUL")

    def test_atomic_tasks_have_a_transaction_of_their_own(self):
        result = tasks.atomic_effect.enqueue("x", "callback fails")
        self.assertEqual((result.status, effects()), ("SUCCESSFUL", ["x", "x child"]))

    def test_a_task_that_leaves_a_transaction_open_does_not_take_others_into_it(self):
        own = connections["default"]  # which the tests' database is taken down with
        tasks.leave_transaction_open.enqueue("never")
        self.assertIs(connections["default"], own)
        self.assertFalse(connection.in_atomic_block)
        self.assertEqual((effects(), Job.objects.get().status), ([], "SUCCESSFUL"))

    def test_workers_of_other_backends_leave_what_runs_here_alone(self):
        def look(**arguments):
            rescue.tick(
                store_for(connection),
                timezone.now(),
                seen=0,
                timeout=30,
                max_lost=1,
                is_gone=lambda row: False,
                **arguments,
            )

        inline_tasks.during = lambda: look(backend_name="another")
        self.assertEqual(inline_tasks.call_during.enqueue().status, TaskResultStatus.SUCCESSFUL)
        # One of its own, which should not be there, would not: it counts the run as lost.
        inline_tasks.during = lambda: look(backend_name="default")
        with self.assertLogs("durable_tasks", "WARNING") as logs:
            result = inline_tasks.call_during.enqueue()
        self.assertIn("does not count", logs.output[0])
        self.assertEqual(result.errors[0].exception_class.__name__, "WorkerLost")


@immediate
class InsideTests(EndingsContract, TestCase):
    def test_a_database_error_is_undone_alone(self):
        with transaction.atomic():
            Effect.objects.create(key="mine")
            for task in (inline_tasks.break_constraint, inline_tasks.async_break_constraint):
                result = task.enqueue("theirs")
                self.assertEqual(result.status, TaskResultStatus.FAILED)
                self.assertIn("IntegrityError", result.errors[0].exception_class_path)
            Effect.objects.create(key="mine too")
        self.assertEqual(effects(), ["mine", "mine too"])
        self.assertEqual(Job.objects.failed().count(), 2)

    def test_a_database_error_that_the_task_swallows_does_not_break_the_transaction(self):
        result = inline_tasks.swallow_error.enqueue("theirs")
        # What it wrote is undone, so that it has not succeeded.
        self.assertEqual(result.status, TaskResultStatus.FAILED)
        self.assertIn("has caught a database error", result.errors[0].traceback)
        Effect.objects.create(key="mine")
        self.assertEqual((effects(), result.job.status), (["mine"], "FAILED"))

    def test_a_block_that_the_task_leaves_open_is_undone_alone(self):
        with transaction.atomic():
            result = tasks.leave_transaction_open.enqueue("never")
            Effect.objects.create(key="mine")
        self.assertEqual((effects(), result.job.status), (["mine"], "SUCCESSFUL"))
        self.assertEqual(len(connection.atomic_blocks), 2)  # those of the test

    def test_the_callers_rollback_takes_all_of_it(self):
        with self.assertRaises(KeyError), transaction.atomic():
            tasks.effect.enqueue("x")
            raise KeyError
        self.assertEqual((effects(), Job.objects.count()), ([], 0))

    def test_a_database_error_is_retried_like_any_other(self):
        result = inline_tasks.break_then_succeed.enqueue("x")
        self.assertEqual((result.status, result.attempts), (TaskResultStatus.SUCCESSFUL, 2))


@pytest.mark.any_database
@immediate
class NoWorkerTests(WorkerTestCase):
    def test_no_worker_starts(self):
        text = 'TASKS["default"]["OPTIONS"]["immediate"] is on'
        for start in (Runner, work):
            with self.assertRaisesMessage(ImproperlyConfigured, text):
                start()

    def test_no_command_starts_one(self):
        for command in (["db_worker"], ["db_worker", "--processes", "2"], ["taskrunner"]):
            done = run_command(*command, options={"immediate": True})
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn('["immediate"] is on: tasks run where they are enqueued', done.stderr)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)


class SignalsTests(WorkerTestCase):
    def run_some(self, **options):
        """Return how many signals of each kind came of two tasks and a cancel, and the logs."""
        with (
            override_settings(TASKS=tasks_setting(**options)),
            heard(task_enqueued) as enqueued,
            heard(task_started) as started,
            heard(task_finished) as finished,
            self.assertLogs("durable_tasks", "INFO") as logs,
        ):
            task_backends["default"].enqueue_many([(tasks.add, [1], {}), (tasks.fail, [], {})])
            if not options.get("immediate"):
                tasks.add.using(queue_name="other").enqueue(1).cancel()
                work()
        return [len(calls) for calls in (enqueued, started, finished)], "\n".join(logs.output)

    def test_they_are_sent_unless_switched_off(self):
        self.assertEqual(self.run_some()[0], [3, 2, 3])
        counts, logs = self.run_some(signals=False)
        self.assertEqual(counts, [0, 0, 0])
        self.assertIn("failed: builtins.ValueError: no luck", logs)

    def test_so_it_is_where_tasks_run_at_once(self):
        self.assertEqual(self.run_some(immediate=True)[0], [2, 2, 2])
        counts, logs = self.run_some(immediate=True, signals=False)
        self.assertEqual(counts, [0, 0, 0])
        self.assertIn("failed: builtins.ValueError: no luck", logs)

    def test_djangos_own_log_lines_come_from_its_signals(self):
        with self.assertLogs(tasks_logger.name, "DEBUG") as logs:
            self.run_some()
        self.assertEqual(len(logs.records), 8)
        with self.assertNoLogs(tasks_logger.name, logging.DEBUG):
            self.run_some(signals=False)
