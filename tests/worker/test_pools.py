"""Where tasks run: threads and coroutines, and what one job may leave to the next."""

import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from unittest import mock

from django.test import SimpleTestCase

from durable_tasks.worker import pools

from ..app import tasks
from ..helpers import WorkerTestCase, effects, ended, held, let_go, statuses, work


class PoolTestCase(WorkerTestCase):
    def values(self, results):
        """Return what these jobs returned; all must have succeeded."""
        jobs = [result.job for result in results]
        self.assertEqual({job.status for job in jobs}, {"SUCCESSFUL"}, [job.errors for job in jobs])
        return [job.return_value for job in jobs]


class ThreadTests(PoolTestCase):
    def test_one_thread_runs_one_job_at_a_time(self):
        results = [tasks.meet.enqueue("one", 1) for _ in range(5)]
        work()
        seen = self.values(results)
        self.assertEqual({most for _, most in seen}, {1})
        self.assertEqual(len({thread for thread, _ in seen}), 1)

    def test_four_threads_run_four_jobs_at_once_and_never_more(self):
        results = [tasks.meet.enqueue("four", 4) for _ in range(12)]
        work(threads=4)
        seen = self.values(results)
        self.assertEqual(max(most for _, most in seen), 4)
        self.assertEqual(len({thread for thread, _ in seen}), 4)

    def test_they_have_started_before_the_loop_which_ends_them(self):
        seen = []

        def start(pool):
            seen.append([thread.name for thread in threading.enumerate()])
            usual(pool)

        usual = pools.ThreadPool.start
        with mock.patch.object(pools.ThreadPool, "start", start):
            work(threads=4)
        self.assertEqual(len(seen), 1)
        self.assertIn("heartbeat", seen[0])
        self.assertNotIn("loop", seen[0])


class OrderTests(SimpleTestCase):
    def test_what_is_of_a_higher_priority_comes_before_what_waits_already(self):
        # Never started, so all of it waits.
        pool = pools.ThreadPool(1, mock.Mock(), SimpleQueue(), mock.Mock())
        for priorities in ([5, 0, 0], [0, -5], [5, 0, -9], [7]):
            pool.submit([mock.Mock(priority=each) for each in priorities])
        self.assertEqual(
            [claim.priority for claim in pool.take_back()], [7, 5, 5, 0, 0, 0, 0, -5, -9]
        )


class CoroutineTests(PoolTestCase):
    def test_many_coroutines_run_at_once_on_one_loop(self):
        results = [tasks.async_meet.enqueue("many", 40) for _ in range(40)]
        work(coroutines=40)
        self.assertEqual(len(set(self.values(results))), 1)

    def test_more_coroutines_than_slots_take_turns(self):
        results = [tasks.async_meet.enqueue("turns", 3) for _ in range(30)]
        work(coroutines=3)
        self.values(results)

    def test_coroutines_that_never_wait_run_as_well(self):
        results = [tasks.async_add.enqueue(n, 1) for n in range(200)]
        work(coroutines=2)
        self.assertEqual(self.values(results), list(range(1, 201)))

    def test_sync_and_async_tasks_run_beside_each_other(self):
        sync = [tasks.meet.enqueue("mixed", 2) for _ in range(4)]
        both = [tasks.async_meet.enqueue("mixed", 10) for _ in range(20)]
        work(threads=2, coroutines=10)
        self.assertEqual(len(set(self.values(both))), 1)
        self.assertNotIn(self.values(both)[0], {thread for thread, _ in self.values(sync)})

    def test_both_kinds_use_the_orm(self):
        results = [
            kind.enqueue(f"{kind.name} {n}")
            for n in range(30)
            for kind in (tasks.effect, tasks.async_effect)
        ]
        work(threads=3, coroutines=10)
        self.values(results)
        self.assertEqual(
            sorted(effects()),
            sorted(f"{name} {n}" for n in range(30) for name in ("effect", "async_effect")),
        )


class EndingTests(PoolTestCase):
    def test_no_ending_of_a_task_ends_the_worker(self):
        bad = [
            kind.enqueue()
            for kind in (
                tasks.fail,
                tasks.leave,
                tasks.interrupt,
                tasks.async_fail,
                tasks.async_leave,
                tasks.async_interrupt,
                tasks.not_a_number,
                tasks.an_object,
                tasks.fail_with_bad_text,
            )
        ]
        good = [tasks.add.enqueue(1, 2), tasks.async_add.enqueue(1, 2)]
        work()
        self.assertEqual(self.values(good), [3, 3])
        self.assertEqual(set(statuses(bad)), {"FAILED"})
        self.assertEqual(
            [result.job.exception_class_path.rpartition(".")[2] for result in bad],
            [
                *("ValueError", "SystemExit", "KeyboardInterrupt"),
                *("ValueError", "SystemExit", "KeyboardInterrupt"),
                *("NotSerializable", "NotSerializable", "ValueError"),
            ],
        )


class LeftBehindTests(PoolTestCase):
    """One job after another, in the same threads."""

    def run_between(self, culprit, *args):
        """Run a job that leaves something behind, then jobs that use the same thread."""
        culprit.enqueue(*args)
        then = [tasks.effect.enqueue("next"), tasks.async_effect.enqueue("async next")]
        with ThreadPoolExecutor(1) as apart:  # not on the connections of the test itself
            apart.submit(work).result()
        self.values(then)
        self.assertEqual(sorted(effects()), ["async next", "next"])

    def test_context_variables_end_with_the_job(self):
        results = [tasks.leave_context.enqueue(f"left {n}") for n in range(3)]
        results += [tasks.async_leave_context.enqueue(f"left {n}") for n in range(3)]
        work(coroutines=1)
        self.assertEqual(self.values(results), ["nothing"] * 6)

    def test_a_broken_transaction_ends_with_the_job(self):
        self.run_between(tasks.break_transaction)

    def test_a_transaction_left_open_ends_with_the_job(self):
        self.run_between(tasks.leave_transaction_open, "never committed")

    def test_a_closed_connection_is_replaced(self):
        self.run_between(tasks.close_connection)


class SharedThreadTests(PoolTestCase):
    """The ORM calls of all coroutines share one thread."""

    def test_a_coroutine_that_blocks_it_does_not_keep_others_from_starting(self):
        with (
            mock.patch.object(pools, "CONNECTION_CARE", 0.0),
            ThreadPoolExecutor(1) as apart,
        ):
            blocking = tasks.async_hold.enqueue("x")
            working = apart.submit(work, interval=0.01)
            held("x")
            try:
                self.assertEqual(ended(tasks.async_add.enqueue(1, 2)).return_value, 3)
            finally:
                let_go()
                working.result()
        self.values([blocking])

    def test_a_connection_that_one_broke_is_replaced_for_the_next(self):
        # The worker does not wait for its usual look at the connections.
        with mock.patch.object(pools, "CONNECTION_CARE", 3600.0):
            broken = [tasks.async_close_connection.enqueue(), tasks.async_effect.enqueue("a")]
            then = tasks.async_effect.enqueue("b")
            work(coroutines=1)
        self.assertEqual(statuses(broken), ["SUCCESSFUL", "FAILED"])
        self.values([then])
