"""Waiting for a result: real workers end the jobs, or the test does, from another connection."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest import mock

from django.db import close_old_connections, connection, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks import CannotWait, ResultTimeout
from durable_tasks.compat import TaskResultDoesNotExist, TaskResultStatus
from durable_tasks.exceptions import DurableTasksError
from durable_tasks.models import Job

from .app import tasks
from .helpers import PATIENCE, WorkerTestCase, held, let_go, row_of, running_worker, work


def end(**changes):
    """End all jobs, as a worker would."""
    Job.objects.update(
        **{"status": "SUCCESSFUL", "finished_at": timezone.now(), "attempts": 1, **changes}
    )


def elsewhere(function, *args):
    """Call ``function`` on a connection of its own, in a thread of its own."""

    def run():
        try:
            return function(*args)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def at_pause(number, action):
    """Instead of sleeping, count; at the pause of this number, do ``action`` elsewhere."""
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == number:
            elsewhere(action)

    return mock.patch("durable_tasks.results.time.sleep", sleep), pauses


class WithWorkerTests(WorkerTestCase):
    def test_the_result_itself_comes_back_refreshed(self):
        with running_worker():
            result = tasks.add.enqueue(1, 2)
            self.assertIs(result.wait_finished(PATIENCE), result)
            self.assertEqual((result.return_value, result.attempts), (3, 1))
            self.assertEqual(tasks.echo.enqueue("x").wait_finished().return_value["args"], ["x"])
            failed = tasks.fail.enqueue("no").wait_finished(PATIENCE)
            self.assertEqual(failed.status, TaskResultStatus.FAILED)
            self.assertIs(failed.errors[0].exception_class, ValueError)

    def test_a_job_that_runs_is_waited_for_from_several_threads(self):
        with running_worker():
            result = tasks.hold.enqueue("x")
            held("x")
            asked = threading.Barrier(4, timeout=PATIENCE)

            def wait():
                mine = tasks.hold.get_result(result.id)
                asked.wait()
                try:
                    return mine.wait_finished(PATIENCE).return_value
                finally:
                    connections.close_all()

            with ThreadPoolExecutor(3) as pool:
                waiting = [pool.submit(wait) for _ in range(3)]
                asked.wait()
                let_go("x")
                self.assertEqual([each.result() for each in waiting], ["x"] * 3)

    async def test_the_async_form_leaves_the_event_loop_free(self):
        result = await tasks.async_add.aenqueue(1, 2)
        started = asyncio.Event()

        async def others():
            started.set()
            # Both need the loop, and the database as well.
            await Job.objects.aupdate(status="SUCCESSFUL", return_value=3, attempts=1)

        found, _ = await asyncio.gather(result.await_finished(PATIENCE), others())
        self.assertIs(found, result)
        self.assertEqual((started.is_set(), found.return_value), (True, 3))


class TimeoutTests(WorkerTestCase):
    def test_the_error_names_job_status_and_time(self):
        due = timezone.now() + timedelta(hours=1)
        cases = {
            "READY": tasks.add.enqueue(1),
            "SCHEDULED": tasks.add.using(run_after=due).enqueue(1),
            "RUNNING": tasks.add.enqueue(1),
        }
        Job.objects.filter(id=cases["RUNNING"].id).update(status="RUNNING", worker_id="w")
        for status, result in cases.items():
            for timeout in (0, 0.01, -1):
                before, shown = row_of(result), result.status
                message = f"The job {result.id} of tests.app.tasks.add is still {status} after "
                with self.subTest(status, timeout=timeout):
                    with self.assertRaisesMessage(ResultTimeout, f"{message}{timeout:g} s."):
                        result.wait_finished(timeout)
                    self.assertEqual((row_of(result), result.status), (before, shown))

    def test_it_is_a_timeout_error_and_one_of_ours(self):
        result = tasks.add.enqueue(1)
        for kind in (TimeoutError, DurableTasksError):
            with self.assertRaises(kind):
                result.wait_finished(0)

    async def test_the_async_form_raises_it_too(self):
        result = await tasks.add.aenqueue(1)
        with self.assertRaisesMessage(ResultTimeout, f"{result.id} of tests.app.tasks.add"):
            await result.await_finished(0.01)

    async def test_the_async_form_can_be_cancelled(self):
        result = await tasks.add.aenqueue(1)
        waiting = asyncio.create_task(result.await_finished())
        await asyncio.sleep(0)
        waiting.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await waiting
        self.assertEqual((await Job.objects.aget()).status, "READY")

    def test_a_job_that_has_ended_needs_no_time(self):
        result = tasks.add.enqueue(1, 2)
        work()
        self.assertEqual(result.wait_finished(0).return_value, 3)
        self.assertEqual(result.wait_finished(-1).return_value, 3)


class LookTests(WorkerTestCase):
    def test_looks_are_farther_and_farther_apart(self):
        result = tasks.add.enqueue(1, 2)
        patch, pauses = at_pause(10, end)
        with patch, mock.patch("durable_tasks.results.random.uniform", lambda low, high: high):
            result.wait_finished()
        expected = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5]
        self.assertEqual([round(pause, 6) for pause in pauses], expected)

    def test_the_last_pause_ends_with_the_time_and_is_followed_by_a_look(self):
        result = tasks.add.enqueue(1, 2)
        clock = mock.Mock(side_effect=[0, 0.001, 0.004, 0.011])
        patch, pauses = at_pause(2, end)
        with patch, mock.patch("durable_tasks.results.time.monotonic", clock):
            result.wait_finished(0.005)
        self.assertEqual(len(pauses), 2)
        self.assertAlmostEqual(pauses[1], 0.001)

    def test_a_look_is_one_query_for_the_status(self):
        result = tasks.add.enqueue(1, 2)
        with CaptureQueriesContext(connection) as queries, self.assertRaises(ResultTimeout):
            result.wait_finished(0)
        self.assertEqual(len(queries), 1)
        self.assertNotIn("return_value", queries[0]["sql"])

    def test_every_ending_ends_the_wait(self):
        for status in ("SUCCESSFUL", "FAILED", "CANCELLED"):
            result = tasks.add.enqueue(1, 2)
            patch, _ = at_pause(1, lambda status=status: end(status=status))
            with self.subTest(status), patch:
                self.assertTrue(result.wait_finished().is_finished)

    def test_a_job_that_is_gone_is_an_error(self):
        result = tasks.add.enqueue(1, 2)
        patch, pauses = at_pause(3, lambda: Job.objects.all().delete())
        with patch, self.assertRaises(TaskResultDoesNotExist):
            result.wait_finished()
        self.assertEqual(len(pauses), 3)
        with self.assertRaises(TaskResultDoesNotExist):
            result.wait_finished(0)


class InTransactionTests(WorkerTestCase):
    def test_waiting_in_the_transaction_that_enqueues_is_an_error_at_once(self):
        with transaction.atomic():
            result = tasks.add.enqueue(1, 2)
            with self.assertRaisesMessage(CannotWait, f"The job {result.id} can't be waited for"):
                result.wait_finished()
            self.assertTrue(Job.objects.exists())  # the transaction goes on
        work()
        self.assertEqual(result.wait_finished(PATIENCE).return_value, 3)

    def test_so_it_is_in_any_transaction_of_that_database(self):
        result = tasks.add.enqueue(1, 2)
        with transaction.atomic(), self.assertRaises(CannotWait):
            result.wait_finished()

    def test_what_has_ended_can_be_read_there(self):
        result = tasks.add.enqueue(1, 2)
        work()
        with transaction.atomic():
            self.assertEqual(result.wait_finished().return_value, 3)

    def test_without_autocommit_it_is_an_error_too(self):
        result = tasks.add.enqueue(1, 2)
        transaction.set_autocommit(False)
        try:
            with self.assertRaises(CannotWait):
                result.wait_finished()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
            close_old_connections()


@override_settings(DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"])
class JobsElsewhereTests(WorkerTestCase):
    databases = ("default", "other")

    def test_only_the_jobs_own_database_matters(self):
        result = tasks.add.enqueue(1, 2)
        with transaction.atomic(using="other"), self.assertRaises(CannotWait):
            result.wait_finished()
        patch, _ = at_pause(2, lambda: Job.objects.using("other").update(status="SUCCESSFUL"))
        with transaction.atomic(using="default"), patch:
            self.assertTrue(result.wait_finished().is_finished)
