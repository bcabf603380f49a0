"""Workers are asked to drain, to go on, and to stop: real ones, on each database."""

import threading

from django.db import connection, router
from django.test import override_settings

from durable_tasks.models import Job, Wish, Worker
from durable_tasks.runner import Runner
from durable_tasks.wishes import ask

from ..app import tasks
from ..helpers import (
    WorkerTestCase,
    ended,
    eventually,
    held,
    let_go,
    row_of,
    running_worker,
    tasks_setting,
)

# So that a beat comes within a quarter of a second where nothing is notified.
SOON = {"worker_timeout": 1}


def wish(wish, *ids):
    """Ask these workers, or all of them."""
    using = router.db_for_write(Worker)
    everybody = Worker.objects.using(using).values_list("id", flat=True)
    return ask(ids or list(everybody), wish, using)


class WishTests(WorkerTestCase):
    def test_a_drained_worker_finishes_what_runs_takes_nothing_more_and_goes_on(self):
        with running_worker("--threads", "2", options=SOON) as worker:
            running = tasks.hold.enqueue("first")
            held("first")
            wish(Wish.DRAIN)
            worker.says("was asked to drain")
            waiting = tasks.echo.enqueue()
            let_go("first")
            self.assertEqual(ended(running).status, "SUCCESSFUL")
            seen = worker.row().last_seen
            # It stays and beats, several times, and leaves alone what is there to run.
            eventually(lambda: worker.row().last_seen > seen + 1_000_000)
            self.assertEqual(row_of(waiting)["status"], "READY")
            self.assertGreater(worker.row().memory, 10_000_000)
            wish(None)
            self.assertEqual(ended(waiting).status, "SUCCESSFUL")
            worker.says("goes on")

    def test_what_has_not_started_is_given_back(self):
        with running_worker(options={**SOON, "prefetch": 5}) as worker:
            jobs = [tasks.hold.enqueue(str(number)) for number in range(3)]
            held("0")
            eventually(lambda: Job.objects.running().count() == 3)
            wish(Wish.DRAIN)
            eventually(lambda: Job.objects.running().count() == 1)
            self.assertEqual([row_of(job)["attempts"] for job in jobs], [1, 0, 0])
            let_go()
            ended(jobs[0])
            self.assertEqual(Job.objects.ready().count(), 2)
            self.assertEqual(worker.stop(), 0)

    def test_a_worker_that_is_to_stop_finishes_what_runs_and_ends(self):
        with running_worker(options=SOON) as worker:
            running = tasks.hold.enqueue("first")
            held("first")
            wish(Wish.STOP)
            worker.says("was asked to stop")
            self.assertEqual(wish(None), [])  # too late for something else
            let_go("first")
            self.assertEqual(worker.wait(), 0)
            self.assertEqual(ended(running).status, "SUCCESSFUL")
        self.assertFalse(Worker.objects.exists())

    def test_a_batch_has_nothing_to_stay_for(self):
        tasks.hold.enqueue("first")
        left = tasks.hold.using(priority=-1).enqueue("left")
        with running_worker("--batch", options=SOON, ready=False) as worker:
            held("first")
            wish(Wish.DRAIN)
            worker.says("was asked to stop")
            let_go("first")
            self.assertEqual(worker.wait(), 0)
        self.assertEqual(row_of(left)["status"], "READY")

    def test_a_worker_that_is_declared_lost_stays_drained(self):
        with running_worker(options=SOON) as worker:
            wish(Wish.DRAIN)
            worker.says("was asked to drain")
            life = worker.row().life
            Worker.objects.all().delete()
            eventually(lambda: worker.row() and worker.row().life != life)
            self.assertEqual(worker.row().wish, Wish.DRAIN)

    def test_a_runner_ends_and_may_run_again(self):
        with override_settings(TASKS=tasks_setting(worker_timeout=1)):
            runner = Runner(worker_id="r", workers=1)
            for _ in range(2):
                thread = threading.Thread(target=runner.run)
                thread.start()
                self.assertTrue(runner.ready.wait(30))
                wish(Wish.STOP, "r")
                thread.join(30)
                self.assertFalse(thread.is_alive())


class SupervisedTests(WorkerTestCase):
    def test_a_worker_that_was_asked_to_stop_is_not_replaced(self):
        two = ("--processes", "2", "--worker-id", "w")
        with running_worker(*two, options=SOON, ready=False) as supervisor:
            eventually(lambda: Worker.objects.count() == 2)
            wish(Wish.STOP, "w-1")
            supervisor.says("was asked to stop; no other takes its place")
            done = ended(tasks.echo.enqueue())
            self.assertEqual(done.worker_id, "w-2")
            self.assertEqual(Worker.objects.get().id, "w-2")
            wish(Wish.STOP, "w-2")
            self.assertEqual(supervisor.wait(), 0)
            self.assertIn("Supervisor w has stopped", supervisor.output())

    def test_one_whose_run_takes_too_long_is_not_replaced_either(self):
        line = ("--processes", "2", "--worker-id", "w", "--shutdown-timeout", "0.5")
        with running_worker(*line, options=SOON, ready=False) as supervisor:
            job = tasks.hold.enqueue("first")
            held("first")
            wish(Wish.STOP, row_of(job)["worker_id"])
            supervisor.says("no other takes its place")
            held("first", 2)  # on the other one
            let_go()
            self.assertEqual(ended(job).lost, 1)
            self.assertEqual(supervisor.stop(), 0)


class SpeedTests(WorkerTestCase):
    def test_a_notification_brings_a_wish_at_once(self):
        if connection.vendor != "postgresql":
            self.skipTest("Only PostgreSQL notifies.")
        # It would beat every 15 minutes.
        seldom = {"worker_timeout": 3600, "statistics": False}
        with running_worker("-v2", options=seldom) as worker:
            worker.says("Notifications arrive")
            # Not only while it waits whether notifications arrive.
            for each, says in ((Wish.DRAIN, "was asked to drain"), (None, "goes on")):
                wish(each)
                worker.says(says)
            wish(Wish.STOP)
            self.assertEqual(worker.wait(), 0)
