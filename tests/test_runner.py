"""A worker inside another program."""

import subprocess
import threading
from unittest import mock

import pytest
from django.test import override_settings

from durable_tasks import Periodic, Runner, WorkerIdInUse
from durable_tasks.models import PeriodicTask, Worker

from .app import tasks
from .helpers import (
    PATIENCE,
    ROOT,
    WorkerTestCase,
    command,
    ended,
    environment,
    eventually,
    from_django,
    held,
    let_go,
    run_command,
    tasks_setting,
)


class RunnerTests(WorkerTestCase):
    def start(self, **arguments):
        """Run a runner in a thread until the test ends."""
        runner = Runner(interval=0.05, **arguments)
        thread = threading.Thread(target=runner.run)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(runner.stop)
        self.assertTrue(runner.ready.wait(30))
        return runner

    def test_it_runs_sync_and_async_tasks_of_every_queue(self):
        runner = self.start(worker_id="in-process")
        results = [tasks.add.using(queue_name=f"q{number}").enqueue(number, 1) for number in (1, 2)]
        results.append(tasks.async_add.enqueue(3, 1))
        for number, result in enumerate(results, 1):
            self.assertTrue(runner.wait_for(result, timeout=30))
            self.assertEqual(result.return_value, number + 1)
            self.assertEqual(result.worker_ids, ["in-process"])

    def test_it_serves_only_the_queues_it_was_given(self):
        runner = self.start(queue_names=("mine",))
        other = tasks.add.using(queue_name="other").enqueue(1, 2)
        mine = tasks.add.using(queue_name="mine").enqueue(1, 2)
        self.assertTrue(runner.wait_for(mine, timeout=30))
        self.assertTrue(runner.wait(timeout=30))
        self.assertEqual(other.job.status, "READY")

    def test_waiting_ends_with_its_time(self):
        runner = self.start()
        result = tasks.hold.enqueue("x")
        held("x")
        self.assertFalse(runner.wait_for(result, timeout=0.01))
        self.assertFalse(runner.wait(timeout=0.01))
        let_go()
        self.assertTrue(runner.wait(timeout=30))
        self.assertEqual(ended(result).status, "SUCCESSFUL")

    def test_a_stop_lets_what_runs_end(self):
        runner = self.start()
        result = tasks.hold.enqueue("x")
        held("x")
        runner.stop()
        self.assertFalse(runner.finished.is_set())
        let_go()
        self.assertTrue(runner.finished.wait(30))
        self.assertEqual(result.job.status, "SUCCESSFUL")
        self.assertFalse(Worker.objects.exists())

    def test_it_counts_what_it_runs_and_says_when_there_is_nothing(self):
        runner = self.start()
        self.assertTrue(runner.empty.wait(PATIENCE))
        result = tasks.hold.enqueue("x")
        held("x")
        eventually(lambda: not runner.empty.is_set())
        let_go()
        self.assertTrue(runner.wait_for(result, timeout=PATIENCE))
        self.assertTrue(runner.empty.wait(PATIENCE))
        self.assertEqual(runner.processed, 1)

    def test_it_may_run_again(self):
        runner = Runner(interval=0.05)
        for _ in range(2):
            thread = threading.Thread(target=runner.run)
            thread.start()
            self.assertTrue(runner.wait_for(tasks.add.enqueue(1, 2), timeout=PATIENCE))
            self.assertFalse(runner.finished.is_set())
            runner.stop()
            thread.join()
            self.assertTrue(runner.finished.is_set())
            self.assertFalse(runner.ready.is_set())
            self.assertEqual(runner.processed, 1)

    def test_a_second_run_at_once_is_refused_and_the_first_goes_on(self):
        runner = self.start(worker_id="x")
        for _ in range(2):
            with self.assertRaisesMessage(WorkerIdInUse, "The runner 'x' runs already"):
                runner.run()
        self.assertTrue(runner.ready.is_set())
        self.assertFalse(runner.finished.is_set())
        self.assertTrue(runner.wait_for(tasks.add.enqueue(1, 2), timeout=PATIENCE))
        runner.stop()
        self.assertTrue(runner.finished.wait(PATIENCE))

    def test_a_stop_before_a_run_ends_it_at_once(self):
        runner = Runner(interval=0.05)
        result = tasks.add.enqueue(1, 2)
        for _ in range(2):
            runner.stop()
            thread = threading.Thread(target=runner.run, daemon=True)
            thread.start()
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive())
            self.assertEqual((runner.processed, result.job.status), (0, "READY"))
        thread = threading.Thread(target=runner.run)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(runner.stop)
        self.assertTrue(runner.wait_for(result, timeout=PATIENCE))

    def test_what_can_not_be_imported_anew_goes_on_as_it_is(self):
        runner = self.start()
        self.assertTrue(runner.wait_for(tasks.add.enqueue(1, 2), timeout=PATIENCE))
        with (
            mock.patch("importlib.reload", side_effect=SyntaxError("broken")) as reload,
            self.assertRaisesMessage(SyntaxError, "broken"),
        ):
            runner.reload()
        reload.assert_called_once_with(tasks)
        result = tasks.add.enqueue(3, 4)
        self.assertTrue(runner.wait_for(result, timeout=PATIENCE))
        self.assertEqual(result.return_value, 7)

    def test_its_periodic_tasks_may_be_changed_before(self):
        runner = Runner(interval=0.05)
        runner.periodic["mine"] = Periodic("1h", task="tests.app.tasks.no_value")
        thread = threading.Thread(target=runner.run)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(runner.stop)
        row = eventually(PeriodicTask.objects.first)
        self.assertEqual((row.name, row.task_path), ("mine", "tests.app.tasks.no_value"))

    def test_a_second_one_of_the_same_name_is_refused(self):
        self.start(worker_id="x")
        second = Runner(worker_id="x")
        with self.assertRaisesMessage(WorkerIdInUse, "worker 'x'"):
            second.run()
        self.assertTrue(second.finished.is_set())

    def test_another_kind_of_backend_is_refused(self):
        with (
            override_settings(TASKS=tasks_setting(from_django("dummy.DummyBackend"))),
            self.assertRaisesMessage(Exception, "not a durable_tasks backend"),
        ):
            Runner()


class TaskrunnerTests(WorkerTestCase):
    def test_without_schedules_it_runs_what_is_enqueued(self):
        result = tasks.hold.using(queue_name="any").enqueue("x")
        process = subprocess.Popen(
            command("taskrunner", "--no-periodic", "-w", "2"), cwd=ROOT, env=environment()
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        held("x")
        process.terminate()
        let_go()
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertEqual(result.job.status, "SUCCESSFUL")

    @pytest.mark.any_database
    def test_bad_values_are_one_line(self):
        for arguments, text in (
            (["-w", "0"], "must be a whole number above 0"),
            (["--delay", "-1"], "must be a number of seconds"),
            (["--backend", "nowhere"], "There is no task backend 'nowhere'"),
        ):
            done = run_command("taskrunner", *arguments)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(text, done.stderr)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
