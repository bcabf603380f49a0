"""Pauses, and the workers that respect them."""

from unittest import mock

from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone

from durable_tasks.models import Job, Pause
from durable_tasks.pauses import pause_queue, pause_task, paused, resume
from durable_tasks.store import Store, store_for
from durable_tasks.testing import run_tasks
from durable_tasks.worker.worker import Worker

from ..app import tasks
from ..helpers import (
    WorkerTestCase,
    effects,
    ended,
    eventually,
    held,
    let_go,
    row_of,
    run_worker,
    running_worker,
    statuses,
    tasks_setting,
    work,
)
from ..store.jobs import make_jobs, make_running

MARK, HOLD, ADD = (each.module_path for each in (tasks.mark, tasks.hold, tasks.add))


class PauseTests(WorkerTestCase):
    def test_a_paused_task_starts_nothing_until_it_is_resumed(self):
        with running_worker("--interval", "60") as worker:
            self.assertIs(pause_task("default", MARK, by="ada"), True)
            # What it knows may be half a second old: it looks before a claim that comes later.
            eventually(lambda: tasks.no_value.enqueue() and "Paused" in worker.output())
            paused_jobs = [tasks.mark.enqueue(f"p{n}") for n in range(3)]
            other = tasks.add.enqueue(1)
            self.assertEqual(ended(other).status, "SUCCESSFUL")
            eventually(lambda: statuses(paused_jobs) == ["PAUSED"] * 3)
            self.assertEqual(
                {(job.attempts, job.worker_id) for job in Job.objects.paused()}, {(0, None)}
            )
            self.assertEqual(effects(), [])
            self.assertIs(resume("default", task_path=MARK), True)
            for result in paused_jobs:
                self.assertEqual(ended(result).attempts, 1)
            self.assertEqual(effects(), ["p0", "p1", "p2"])
            self.assertIn("Nothing is paused any more.", worker.says("Nothing is paused"))
            self.assertEqual(worker.stop(), 0)

    def test_a_pause_right_after_the_first_line_is_told(self):
        hello = Worker._say_hello

        def pause(*args):
            hello(*args)
            pause_task("default", MARK)

        with (
            mock.patch.object(Worker, "_say_hello", pause),
            self.assertLogs("durable_tasks") as logs,
        ):
            work()
        self.assertIn(f"Paused: task {MARK}.", [record.getMessage() for record in logs.records])

    def test_a_paused_queue_starts_nothing_until_it_is_resumed(self):
        pause_queue("default", "mail")
        for serves in ("*", "default,mail", "mail"):
            options = ("--interval", "60", "--queue-name", serves)
            with self.subTest(serves=serves), running_worker(*options) as worker:
                waits = [tasks.mark.using(queue_name="mail").enqueue(f"{n}") for n in range(2)]
                if serves != "mail":
                    ended(tasks.add.enqueue(1))
                self.assertEqual(statuses(waits), ["READY"] * 2)
                resume("default", queue_name="mail")
                for result in waits:
                    self.assertEqual(ended(result).attempts, 1)
                pause_queue("default", "mail")
                self.assertEqual(worker.stop(), 0)

    def test_what_runs_goes_on_and_what_waits_here_goes_back(self):
        with running_worker("--queue-name", "*", options={"prefetch": 10}) as worker:
            tasks.hold.enqueue("x")
            held("x")
            first = [tasks.mark.enqueue("a"), tasks.mark.using(queue_name="mail").enqueue("b")]
            tasks.hold.enqueue("y")
            let_go("x")
            held("y")
            waits = [tasks.mark.enqueue("c"), tasks.add.using(queue_name="mail").enqueue(1)]
            self.assertEqual([ended(each).status for each in first], ["SUCCESSFUL"] * 2)
            with transaction.atomic():
                pause_task("default", MARK)
                pause_queue("default", "mail")
            worker.says(f"Paused: queue mail, task {MARK}.")
            let_go("y")
            eventually(lambda: statuses(waits) == ["PAUSED", "READY"])
            self.assertEqual({row_of(each)["attempts"] for each in waits}, {0})
            self.assertEqual(worker.stop(), 0)
        self.assertNotIn("c", effects())

    def test_a_batch_says_what_it_leaves(self):
        pause_task("default", MARK)
        pause_queue("default", "mail")
        pause_queue("default", "elsewhere")
        left = [tasks.mark.enqueue("a"), tasks.add.using(queue_name="mail").enqueue(1)]
        done = tasks.add.enqueue(1)
        output = run_worker("--queue-name", "default,mail").stderr
        self.assertEqual(statuses([*left, done]), ["PAUSED", "READY", "SUCCESSFUL"])
        words = f"queue mail, task {MARK}."
        lines = output.strip().splitlines()
        self.assertIn(f"coroutines: 50. Paused: {words}", output)
        self.assertTrue(lines[-2].endswith(f"Paused, and not run by this batch: {words}"), output)
        resume("default", task_path=MARK)
        resume("default", queue_name="mail")
        output = run_worker("--queue-name", "default,mail").stderr
        self.assertNotIn("aused", output)
        self.assertEqual(statuses(left), ["SUCCESSFUL"] * 2)

    def test_many_jobs_are_parked_and_resumed_in_their_order(self):
        pause_task("default", MARK)
        later = [tasks.mark.using(priority=n % 3).enqueue(f"{n}") for n in range(30)]
        make_jobs(1200, task_path=MARK, queue_name="none")
        work(queue_names=None)
        self.assertEqual(Job.objects.paused().count(), 1230)
        Job.objects.filter(queue_name="none").delete()
        resume("default", task_path=MARK)
        work()
        order = sorted(range(30), key=lambda n: (-(n % 3), n))
        self.assertEqual(effects(), [str(n) for n in order])
        self.assertEqual(set(statuses(later)), {"SUCCESSFUL"})

    def test_forgotten_jobs_are_found_at_a_heartbeat(self):
        """Their worker died, or was late, as somebody resumed their task."""
        pause_task("default", ADD)
        with running_worker(options={"worker_timeout": 2.0}) as worker:
            [job] = make_jobs(status="PAUSED", task_path=MARK, args=["a"])
            [parked] = make_jobs(status="PAUSED", task_path=ADD, args=[1])
            eventually(lambda: Job.objects.successful().filter(id=job.id).exists())
            self.assertEqual(Job.objects.get(id=parked.id).status, "PAUSED")
            self.assertEqual(worker.stop(), 0)

    def test_what_is_rescued_or_due_is_parked(self):
        pause_task("default", MARK)
        make_running(worker_id="dead", task_path=MARK)
        make_jobs(status="SCHEDULED", task_path=MARK)
        work()
        self.assertEqual(Job.objects.paused().count(), 2)

    def test_a_paused_job_can_be_cancelled_and_waited_for(self):
        pause_task("default", ADD)
        cancelled, result = tasks.add.enqueue(1), tasks.add.enqueue(2)
        work()
        self.assertIs(cancelled.cancel(), True)
        self.assertEqual(cancelled.job.status, "CANCELLED")
        result.refresh()
        self.assertEqual((result.status, result.job.status), ("READY", "PAUSED"))
        with self.assertRaises(TimeoutError):
            result.wait_finished(timeout=0.01)
        resume("default", task_path=ADD)
        work()
        self.assertEqual(result.wait_finished(timeout=1).return_value, 2)

    def test_an_idle_worker_sends_nothing_more(self):
        with (
            mock.patch.object(Store, "stamp", autospec=True, side_effect=Store.stamp) as look,
            mock.patch.object(Store, "pauses", autospec=True, side_effect=Store.pauses) as read,
            mock.patch.object(Store, "resume", autospec=True, side_effect=Store.resume) as moved,
        ):
            work()
        # The first and the last line read the pauses; the look at what is READY has the stamp.
        self.assertEqual((look.call_count, read.call_count, moved.call_count), (0, 2, 0))

    def test_where_tasks_run_at_once_pauses_mean_nothing(self):
        with override_settings(TASKS=tasks_setting(immediate=True)):
            pause_task("default", ADD)
            pause_queue("default", "default")
            self.assertEqual(tasks.add.enqueue(1).return_value, 1)

    def test_the_helpers_of_tests_respect_pauses(self):
        pause_task("default", ADD)
        pause_queue("default", "mail")
        waits = [tasks.add.enqueue(1), tasks.no_value.using(queue_name="mail").enqueue()]
        done = tasks.no_value.enqueue()
        self.assertEqual([result.id for result in run_tasks()], [done.id])
        self.assertEqual(statuses(waits), ["PAUSED", "READY"])
        resume("default", task_path=ADD)
        resume("default", queue_name="mail")
        self.assertEqual({result.id for result in run_tasks()}, {each.id for each in waits})


class PausingTests(WorkerTestCase):
    """What people call."""

    def test_a_pause_is_made_and_ended_once(self):
        self.assertEqual(paused("default"), [])
        for _ in range(2):
            first = not Pause.objects.exists()
            self.assertIs(pause_queue("default", "mail", by="ada"), first)
        self.assertIs(pause_task("default", "a.b", by="b" * 300), True)
        rows = paused("default")
        self.assertEqual([str(row) for row in rows], ["mail", "a.b"])
        self.assertEqual([row.paused_by for row in rows], ["ada", "b" * 255])
        self.assertLessEqual(rows[0].paused_at, timezone.now())
        for expected in (True, False):
            self.assertIs(resume("default", queue_name="mail"), expected)
            self.assertIs(resume("default", task_path="a.b"), expected)
        self.assertEqual(store_for(connections["default"]).stamp("default").count, 0)

    def test_what_will_not_do_is_refused(self):
        setting = tasks_setting()
        setting["default"]["QUEUES"] = ["default", "mail"]

        with override_settings(TASKS=setting):
            for word, arguments, text in (
                (pause_queue, ("default", "nail"), "no queue 'nail'; it has default, mail"),
                (pause_queue, ("default", ""), "must be a text that is not empty"),
                (pause_queue, ("default", "x" * 101), "101 characters long, 100 at most"),
                (pause_queue, ("default", "a\0"), "NUL"),
                (pause_queue, ("none", "mail"), "'none' is no backend of durable_tasks"),
                (pause_task, ("none", "a.b"), "'none' is no backend of durable_tasks"),
                (pause_task, ("default", "a.b" * 100), "300 characters long, 255 at most"),
                (pause_task, ("default", "nothing"), "'nothing' is no path of a task"),
                (pause_task, ("default", "a. b"), "no path of a task"),
                (resume, ("default",), "either queue_name or task_path"),
            ):
                with self.subTest(text), self.assertRaisesRegex(ValueError, text):
                    word(*arguments)
        self.assertEqual(Pause.objects.count(), 0)
