"""Waiting for a result: real workers end the jobs, or the test does, from another connection."""

import asyncio
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from unittest import mock, skipUnless

from asgiref.sync import async_to_sync
from django.db import (
    OperationalError,
    close_old_connections,
    connection,
    connections,
    transaction,
)
from django.test import SimpleTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks import CannotWait, ResultTimeout
from durable_tasks.compat import TaskResultDoesNotExist, TaskResultStatus
from durable_tasks.exceptions import DurableTasksError
from durable_tasks.models import Job
from durable_tasks.store import store_for, waits
from durable_tasks.store.base import CHANNEL

from .app import tasks
from .helpers import (
    PATIENCE,
    ROOT,
    WorkerTestCase,
    environment,
    eventually,
    held,
    let_go,
    row_of,
    running_worker,
    tasks_setting,
    work,
)


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
    """Instead of pausing, count; at the pause of this number, do ``action`` elsewhere."""
    pauses = []

    class Pause(threading.Event):
        def wait(self, seconds):
            pauses.append(seconds)
            if len(pauses) == number:
                elsewhere(action)

    return mock.patch("durable_tasks.results.Event", Pause), pauses


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
        clock = mock.Mock(**{"monotonic.side_effect": [0, 0.001, 0.004, 0.011]})
        patch, pauses = at_pause(2, end)
        with patch, mock.patch("durable_tasks.results.time", clock):
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


@skipUnless(connection.vendor == "postgresql", "PostgreSQL only")
class ListeningTestCase(WorkerTestCase):
    def setUp(self):
        waits.listener.cache_clear()  # that of the test before may listen on for a while
        self.made = []  # the connections that listen, or did

        def own_connection(alias):
            self.made.append(usual(alias))
            return self.made[-1]

        usual = waits.own_connection
        patch = mock.patch.object(waits, "own_connection", own_connection)
        patch.start()
        self.addCleanup(patch.stop)

    def waiting(self, *results, wait=lambda result: result.wait_finished()):
        """Wait for each in a thread of its own; return a function that gives them, ended."""
        ended = []

        def run(result):
            try:
                ended.append(wait(result))
            finally:
                connections.close_all()

        for result in results:
            threading.Thread(target=run, args=[result], daemon=True).start()

        def all_ended():
            eventually(lambda: len(ended) == len(results), lambda: f"woken: {ended}")
            return list(results)

        return all_ended

    def assert_waited_for(self, result, *workers):
        for worker in workers:
            worker.says(f"Job {result.id} is waited for.")


class NotifiedTests(ListeningTestCase):
    """Nobody looks again in time: only a notification ends these waits."""

    def setUp(self):
        super().setUp()
        for name in ("FIRST_PAUSE", "LAST_PAUSE"):
            patch = mock.patch(f"durable_tasks.results.{name}", 100 * PATIENCE)
            patch.start()
            self.addCleanup(patch.stop)

    def test_the_worker_that_ends_the_job_wakes_all_who_wait_for_it(self):
        with running_worker("-v2") as worker:
            result = tasks.hold.enqueue("x")
            held("x")
            ended = self.waiting(*(tasks.hold.get_result(result.id) for _ in range(3)))
            self.assert_waited_for(result, worker)
            let_go()
            self.assertEqual([each.return_value for each in ended()], ["x"] * 3)
        self.assertEqual(len(self.made), 1)

    def test_so_it_is_with_failures_coroutines_and_the_async_form(self):
        with running_worker("-v2", "--threads", "2") as worker:
            results = [tasks.hold_and_fail.enqueue("x"), tasks.async_hold.enqueue("y")]
            held("x")
            held("y")
            ended = self.waiting(
                *results, wait=lambda result: async_to_sync(result.await_finished)()
            )
            for result in results:
                self.assert_waited_for(result, worker)
            let_go()
            failed, succeeded = ended()
            self.assertEqual(failed.status, TaskResultStatus.FAILED)
            self.assertEqual(succeeded.return_value, "y")

    def test_a_worker_that_starts_later_hears_of_the_wait(self):
        result = tasks.hold.enqueue("x")
        with running_worker("-v2", "--queue-name", "none") as worker:
            ended = self.waiting(result)
            self.assert_waited_for(result, worker)
        with running_worker("-v2") as worker:
            self.assert_waited_for(result, worker)
            let_go()
            self.assertEqual(ended()[0].return_value, "x")

    def test_what_ends_before_anybody_listens_is_seen(self):
        result = tasks.add.enqueue(1, 2)
        usual = waits.Listener._begin

        def begin(*args):
            elsewhere(end)
            usual(*args)

        with mock.patch.object(waits.Listener, "_begin", begin):
            self.assertTrue(self.waiting(result)()[0].is_finished)

    def test_the_rescue_of_a_job_that_fails_wakes(self):
        with ExitStack() as stack:
            workers = [
                stack.enter_context(running_worker("-v2", options={"worker_timeout": 2}))
                for _ in range(2)
            ]
            result = tasks.hold_once.enqueue("x")
            held("x")
            workers.sort(key=lambda worker: worker.row().id == result.job.worker_id)
            ended = self.waiting(result)
            self.assert_waited_for(result, *workers)
            workers[1].kill()
            self.assertEqual(ended()[0].status, TaskResultStatus.FAILED)

    @mock.patch("durable_tasks.store.waits.LINGER", 0.1)
    def test_nobody_listens_once_nobody_waits(self):
        with running_worker("-v2") as worker:
            result = tasks.hold.enqueue("x")
            ended = self.waiting(result)
            self.assert_waited_for(result, worker)
            let_go()
            ended()
            eventually(lambda: self.made[0].connection is None, "the connection is closed")
            # The next wait opens another.
            result = tasks.hold.enqueue("y")
            ended = self.waiting(result)
            self.assert_waited_for(result, worker)
            ended()
            self.assertEqual(len(self.made), 2)


class UnnotifiedTests(ListeningTestCase):
    """Looking is the contract: everything works without notifications, only later."""

    def test_with_notifications_off_nobody_listens(self):
        with (
            override_settings(TASKS=tasks_setting(notify=False)),
            running_worker(options={"notify": False}),
        ):
            result = tasks.hold.enqueue("x")
            held("x")
            patch, _ = at_pause(3, let_go)
            with patch:
                self.assertEqual(result.wait_finished().return_value, "x")
        self.assertEqual(self.made, [])

    def test_notifications_that_are_lost_are_missed_by_nobody(self):
        # As if a pool in between swallowed them.
        with running_worker(), mock.patch.object(type(store_for(connection)), "notify"):
            self.assertEqual(tasks.add.enqueue(1, 2).wait_finished(PATIENCE).return_value, 3)

    def test_a_listener_that_can_not_connect_disturbs_nobody(self):
        broken = mock.patch("durable_tasks.store.bells.Bell.listen", side_effect=OperationalError)
        with running_worker(), broken as listen:
            result = tasks.hold.enqueue("x")
            held("x")

            def act():
                eventually(lambda: listen.called)
                let_go()

            patch, _ = at_pause(3, act)
            with patch:
                self.assertEqual(result.wait_finished().return_value, "x")

    def test_after_the_connection_was_cut_it_is_made_anew(self):
        result = tasks.add.enqueue(1, 2)
        elsewhere_only = ("--queue-name", "none", "-v2")
        with running_worker(*elsewhere_only) as worker:
            ended = self.waiting(result)
            self.assert_waited_for(result, worker)
            with connection.cursor() as cursor:
                pid = self.made[0].connection.info.backend_pid
                cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
            with running_worker(*elsewhere_only) as other:
                self.assert_waited_for(result, other)
            end()
            self.assertTrue(ended()[0].is_finished)
        self.assertEqual(len(self.made), 2)

    def test_a_worker_says_nothing_of_jobs_that_nobody_waits_for(self):
        said = []
        with mock.patch.object(
            type(store_for(connection)),
            "notify",
            lambda store, payload, channel=CHANNEL: said.append(channel),
        ):
            tasks.add.enqueue(1, 2)
            work()
        self.assertEqual(set(said), {CHANNEL})


class AwaitedTests(SimpleTestCase):
    """What a worker remembers of those who wait."""

    def setUp(self):
        self.awaited = waits.Awaited()
        self.store = mock.Mock()
        self.jobs = [mock.Mock(id=uuid.uuid4()) for _ in range(3)]

    def hear(self, *jobs):
        self.awaited.hear(" ".join(job.id.hex for job in jobs))

    def told(self):
        self.awaited.tell(self.store)
        return [call.args for call in self.store.notify.call_args_list]

    def test_what_is_waited_for_is_told_once(self):
        one, two, three = self.jobs
        self.hear(one, three)
        self.assertFalse(self.awaited.note([two]))
        self.assertTrue(self.awaited.note(self.jobs))
        self.assertFalse(self.awaited.note(self.jobs))
        expected = [(f"{one.id.hex} {three.id.hex}", waits.ENDED_CHANNEL)]
        self.assertEqual(self.told(), expected)
        self.assertEqual(self.told(), expected)

    def test_a_wait_that_is_not_said_again_is_forgotten(self):
        one, two, _ = self.jobs
        now = time.monotonic()
        with mock.patch("time.monotonic", side_effect=lambda: now):
            self.hear(one, two)
            now += waits.REMEMBER - 1
            self.hear(two)
            now += 2
            self.awaited.forget()
            self.assertFalse(self.awaited.note([one]))
            self.assertTrue(self.awaited.note([two]))

    def test_no_more_than_so_many_are_remembered(self):
        with mock.patch.object(waits, "MAX_AWAITED", 2):
            self.hear(*self.jobs)
            self.hear(*self.jobs)
        self.assertEqual([self.awaited.note([job]) for job in self.jobs], [True, True, False])

    def test_nonsense_is_ignored(self):
        self.awaited.hear(f"x {self.jobs[0].id.hex} \N{SNOWMAN}")
        self.assertTrue(self.awaited.note(self.jobs))

    def test_many_take_several_notifications_that_are_short_enough(self):
        jobs = [mock.Mock(id=uuid.uuid4()) for _ in range(500)]
        self.hear(*jobs)
        self.awaited.note(jobs)
        payloads = [payload for payload, _ in self.told()]
        self.assertEqual(len(payloads), 3)
        self.assertTrue(all(len(payload.encode()) < 8000 for payload in payloads))
        self.assertEqual(" ".join(payloads), " ".join(job.id.hex for job in jobs))


class ForkTests(SimpleTestCase):
    def test_a_fork_begins_with_a_listener_of_its_own(self):
        program = (
            "import django, os; django.setup();"
            "from durable_tasks.store.waits import listener; before = listener('default');"
            "assert listener('default') is before; child = os.fork();"
            "child or os._exit(listener('default') is before);"
            "raise SystemExit(os.waitpid(child, 0)[1] or listener('default') is not before)"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment())
        self.assertEqual(done.returncode, 0)
