"""Cancelling and retrying by hand: a result, an id, or what a queryset finds."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest import mock, skipUnless

from asgiref.sync import async_to_sync
from django.db import connection, connections, transaction
from django.test import skipUnlessDBFeature
from django.utils import timezone

from durable_tasks.compat import TaskResultDoesNotExist, task_backends, task_finished
from durable_tasks.exceptions import TaskCancelled
from durable_tasks.models import Job
from durable_tasks.store import Finish, store_for
from durable_tasks.store.bells import Bell
from durable_tasks.store.waits import CANCEL

from .app import tasks
from .helpers import WorkerTestCase, broken_receiver, eventually, heard, work
from .store.claimer import drain
from .store.jobs import StoreTestCase, make_jobs, make_running, state

IN_AN_HOUR = timedelta(hours=1)
PAST = timezone.now() - timedelta(days=1)


def backend():
    return task_backends["default"]


class ResultTests(WorkerTestCase):
    def test_a_waiting_job_is_cancelled_and_shown_as_failed(self):
        for task in (tasks.add, tasks.add.using(run_after=timezone.now() + IN_AN_HOUR)):
            result = task.enqueue(1)
            self.assertIs(result.cancel(), True)
            self.assertIs(result.cancel(), False)
            result.refresh()
            self.assertEqual((result.status, result.attempts), ("FAILED", 0))
            [error] = result.errors
            self.assertIs(error.exception_class, TaskCancelled)
            self.assertEqual(result.worker_ids, [])
            self.assertIsNotNone(result.finished_at)
        Job.objects.update(run_at=PAST)
        work()
        self.assertEqual(set(Job.objects.values_list("status", "attempts")), {("CANCELLED", 0)})

    def test_an_ended_job_stays_as_it_is(self):
        result = tasks.add.enqueue(1)
        work()
        before = state(result.id)
        self.assertIs(result.cancel(), False)
        self.assertEqual(state(result.id), before)

    def test_a_running_job_is_asked_to_end(self):
        [job] = make_running()
        self.assertIs(backend().cancel(str(job.id)), True)
        self.assertEqual(state(job.id)["status"], "RUNNING")
        self.assertIsNotNone(state(job.id)["cancel_requested_at"])

    def test_an_id_that_is_nobodys_is_an_error(self):
        [other] = make_jobs(backend_name="other")
        for id in (str(uuid.uuid4()), "no id", str(other.id)):
            for word in (backend().cancel, backend().retry):
                with self.subTest(id=id), self.assertRaises(TaskResultDoesNotExist):
                    word(id)
        self.assertEqual(state(other.id)["status"], "READY")

    def test_the_words_for_async_code(self):
        result = tasks.add.enqueue(1)

        async def cancel_and_retry():
            return [
                await result.acancel(),
                await backend().acancel(result.id),
                await result.aretry(),
                await backend().aretry(result.id),
            ]

        self.assertEqual(async_to_sync(cancel_and_retry)(), [True, False, True, False])
        self.assertEqual(result.job.status, "READY")

    def test_it_belongs_to_the_callers_transaction(self):
        with heard(task_finished) as ends:
            with transaction.atomic():
                made = tasks.add.enqueue(1)
                self.assertIs(made.cancel(), True)
                self.assertEqual(ends, [])
            self.assertEqual(made.job.status, "CANCELLED")
            self.assertEqual(len(ends), 1)
            result = tasks.add.enqueue(1)
            before = state(result.id)
            with transaction.atomic():
                self.assertIs(result.cancel(), True)
                transaction.set_rollback(True)
            self.assertEqual(state(result.id), before)
            self.assertEqual(len(ends), 1)

    def test_the_end_is_announced_once(self):
        result = tasks.add.enqueue(1)
        with heard(task_finished) as ends:
            result.cancel()
            result.cancel()
            work()
        [(sender, shown)] = ends
        self.assertIs(sender, type(backend()))
        self.assertEqual((shown.id, shown.status), (result.id, "FAILED"))
        self.assertIs(shown.errors[0].exception_class, TaskCancelled)

    def test_a_broken_receiver_undoes_nothing(self):
        result = tasks.add.enqueue(1)
        with broken_receiver(task_finished), self.assertLogs("django.dispatch", "ERROR"):
            self.assertIs(result.cancel(), True)
        self.assertEqual(result.job.status, "CANCELLED")

    def test_a_retry_runs_again_with_all_its_attempts(self):
        result = tasks.fail_until.enqueue("x", 5)
        work()
        self.assertEqual((result.job.status, result.job.attempts), ("FAILED", 3))
        self.assertIs(result.retry(), True)
        self.assertIs(result.retry(), False)
        work()
        result.refresh()
        self.assertEqual((result.status, result.return_value), ("SUCCESSFUL", 5))
        self.assertEqual((result.attempts, len(result.errors)), (2, 4))
        self.assertIs(result.retry(), False)

    @skipUnless(connection.vendor == "postgresql", "needs notifications")
    def test_those_who_wait_and_the_worker_are_told(self):
        waiting, running = tasks.add.enqueue(1), make_running(worker_id="me")[0]
        store = store_for(connections.create_connection("default"))
        self.addCleanup(store.connection.close)
        store.connection.inc_thread_sharing()
        rings = []
        bell = Bell(rings.append)
        bell.listen(store)
        # Were it not told, it would look again after the test has failed.
        with (
            mock.patch("durable_tasks.results.FIRST_PAUSE", 20.0),
            mock.patch("durable_tasks.results.LAST_PAUSE", 20.0),
            ThreadPoolExecutor() as pool,
        ):

            def wait():
                try:
                    return waiting.wait_finished(60)
                finally:
                    connections.close_all()

            waiter = pool.submit(wait)
            id = uuid.UUID(waiting.id).hex
            eventually(lambda: bell.wait(0.1) or any(id in ring for ring in rings))
            rings.clear()
            with transaction.atomic():
                waiting.cancel()
                backend().cancel(str(running.id))
                bell.wait(0.1)
                self.assertFalse([ring for ring in rings if ring.startswith(CANCEL)])
            self.assertEqual(waiter.result(10).status, "FAILED")
        eventually(lambda: bell.wait(0.1) or f"{CANCEL}me" in rings, str(rings))
        bell.close()


class QuerySetTests(StoreTestCase):
    def test_cancel_takes_what_waits_and_what_runs(self):
        make_jobs(3)
        make_jobs(2, status="SCHEDULED")
        make_running(2)
        make_jobs(status="FAILED")
        make_jobs(4, queue_name="other")
        self.assertEqual(Job.objects.filter(queue_name="default").cancel(), 7)
        self.assertEqual(Job.objects.filter(status="CANCELLED").count(), 5)
        self.assertEqual(Job.objects.filter(cancel_requested_at__isnull=False).count(), 2)
        self.assertEqual(Job.objects.ready().count(), 4)

    def test_retry_takes_what_failed_or_was_cancelled(self):
        ended = ("SUCCESSFUL", "FAILED", "CANCELLED")
        make_jobs(6, status=lambda n: ended[n % 3])
        make_running()
        self.assertEqual(Job.objects.all().retry(), 4)
        self.assertEqual(Job.objects.ready().count(), 4)
        self.assertEqual(Job.objects.successful().retry(), 0)
        self.assertEqual(Job.objects.successful().retry(successful=True), 2)

    def test_many_go_in_batches(self):
        make_jobs(1101)
        self.assertEqual(Job.objects.order_by("-enqueued_at").cancel(), 1101)
        self.assertEqual(Job.objects.filter(status="CANCELLED", lease=1).count(), 1101)
        with transaction.atomic():
            self.assertEqual(Job.objects.all().retry(), 1101)
            transaction.set_rollback(True)
        self.assertEqual(Job.objects.filter(status="CANCELLED").count(), 1101)

    def test_a_fault_in_a_batch_leaves_those_before_it_done(self):
        make_jobs(501)
        lock = type(store_for(connection)).lock
        with (
            mock.patch.object(
                type(store_for(connection)),
                "lock",
                lambda self, ids, **how: lock(self, ids, **how) if len(ids) > 1 else 1 / 0,
            ),
            self.assertRaises(ZeroDivisionError),
        ):
            Job.objects.all().cancel()
        self.assertEqual(Job.objects.filter(status="CANCELLED").count(), 500)

    def test_the_manager_itself_has_neither_word(self):
        for word in ("cancel", "retry"):
            self.assertFalse(hasattr(Job.objects, word))

    def test_the_filter_is_asked_again_once_the_jobs_are_locked(self):
        jobs = make_jobs(3)
        lock = type(store_for(connection)).lock

        def claimed_meanwhile(self, ids, **how):
            Job.objects.filter(id=jobs[1].id).update(status="RUNNING")
            return lock(self, ids, **how)

        with mock.patch.object(type(store_for(connection)), "lock", claimed_meanwhile):
            self.assertEqual(Job.objects.ready().cancel(), 2)
        self.assertIsNone(state(jobs[1].id)["cancel_requested_at"])

    def test_no_end_is_announced_twice_or_forgotten(self):
        make_jobs(3)
        make_running()
        with heard(task_finished) as ends:
            Job.objects.all().cancel()
            Job.objects.all().cancel()
        self.assertEqual(len({result.id for _, result in ends}), 3)
        self.assertEqual(len(ends), 3)

    @skipUnless(connection.vendor == "postgresql", "needs notifications")
    def test_a_retry_rings(self):
        make_jobs(2, status="FAILED", queue_name="q")
        rings = []
        bell = Bell(rings.append)
        bell.listen(self.store)
        self.assertEqual(Job.objects.all().retry(), 2)
        eventually(lambda: bell.wait(0.1) or "default\nq" in rings)
        bell.close()

    @skipUnlessDBFeature("has_select_for_update_skip_locked")
    def test_what_others_have_locked_is_done_at_the_end(self):
        jobs = make_jobs(3)
        other = self.open_store()
        other.connection.set_autocommit(False)
        other.own = False
        other.lock([jobs[0].id, jobs[2].id])
        with ThreadPoolExecutor() as pool:

            def cancel():
                try:
                    return Job.objects.all().cancel()
                finally:
                    connections.close_all()

            done = pool.submit(cancel)
            eventually(lambda: state(jobs[1].id)["status"] == "CANCELLED")
            self.assertEqual(state(jobs[0].id)["status"], "READY")
            other.connection.commit()
            self.assertEqual(done.result(10), 3)
        self.assertEqual(Job.objects.filter(status="CANCELLED").count(), 3)


class RaceTests(StoreTestCase):
    def isolation_levels(self):
        return (None, "REPEATABLE READ") if connection.vendor == "mysql" else (None,)

    def test_each_job_is_run_or_cancelled_and_never_both(self):
        for level in self.isolation_levels():
            with self.subTest(level=level):
                Job.objects.all().delete()
                jobs = make_jobs(400, priority=lambda n: n % 3)
                start = threading.Barrier(4)

                def claim(number):
                    start.wait()  # noqa: B023  (joined before the next turn)
                    return drain("default", f"w{number}", 3, None)

                def cancel(one_by_one, level=level, jobs=jobs):
                    try:
                        if level is not None:
                            with connection.cursor() as cursor:
                                cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
                        start.wait()  # noqa: B023
                        if not one_by_one:
                            return Job.objects.filter(queue_name="default").cancel()
                        return sum(backend().cancel(job.id) for job in jobs[::-1])
                    finally:
                        connections.close_all()

                with heard(task_finished) as ends, ThreadPoolExecutor(4) as pool:
                    cancels = [pool.submit(cancel, one_by_one) for one_by_one in (True, False)]
                    claims = [pool.submit(claim, number) for number in range(2)]
                    claimed = [id for each in claims for id in each.result(60)]
                    asked = sum(each.result(60) for each in cancels)
                self.assertEqual(len(claimed), len(set(claimed)))
                outcomes = Job.objects.values_list("id", "status", "attempts", "lease")
                self.assertEqual(
                    set(outcomes),
                    {
                        (job.id, "SUCCESSFUL", 1, 1)
                        if job.id in set(claimed)
                        else (job.id, "CANCELLED", 0, 1)
                        for job in jobs
                    },
                )
                cancelled = {str(job.id) for job in jobs} - {str(id) for id in claimed}
                self.assertCountEqual([result.id for _, result in ends], cancelled)
                self.assertGreaterEqual(asked, len(cancelled))

    @skipUnlessDBFeature("has_select_for_update")
    def test_a_cancel_sees_what_was_claimed_since_its_transaction_began(self):
        for level in self.isolation_levels():
            with self.subTest(level=level):
                Job.objects.all().delete()
                [job] = make_jobs()
                if level is not None:
                    with connection.cursor() as cursor:
                        cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
                    self.addCleanup(connection.close)
                with transaction.atomic():
                    self.assertEqual(Job.objects.ready().count(), 1)  # takes a snapshot
                    [claim] = self.claim()
                    self.assertIs(backend().cancel(str(job.id)), True)
                self.assertEqual(state(job.id)["status"], "RUNNING")
                self.assertEqual(self.finish(Finish.released(claim)), {job.id})
                self.assertEqual(state(job.id)["status"], "CANCELLED")
