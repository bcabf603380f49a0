"""How a worker comes to know that its jobs were cancelled, and what becomes of them."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock, skipUnless

from django.db import connection

from durable_tasks.exceptions import TaskCancelled
from durable_tasks.store import Store

from ..app import tasks
from ..helpers import (
    WorkerTestCase,
    ended,
    eventually,
    held,
    let_go,
    row_of,
    running_worker,
    statuses,
    work,
)


class CancelTests(WorkerTestCase):
    def test_what_runs_is_interrupted_within_about_a_second(self):
        for threads in ("1", "2"):
            with self.subTest(threads=threads), running_worker("--threads", threads) as worker:
                cancelled = [tasks.async_minute.enqueue(f"a{threads}")]
                cancelled += [tasks.minute.enqueue(f"b{threads}")]
                other = tasks.async_hold.enqueue(f"c{threads}")
                for key in "abc":
                    held(f"{key}{threads}")
                before = time.monotonic()
                self.assertEqual([result.cancel() for result in cancelled], [True, True])
                for result in cancelled:
                    self.assertEqual(ended(result).status, "CANCELLED")
                self.assertLess(time.monotonic() - before, 10)  # alone, they run for a minute
                let_go(f"c{threads}")
                self.assertEqual(ended(other).status, "SUCCESSFUL")
                self.assertEqual(statuses(cancelled), ["CANCELLED"] * 2)
                for result in cancelled:
                    result.refresh()
                    self.assertEqual((result.status, result.attempts), ("FAILED", 1))
                    self.assertIs(result.errors[0].exception_class, TaskCancelled)
                    self.assertIs(result.cancel(), False)
                self.assertEqual(worker.stop(), 0)

    @skipUnless(connection.vendor == "postgresql", "needs notifications")
    def test_a_notification_tells_it_at_once(self):
        result = tasks.async_minute.enqueue("x")
        # By itself it would not look within the test.
        with (
            mock.patch("durable_tasks.worker.loop.CANCELS_EVERY", 3600.0),
            ThreadPoolExecutor() as pool,
        ):
            done = pool.submit(work)
            held("x")
            # More than once: perhaps it does not listen yet.
            eventually(lambda: not result.cancel())
            done.result()
        self.assertEqual(result.job.status, "CANCELLED")

    def test_a_worker_that_holds_nothing_does_not_look(self):
        with mock.patch.object(Store, "cancels_among", autospec=True, return_value=[]) as look:
            work()
            self.assertEqual(look.call_count, 0)
            before = time.monotonic()
            for _ in range(200):
                tasks.no_value.enqueue()
            work()
            self.assertLessEqual(look.call_count, time.monotonic() - before)

    def test_a_job_whose_worker_dies_before_it_looks_does_not_run_again(self):
        result = tasks.minute.enqueue("x")
        with running_worker() as worker:
            held("x")
            worker.send_signal(signal.SIGSTOP)
            self.assertIs(result.cancel(), True)
            self.assertEqual(row_of(result)["status"], "RUNNING")
            worker.kill()
        with running_worker() as worker:
            job = ended(result)
            worker.says("Rescued 1 jobs of lost workers: 0 will run again, 1 ended.")
        self.assertEqual((job.status, job.attempts, job.lost), ("CANCELLED", 1, 1))
        paths = [error["exception_class_path"].rpartition(".")[2] for error in job.errors]
        self.assertEqual(paths, ["WorkerLost", "TaskCancelled"])
