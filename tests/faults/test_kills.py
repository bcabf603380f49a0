"""Workers and supervisors that are killed at random while thousands of jobs run."""

import os
import random
import signal
import time
from contextlib import suppress

from durable_tasks.models import Worker
from durable_tasks.worker.process import process_start

from ..helpers import WorkerTestCase, eventually, run_worker, running_worker
from .load import LONG, OPTIONS, Load

JOBS = 5_000 if LONG else 1_500
PROCESSES = 4
# So many kills of workers, then the supervisor.
KILLS = 30 if LONG else 6


class RandomKillTests(WorkerTestCase):
    def test_nothing_is_lost_and_nothing_orphaned_while_all_are_killed(self):
        load = Load(seconds=0.002)
        arguments = (f"--processes={PROCESSES}", "--worker-id=w", "--threads=2", "-v0")
        with running_worker(*arguments, options=OPTIONS, ready=False) as supervisor:
            for kill in range(KILLS + 1):
                load.enqueue(JOBS // (KILLS + 1))
                left = load.left()
                eventually(lambda left=left: load.left() < left - 50, "jobs end", 60)
                if kill < KILLS:
                    pids = list(Worker.objects.values_list("pid", flat=True))
                    with suppress(ProcessLookupError):
                        os.kill(random.Random(kill).choice(pids), signal.SIGKILL)
            children = {
                pid: process_start(pid) for pid in Worker.objects.values_list("pid", flat=True)
            }
            self.assertTrue(children)
            os.kill(supervisor.pid, signal.SIGKILL)
            supervisor.process.wait()
            eventually(
                lambda: not any(process_start(pid) == start for pid, start in children.items()),
                "no worker outlives its supervisor",
            )
        load.enqueue(100)
        time.sleep(1)  # what was deferred last becomes due
        run_worker(options=OPTIONS)
        self.assertEqual(load.left(), 0)
        count = load.count()
        self.assertEqual(count.broken, [])
        self.assertEqual(count.jobs, len(load.confirmed))
        self.assertGreater(count.jobs, JOBS)
        self.assertGreater(count.lost_runs, 0)
