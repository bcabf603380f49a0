"""Many jobs, several queues, several processes: each job runs exactly once."""

import os
import random
from collections import Counter
from contextlib import ExitStack

from durable_tasks.compat import task_backends
from durable_tasks.models import Job

from ..app import tasks
from ..helpers import WorkerTestCase, effects, running_worker

JOBS = 10_000 if os.environ.get("DURABLE_TASKS_LONG") else 2_000


class DrainTests(WorkerTestCase):
    def test_four_processes_run_each_job_exactly_once(self):
        dice = random.Random(4)
        kinds = [
            kind.using(queue_name=f"queue {number}", priority=priority)
            for kind in (tasks.effect, tasks.async_effect)
            for number in range(5)
            for priority in (-50, 0, 50)
        ]
        task_backends["default"].enqueue_many(
            [(dice.choice(kinds), [f"job {number}"], {}) for number in range(JOBS)]
        )
        with ExitStack() as stack:
            workers = [
                stack.enter_context(
                    running_worker("--batch", "--queue-name", "*", *how, ready=False)
                )
                for how in ((), (), ("--threads", "3"), ("--coroutines", "5"))
            ]
            self.assertEqual([worker.wait(180) for worker in workers], [0, 0, 0, 0])
            for worker in workers:
                self.assertNotIn("does not count", worker.output())
                self.assertNotIn("Traceback", worker.output())
        self.assertEqual(
            Counter(Job.objects.values_list("status", "attempts", "lost")),
            {("SUCCESSFUL", 1, 0): JOBS},
        )
        self.assertEqual(Counter(effects()), Counter(f"job {number}" for number in range(JOBS)))
