"""Runs that are ended from outside: time limits, and jobs that are cancelled."""

import random
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from django.db import OperationalError, connection
from django.test import override_settings, skipUnlessDBFeature

from durable_tasks.execute import Executor
from durable_tasks.models import Job, Worker
from durable_tasks.worker import interrupts
from durable_tasks.worker.loop import Loop
from durable_tasks.worker.stopping import STUCK

from ..app import slow_tasks, tasks
from ..helpers import (
    WorkerTestCase,
    effects,
    ended,
    eventually,
    held,
    let_go,
    running_worker,
    statuses,
    tasks_setting,
    work,
)


def work_apart(**how):
    """Run a worker in a thread, and so not on the test's own connection."""
    with ThreadPoolExecutor(1) as apart:
        apart.submit(work, **how).result()


class InterruptTestCase(WorkerTestCase):
    def assertTimedOut(self, result, text="ran longer than its timeout of 0.2 s"):
        job = result.job
        self.assertEqual(job.status, "FAILED", job.errors)
        self.assertEqual(job.exception_class_path, "durable_tasks.exceptions.TaskTimeout")
        self.assertIn(f"TaskTimeout: {job.task_path} {text}", job.errors[-1]["traceback"])


class TimeoutTests(InterruptTestCase):
    def test_a_task_that_computes_ends_with_its_time(self):
        result, after = slow_tasks.compute.enqueue(), tasks.add.enqueue(1, 2)
        work_apart()
        self.assertTimedOut(result)
        self.assertIn("in spin", result.job.errors[0]["traceback"])
        self.assertEqual(after.job.return_value, 3)

    def test_a_query_is_cancelled(self):
        result, after = slow_tasks.query.enqueue(), tasks.effect.enqueue("after")
        started = time.monotonic()
        work_apart()
        self.assertLess(time.monotonic() - started, slow_tasks.PATIENCE / 2)
        self.assertTimedOut(result)
        self.assertEqual((after.job.status, effects()), ("SUCCESSFUL", ["after"]))
        sql = {
            "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
            "AND query LIKE 'SELECT pg_sleep%' AND datname = current_database()",
            "mysql": "SELECT count(*) FROM information_schema.processlist "
            "WHERE info LIKE 'SELECT SLEEP%' AND db = DATABASE()",
        }
        if connection.vendor in sql:
            with connection.cursor() as cursor:
                cursor.execute(sql[connection.vendor])
                self.assertEqual(cursor.fetchone(), (0,))

    def test_a_coroutine_is_cancelled_and_tidies_up(self):
        result, beside = slow_tasks.async_sleep.enqueue("x"), tasks.async_add.enqueue(1, 2)
        work_apart()
        self.assertTimedOut(result)
        self.assertEqual(effects(), ["x is tidied"])
        self.assertEqual(beside.job.return_value, 3)

    def test_a_coroutine_that_cancels_itself_is_not_timed_out(self):
        result = slow_tasks.async_cancelled_by_itself.enqueue()
        work_apart()
        self.assertEqual(result.job.status, "FAILED")
        self.assertIn("CancelledError", result.job.exception_class_path)

    def test_an_exception_that_was_caught_comes_again(self):
        results = [slow_tasks.catch.enqueue(2), slow_tasks.async_catch.enqueue(2)]
        with mock.patch.object(interrupts, "AGAIN", 0.05):
            work_apart()
        text = "TaskTimeout: tests.app.slow_tasks.catch ran longer than its timeout of 0.2 s."
        self.assertEqual([result.job.return_value for result in results], [[text, text], 2])

    def test_an_error_that_follows_counts_as_the_timeout(self):
        result = slow_tasks.another_error.enqueue()
        work_apart()
        self.assertTimedOut(result)
        self.assertIn("ValueError: wrapped", result.job.errors[0]["traceback"])

    def test_a_task_may_answer_by_asking_for_another_run(self):
        result = slow_tasks.ask_again.enqueue()
        work_apart()
        self.assertEqual((result.job.return_value, result.job.attempts), ("done", 2))

    def test_a_run_that_timed_out_is_followed_by_another(self):
        result = slow_tasks.slow_at_first.enqueue("x")
        work_apart()
        job = result.job
        self.assertEqual((job.status, job.attempts, len(job.errors)), ("SUCCESSFUL", 2, 1))
        self.assertIn("TaskTimeout", job.errors[0]["exception_class_path"])

    def test_a_run_whose_task_was_never_called_is_not_watched_for_ever(self):
        made = []
        usual = interrupts.Interrupts.watch
        with (
            mock.patch.object(Executor, "_execute_atomic", side_effect=OperationalError("away")),
            mock.patch.object(
                interrupts.Interrupts,
                "watch",
                lambda each, run, at: (made.append(run), usual(each, run, at)),
            ),
        ):
            result = slow_tasks.atomic.enqueue("x")
            work_apart()
        self.assertEqual((result.job.status, [run.closed for run in made]), ("FAILED", [True]))

    def test_an_atomic_task_writes_nothing(self):
        result = slow_tasks.atomic.enqueue("x")
        work_apart()
        self.assertTimedOut(result)
        self.assertEqual(effects(), [])

    @override_settings(TASKS=tasks_setting(timeout=0.1))
    def test_tasks_that_say_nothing_have_the_options_limit(self):
        results = [slow_tasks.without_limit.enqueue(1, 30), tasks.add.enqueue(1, 2)]
        work_apart()
        self.assertTimedOut(results[0], "ran longer than its timeout of 0.1 s")
        self.assertEqual(results[1].job.return_value, 3)

    def test_no_exception_reaches_another_job(self):
        """Jobs that end when their time does, among others that have all the time."""
        chance = random.Random(1)
        for threads in (1, 4):
            limited, free = [], []
            for number in range(120):
                seconds = chance.uniform(0.005, 0.015)
                limited.append(slow_tasks.near_its_limit.enqueue(number, seconds))
                limited.append(slow_tasks.async_near_its_limit.enqueue(number, seconds))
                free.append(slow_tasks.without_limit.enqueue(number, 0.001))
            with self.subTest(threads=threads):
                work_apart(threads=threads)
                self.assertEqual(set(statuses(free)), {"SUCCESSFUL"})
                self.assertEqual([r.job.return_value for r in free], list(range(120)))
                self.assertEqual(set(statuses(limited)), {"SUCCESSFUL", "FAILED"})
                for number, result in enumerate(limited):
                    job = result.job
                    self.assertEqual((job.attempts, job.lost), (1, 0))
                    if job.status == "FAILED":
                        self.assertTimedOut(result, "ran longer than its timeout of 0.01 s")
                    else:
                        self.assertEqual(job.return_value, number // 2)


class CancelTests(InterruptTestCase):
    @contextmanager
    def working(self, **how):
        """Give the loop of a worker that runs in a thread."""
        loops = []
        usual = Loop.run
        with (
            mock.patch.object(Loop, "run", lambda loop: (loops.append(loop), usual(loop))),
            ThreadPoolExecutor(1) as apart,
        ):
            working = apart.submit(work, interval=0.01, **how)
            yield eventually(lambda: loops)[0]
            let_go()
            working.result()

    def cancel(self, result, loop):
        self.assertIs(result.cancel(), True)
        loop.look_for_cancels()

    def test_a_running_task_is_cancelled_and_its_context_says_so(self):
        for task, text in (
            (slow_tasks.poll, "False True The job was cancelled."),
            (slow_tasks.async_poll, "False True"),
        ):
            with self.subTest(task.name):
                result = task.enqueue(task.name)
                with self.working() as loop:
                    held(task.name)
                    self.cancel(result, loop)
                job = ended(result)
                self.assertEqual((job.status, job.attempts), ("CANCELLED", 1))
                self.assertEqual(job.exception_class_path, "durable_tasks.exceptions.TaskCancelled")
                self.assertIn(text, effects())

    @skipUnlessDBFeature("has_select_for_update")  # on SQLite nobody else can write meanwhile
    def test_an_atomic_task_writes_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            begun = Path(folder) / "begun"
            result = slow_tasks.atomic_without_limit.enqueue("x", str(begun))
            with self.working() as loop:
                eventually(begun.exists)
                self.cancel(result, loop)
                self.assertEqual((ended(result).status, effects("x")), ("CANCELLED", []))

    @override_settings(TASKS=tasks_setting(prefetch=5))
    def test_what_has_not_begun_never_does(self):
        with mock.patch("durable_tasks.worker.loop.MAX_WAIT", 3600):
            for hold, effect in (
                (tasks.hold, tasks.effect),
                (tasks.async_hold, tasks.async_effect),
            ):
                with self.subTest(effect.name):
                    key = hold.name
                    first = hold.enqueue(key)
                    cancelled, kept = effect.enqueue("never"), effect.enqueue(f"kept {key}")
                    with self.working(coroutines=1) as loop:
                        held(key)
                        for each in (cancelled, kept):
                            eventually(lambda each=each: each.job.status == "RUNNING")
                        self.cancel(cancelled, loop)
                        job = ended(cancelled)
                    self.assertEqual(
                        (job.status, job.attempts, job.started_at, job.last_attempted_at),
                        ("CANCELLED", 0, None, None),
                    )
                    self.assertEqual(statuses([first, kept]), ["SUCCESSFUL"] * 2)
                    self.assertEqual(effects("never"), [])
                    self.assertEqual(effects("kept")[-1:], [f"kept {key}"])
                    Job.objects.all().delete()
                    tasks.Effect.objects.all().delete()

    def test_nor_does_what_waits_to_run_alone(self):
        first, cancelled = tasks.hold.enqueue("x"), tasks.effect.enqueue("never")
        Job.objects.update(attempts=2, lost=2)
        with (
            mock.patch("durable_tasks.worker.loop.MAX_WAIT", 3600),
            self.working(threads=2) as loop,
        ):
            held("x")
            eventually(lambda: cancelled.job.status == "RUNNING")
            self.cancel(cancelled, loop)
            job = ended(cancelled)
        self.assertEqual((job.status, job.attempts), ("CANCELLED", 2))
        self.assertEqual((first.job.status, effects("never")), ("SUCCESSFUL", []))


class MainThreadTests(InterruptTestCase):
    def test_with_one_thread_a_sleep_ends_with_its_time(self):
        with running_worker() as worker:
            result = slow_tasks.sleep.enqueue()
            ended(result)
            self.assertTimedOut(result)
            self.assertEqual(ended(tasks.add.enqueue(1, 2)).return_value, 3)
            self.assertEqual(worker.stop(), 0)

    def test_its_signal_is_given_back(self):
        before = signal.getsignal(interrupts.SIGNAL)
        slot = interrupts.MainSlot(None)
        signal.raise_signal(interrupts.SIGNAL)  # from somebody else
        slot.end()
        self.assertEqual(signal.getsignal(interrupts.SIGNAL), before)

    def test_a_stop_does_not_keep_a_task_from_its_timeout(self):
        result = slow_tasks.slow_at_first.enqueue("x")
        with running_worker() as worker:
            eventually(lambda: effects() == ["x"], "it runs")
            self.assertEqual(worker.stop(), 0)
        self.assertIn(result.job.status, ("READY", "SUCCESSFUL"))
        self.assertIn("TaskTimeout", result.job.errors[0]["exception_class_path"])


class StuckTests(InterruptTestCase):
    """Tasks that do not end whatever is raised in them."""

    ENV = {"DURABLE_TASKS_TEST_GRACE": "0.5"}

    def run_stuck(self, task, *arguments, beside=(), status="SCHEDULED"):
        """Return the job of a task with which its worker exits."""
        result = task.enqueue("x") if task is not slow_tasks.catch_all else task.enqueue()
        with running_worker("--threads", "2", *arguments, env=self.ENV) as worker:
            worker.says("does not end although it was interrupted")
            waiting = tasks.effect.enqueue("not by this worker")
            for key in beside:
                self.assertEqual(worker.process.poll(), None)
                let_go(key)
            self.assertEqual(worker.wait(), STUCK)
            self.assertIn("exits from under a run that can't be ended", worker.output())
            self.assertFalse(Worker.objects.exists())
        job = result.job
        self.assertEqual((job.status, job.worker_id, waiting.job.status), (status, None, "READY"))
        self.assertIn("TaskTimeout", job.errors[0]["traceback"])
        self.assertIn("It was here:", job.errors[0]["traceback"])
        return result

    def test_the_process_ends_after_the_others_and_a_new_one_runs_it_again(self):
        other = tasks.hold.enqueue("y")
        result = self.run_stuck(slow_tasks.stuck_at_first, beside=["y"])
        self.assertEqual((other.job.status, effects("done")), ("SUCCESSFUL", ["done y"]))
        with running_worker():
            job = ended(result)
        self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 2, 0))
        self.assertEqual(effects("x"), ["x begins", "x begins"])

    @pytest.mark.any_database
    def test_a_task_that_catches_everything(self):
        self.run_stuck(slow_tasks.catch_all, status="FAILED")

    @pytest.mark.any_database
    def test_a_coroutine_that_blocks_its_loop(self):
        result = self.run_stuck(slow_tasks.async_stuck_at_first)
        self.assertIn("time.sleep", result.job.errors[0]["traceback"])

    @pytest.mark.any_version
    def test_what_does_not_end_beside_it_is_rescued(self):
        other = tasks.hold.enqueue("y")
        with running_worker("--threads", "2", "--shutdown-timeout", "0.5", env=self.ENV) as worker:
            held("y")
            slow_tasks.stuck_at_first.enqueue("x")
            self.assertEqual(worker.wait(), STUCK)
        self.assertEqual(other.job.status, "RUNNING")
        let_go()
        with running_worker():
            self.assertEqual(ended(other).lost, 1)

    @pytest.mark.any_version
    @pytest.mark.any_database
    def test_a_supervisor_replaces_the_process_at_once(self):
        result = slow_tasks.stuck_at_first.enqueue("x")
        with running_worker(
            *("--processes", "2", "--worker-id", "w", "--threads", "2"), env=self.ENV, ready=False
        ) as supervisor:
            job = ended(result)
            supervisor.says("had a task that did not end")
            self.assertIn("starting it again at once", supervisor.output())
            self.assertEqual(supervisor.stop(), 0)
        self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 2, 0))

    @pytest.mark.any_database
    def test_in_a_process_that_is_not_ours_it_is_waited_for(self):
        result = slow_tasks.sleep.enqueue(1)
        with (
            mock.patch.object(interrupts, "GRACE", 0.2),
            self.assertLogs("durable_tasks", "ERROR") as logs,
        ):
            work_apart(threads=2)
        self.assertIn("Its thread is lost until it ends by itself", "".join(logs.output))
        self.assertTimedOut(result)
        self.assertNotIn("interrupt", {thread.name for thread in threading.enumerate()})
