"""Many jobs, several queues, several processes and threads: each job runs exactly once."""

import os
import random
import signal
from collections import Counter
from contextlib import ExitStack

import pytest

from durable_tasks.compat import task_backends
from durable_tasks.models import Job, Worker

from ..app import tasks
from ..helpers import WorkerTestCase, effects, eventually, held, let_go, run_worker, running_worker

JOBS = 10_000 if os.environ.get("DURABLE_TASKS_LONG") else 2_000
FEWER_JOBS = JOBS // 5

# Processes x threads under one supervisor; the coroutines of async jobs come on top.
PROCESSES = ("--processes", "2", "--threads", "4", "--coroutines", "5", "--worker-id", "w")


def fill(jobs):
    """Enqueue so many jobs, sync and async, over five queues and three priorities."""
    dice = random.Random(4)
    kinds = [
        kind.using(queue_name=f"queue {number}", priority=priority)
        for kind in (tasks.effect, tasks.async_effect)
        for number in range(5)
        for priority in (-50, 0, 50)
    ]
    task_backends["default"].enqueue_many(
        [(dice.choice(kinds), [f"job {number}"], {}) for number in range(jobs)]
    )


@pytest.mark.any_version
class DrainTests(WorkerTestCase):
    def assert_each_ran_once(self, jobs):
        self.assertEqual(
            Counter(Job.objects.values_list("status", "attempts", "lost")),
            {("SUCCESSFUL", 1, 0): jobs},
        )
        self.assertEqual(Counter(effects()), Counter(f"job {number}" for number in range(jobs)))

    def assert_all_counted(self, output):
        self.assertNotIn("does not count", output)
        self.assertNotIn("Traceback", output)

    def test_four_processes_run_each_job_exactly_once(self):
        fill(JOBS)
        with ExitStack() as stack:
            workers = [
                stack.enter_context(
                    running_worker("--batch", "--queue-name", "*", *how, ready=False)
                )
                for how in ((), (), ("--threads", "3"), ("--coroutines", "5"))
            ]
            self.assertEqual([worker.wait(180) for worker in workers], [0, 0, 0, 0])
            for worker in workers:
                self.assert_all_counted(worker.output())
        self.assert_each_ran_once(JOBS)

    def test_processes_with_threads_run_each_job_exactly_once(self):
        fill(FEWER_JOBS)
        done = run_worker(*PROCESSES, "--queue-name", "*")
        self.assert_all_counted(done.stderr)
        self.assert_each_ran_once(FEWER_JOBS)

    def test_nothing_is_lost_with_a_process_that_is_killed_while_its_threads_run(self):
        # Each process holds some of these while its other threads go on; so one dies at work.
        holding = [tasks.hold.using(priority=100).enqueue(str(number)) for number in range(5)]
        with running_worker(*PROCESSES, "--queue-name", "*", ready=False) as supervisor:
            for number in range(len(holding)):
                held(str(number))
            fill(FEWER_JOBS)
            eventually(lambda: len(effects("job")) >= FEWER_JOBS // 4, "some have run")
            name = holding[0].job.worker_id
            lost = sum(result.job.worker_id == name for result in holding)
            os.kill(Worker.objects.get(id=name).pid, signal.SIGKILL)
            eventually(lambda: len(effects("held")) == len(holding) + lost, "they run again")
            let_go()
            jobs = FEWER_JOBS + len(holding)
            eventually(lambda: Job.objects.successful().count() == jobs, "all end well")
            self.assertEqual(supervisor.stop(), 0)
            self.assert_all_counted(supervisor.output())
        runs = Counter(effects("job"))
        self.assertEqual(set(runs), {f"job {number}" for number in range(FEWER_JOBS)})
        for job in Job.objects.filter(queue_name__startswith="queue"):
            # Once, and again only if the killed process had it: before its effect or after.
            self.assertEqual(job.attempts, 1 + job.lost, job.args)
            self.assertIn(runs[job.args[0]], range(1, job.attempts + 1), job.args)
        self.assertEqual(sum(result.job.lost for result in holding), lost)
        self.assertEqual(set(Job.objects.values_list("lost", flat=True)), {0, 1})
