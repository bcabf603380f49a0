"""Signals to a worker: what runs ends, the rest goes back, nothing is burnt."""

import signal

import pytest

from durable_tasks.compat import task_backends
from durable_tasks.models import Job, Worker

from ..app import tasks
from ..helpers import (
    WorkerTestCase,
    effects,
    ended,
    eventually,
    held,
    let_go,
    run_worker,
    running_worker,
    statuses,
)


class StopTests(WorkerTestCase):
    def enqueue_with_some_ahead(self):
        """Return what will hold a worker's thread, and what it will have claimed with it."""
        # From these it learns that tasks are quick, and claims ahead.
        quick = (tasks.add.using(priority=2), [1, 2], {})
        task_backends["default"].enqueue_many([quick] * 100)
        holding = [tasks.hold.using(priority=1).enqueue("sync")]
        holding.append(tasks.async_hold.using(priority=1).enqueue("async"))
        return holding, [tasks.effect.enqueue(f"later {n}") for n in range(20)]

    @pytest.mark.any_database
    def test_each_signal_lets_what_runs_end_and_gives_the_rest_back(self):
        for name in ("SIGINT", "SIGTERM", "SIGQUIT"):
            holding, ahead = self.enqueue_with_some_ahead()
            with self.subTest(signal=name), running_worker("--worker-id", "w") as worker:
                held("sync")
                held("async")
                ids = [result.id for result in ahead]
                eventually(
                    lambda ids=ids: Job.objects.filter(id__in=ids, lease__gt=0).count() == 20,
                    "the worker claims ahead",
                )
                worker.send_signal(getattr(signal, name))
                worker.says(f"{name}: finishing what runs")
                eventually(
                    lambda ahead=ahead: set(statuses(ahead)) == {"READY"}, "the rest is given back"
                )
                self.assertEqual(statuses(holding), ["RUNNING", "RUNNING"])
                new = tasks.effect.enqueue("after the signal")
                let_go()
                self.assertEqual(worker.wait(), 0)
                self.assertEqual(statuses(holding), ["SUCCESSFUL", "SUCCESSFUL"])
                self.assertEqual(statuses([new, *ahead]), ["READY"] * 21)
                for result in ahead:
                    job = result.job
                    self.assertEqual(
                        (job.attempts, job.lost, job.worker_id, job.started_at, job.errors),
                        (0, 0, None, None, None),
                    )
                    # A claim and a release at least; both count.
                    self.assertGreaterEqual(job.lease, 2)
                self.assertFalse(Worker.objects.exists())
                self.assertIn("Worker w has stopped.", worker.output())
            self.assertEqual(effects("later"), [])
            run_worker()
            self.assertEqual(sorted(effects("later")), sorted(f"later {n}" for n in range(20)))
            Job.objects.all().delete()
            tasks.Effect.objects.all().delete()

    def test_a_second_signal_stops_at_once_and_what_ran_is_run_again(self):
        result = tasks.hold.enqueue("x")
        with running_worker() as worker:
            held("x")
            worker.send_signal(signal.SIGTERM)
            worker.says("finishing what runs")
            worker.send_signal(signal.SIGINT)
            self.assertEqual(worker.wait(), 128 + signal.SIGINT)
            self.assertIn("Stopped at once", worker.output())
        self.assertEqual((result.job.status, effects("done")), ("RUNNING", []))
        let_go()
        with running_worker() as worker:
            job = ended(result)
            self.assertEqual(
                (job.status, job.attempts, job.lost, job.return_value), ("SUCCESSFUL", 2, 1, "x")
            )
            self.assertEqual(worker.stop(), 0)

    def test_a_signal_that_comes_twice_at_once_is_one(self):
        with running_worker() as worker:  # with one thread: the task runs where signals are heard
            result = tasks.interrupt_twice.enqueue()
            self.assertEqual(worker.wait(), 0)
        self.assertEqual((result.job.status, result.job.return_value), ("SUCCESSFUL", "finished"))

    def test_a_worker_with_several_threads_stops_as_well(self):
        results = [tasks.hold.enqueue(str(n)) for n in range(3)]
        with running_worker("--threads", "3") as worker:
            for n in range(3):
                held(str(n))
            worker.send_signal(signal.SIGTERM)
            worker.says("finishing what runs")
            let_go()
            self.assertEqual(worker.wait(), 0)
        self.assertEqual(statuses(results), ["SUCCESSFUL"] * 3)

    def test_a_signal_that_does_not_interrupt_the_main_thread_is_heard(self):
        # The same happens to one that comes in the moment before that thread begins to wait.
        for threads in ("1", "2"):
            with self.subTest(threads=threads), running_worker("--threads", threads) as worker:
                tasks.async_signal_this_thread.enqueue()
                self.assertEqual(worker.wait(), 0)
                self.assertIn("SIGTERM: finishing what runs", worker.output())
