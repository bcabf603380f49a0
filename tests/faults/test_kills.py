"""Workers and supervisors that are killed at random while thousands of jobs run."""

import os
import random
import signal
import time
from contextlib import suppress

from durable_tasks.models import Worker
from durable_tasks.worker.process import process_start

from ..app import tasks
from ..app.models import Effect
from ..helpers import PATIENCE, WorkerTestCase, eventually, held, let_go, run_worker, running_worker
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
            pids = Worker.objects.values_list("pid", flat=True)
            # One that was just killed may still have its row.
            children = {pid: start for pid in pids if (start := process_start(pid))}
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

    def test_under_a_supervisor_a_killed_workers_job_begins_again_at_once(self):
        tasks.hold.enqueue("x")
        options = {"worker_timeout": 3600}
        arguments = ("--processes=2", "--worker-id=w", "-v0")
        with running_worker(*arguments, options=options, ready=False):
            held("x")
            eventually(lambda: Worker.objects.count() == 2, "both are there")
            os.kill(int(Effect.objects.get(key="held x").worker), signal.SIGKILL)
            killed_at = time.monotonic()
            held("x", times=2)
            took = time.monotonic() - killed_at
            print(f"It began again {took:.2f} s after its worker was killed.")
            self.assertLess(took, 1 if LONG else PATIENCE)
            let_go()
