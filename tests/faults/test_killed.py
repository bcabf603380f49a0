"""A worker that is gone, or stopped: its jobs run elsewhere, and its word counts no more."""

import signal
import tempfile
import time
from pathlib import Path
from unittest import skipIf

from django.db import connection

from durable_tasks.models import Job, Worker

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
)

SOON = {"worker_timeout": 2}
NEVER = {"worker_timeout": 3600}


class KilledTests(WorkerTestCase):
    def lose_a_worker(self, result, options, before=lambda: None):
        """Kill the worker "first" while it holds "x"."""
        with running_worker("--worker-id", "first", options=options) as worker:
            held("x")
            before()
            worker.kill()
        self.assertEqual((result.job.status, result.job.worker_id), ("RUNNING", "first"))

    def assert_rescued(self, result):
        let_go()
        job = ended(result)
        self.assertEqual(
            (job.status, job.worker_id, job.attempts, job.lost, job.return_value),
            ("SUCCESSFUL", "second", 2, 1, "x"),
        )
        (error,) = job.errors
        self.assertEqual((error["worker_id"], error["attempt"]), ("first", 1))
        self.assertEqual(error["exception_class_path"], "durable_tasks.exceptions.WorkerLost")
        self.assertEqual(effects("done"), ["done x"])
        self.assertEqual(list(Worker.objects.values_list("id", flat=True)), ["second"])
        result.refresh()
        self.assertEqual((result.worker_ids, result.attempts), (["first", "second"], 2))

    def test_a_job_of_a_killed_worker_runs_again_on_one_that_was_there(self):
        result = tasks.hold.enqueue("x")
        with running_worker("--worker-id", "first", options=SOON) as first:
            held("x")
            with running_worker("--worker-id", "second", options=SOON) as second:
                first.kill()
                killed_at = time.monotonic()
                held("x", times=2)
                took = time.monotonic() - killed_at
                print(f"It began again {took:.2f} s after its worker was killed.")
                self.assertLess(took, SOON["worker_timeout"] + 2)
                self.assert_rescued(result)
                second.says(f"(process {first.pid} on ")
                self.assertIn("Rescued 1 jobs of lost workers: 1 will run again", second.output())

    def test_a_process_that_is_provably_gone_is_not_waited_for(self):
        result = tasks.hold.enqueue("x")
        self.lose_a_worker(result, NEVER)
        with running_worker("--worker-id", "second", options=NEVER):
            held("x", times=2)
            self.assert_rescued(result)

    def test_a_batch_runs_what_a_worker_left_that_is_gone(self):
        result = tasks.hold.enqueue("x")
        self.lose_a_worker(result, NEVER)
        let_go()
        run_worker("--worker-id", "second", options=NEVER)
        self.assertEqual((result.job.status, result.job.attempts), ("SUCCESSFUL", 2))

    def test_a_worker_on_another_host_is_given_its_timeout(self):
        result = tasks.hold.enqueue("x")
        self.lose_a_worker(result, SOON, lambda: Worker.objects.update(host="elsewhere"))
        last_seen = Worker.objects.get(id="first").last_seen
        with running_worker("--worker-id", "second", options=SOON):
            held("x", times=2)
            rescued_at = result.job.last_attempted_at.timestamp()
            self.assertGreaterEqual(rescued_at - last_seen / 1e6, 2)
            self.assert_rescued(result)

    def test_a_task_that_must_not_run_twice_fails(self):
        result = tasks.hold_once.enqueue("x")
        self.lose_a_worker(result, NEVER)
        with running_worker("--worker-id", "second", options=NEVER):
            job = ended(result)
        self.assertEqual(
            (job.status, job.attempts, job.lost, job.worker_id, job.exception_class_path),
            ("FAILED", 1, 1, None, "durable_tasks.exceptions.WorkerLost"),
        )
        self.assertEqual(effects(), ["held x"])

    def test_a_job_that_kills_its_workers_fails_after_three(self):
        result = tasks.kill_worker.enqueue("x")
        for _ in range(3):
            with running_worker(options=NEVER, ready=False) as worker:
                self.assertEqual(worker.wait(), -signal.SIGKILL)
        with running_worker(options=NEVER):
            job = ended(result)
        self.assertEqual((job.status, job.attempts, job.lost), ("FAILED", 3, 3))
        self.assertEqual(len(job.errors), 3)
        self.assertIn("the job may be what ends its workers", job.errors[-1]["traceback"])
        self.assertEqual(effects(), ["x"] * 3)

    def test_a_job_that_kills_its_workers_fails_none_of_those_beside_it(self):
        beside = [tasks.hold.enqueue("a"), tasks.hold.enqueue("b"), tasks.async_hold.enqueue("c")]
        result = tasks.kill_worker_beside.enqueue(len(beside))
        for _ in range(3):
            with running_worker("--threads", "3", options=NEVER, ready=False) as worker:
                self.assertEqual(worker.wait(), -signal.SIGKILL)
        let_go()
        with running_worker(options=NEVER):
            for other in beside:
                self.assertEqual((ended(other).status, other.job.lost), ("SUCCESSFUL", 2))
            job = ended(result)
        self.assertEqual((job.status, job.attempts, job.lost), ("FAILED", 3, 3))


class StoppedTests(WorkerTestCase):
    def test_a_stopped_worker_that_wakes_up_changes_no_row_and_goes_on_anew(self):
        result = tasks.hold.enqueue("x")
        behind = tasks.async_hold.enqueue("y")
        with running_worker("--worker-id", "first", options=SOON) as first:
            held("x")
            held("y")
            first_life = first.row().life
            first.send_signal(signal.SIGSTOP)
            with running_worker("--worker-id", "second", options=SOON) as second:
                held("x", times=2)
                held("y", times=2)
                let_go()
                self.assertEqual(ended(result).worker_id, "second")
                self.assertEqual(ended(behind).worker_id, "second")
                self.assertEqual(second.stop(), 0)
            before = [row_of(result), row_of(behind)]
            self.assertFalse(Worker.objects.exists())
            first.send_signal(signal.SIGCONT)
            first.says("This worker was declared lost; its jobs run elsewhere.")
            eventually(lambda: effects("done").count("done x") == 2, "the first run of x ends too")
            eventually(lambda: effects("done").count("done y") == 2, "the first run of y ends too")
            for each in (result, behind):
                first.says(f"The ending of job {each.id} (SUCCESSFUL) does not count")
            later = ended(tasks.add.enqueue(1, 2))
            self.assertEqual((later.worker_id, later.return_value), ("first", 3))
            self.assertEqual([row_of(result), row_of(behind)], before)
            self.assertNotEqual(first.row().life, first_life)
            self.assertEqual(first.stop(), 0)
        self.assertEqual([row_of(result), row_of(behind)], before)

    @skipIf(connection.vendor == "sqlite", "there, an open transaction stops all others")
    def test_what_an_atomic_task_wrote_in_a_stopped_worker_is_undone(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "held"
        result = tasks.atomic_hold.enqueue("x", str(path))
        with running_worker("--worker-id", "first", options=SOON) as first:
            eventually(path.exists, "it runs")
            first.send_signal(signal.SIGSTOP)

            def ends():
                path.unlink(missing_ok=True)
                return result.job.status == "SUCCESSFUL"

            with running_worker("--worker-id", "second", options=SOON) as second:
                eventually(ends)
                self.assertEqual(second.stop(), 0)
            before = row_of(result)
            self.assertEqual((before["worker_id"], before["lost"]), ("second", 1))
            first.send_signal(signal.SIGCONT)
            first.says(f"The ending of job {result.id} (SUCCESSFUL) does not count")
            self.assertEqual(first.stop(), 0)
        self.assertEqual(row_of(result), before)
        self.assertEqual(effects(), ["x"])

    def test_a_stopped_worker_that_wakes_up_in_time_has_lost_nothing(self):
        result = tasks.hold.enqueue("x")
        with running_worker("--worker-id", "first", options=NEVER) as first:
            held("x")
            first.send_signal(signal.SIGSTOP)
            with running_worker("--worker-id", "second", options=NEVER):
                other = ended(tasks.add.enqueue(1, 2))
                self.assertEqual((other.worker_id, result.job.status), ("second", "RUNNING"))
                let_go()
                first.send_signal(signal.SIGCONT)
                job = ended(result)
        self.assertEqual((job.worker_id, job.attempts, job.lost), ("first", 1, 0))
        self.assertEqual(Job.objects.count(), 2)
