"""Many claimers at once: each job is claimed exactly once, and none is lost."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from durable_tasks.models import Job

from .claimer import drain
from .jobs import StoreTestCase, make_jobs

JOBS = 2000
QUEUES = ("a", "b", "c", "d", "e")


@pytest.mark.any_version
class RaceContract(StoreTestCase):
    def make_jobs(self) -> list[Job]:
        """Insert 2,000 jobs over five queues, of mixed priorities and due times."""
        now = timezone.now()
        return make_jobs(
            JOBS,
            queue_name=lambda n: QUEUES[n * 7 % 5],
            priority=lambda n: n * 11 % 13 - 6,
            run_at=lambda n: now - timedelta(seconds=n * 17 % 101),
        )

    def assert_each_claimed_once(self, jobs: list[Job], claimed: Sequence[UUID]) -> None:
        self.assertEqual(len(claimed), JOBS)
        self.assertEqual(set(claimed), {job.id for job in jobs})
        outcomes = Job.objects.values_list("status", "attempts", "lease").distinct()
        self.assertEqual(list(outcomes), [("SUCCESSFUL", 1, 1)])

    def test_threads_claim_each_job_exactly_once(self) -> None:
        for names in (None, QUEUES):
            with self.subTest(names=names):
                Job.objects.all().delete()
                jobs = self.make_jobs()
                start = threading.Barrier(8)

                def work(number: int, names: Sequence[str] | None = names) -> list[UUID]:
                    start.wait()  # noqa: B023  (joined before the next turn)
                    return drain("default", f"thread {number}", 5 + number, names)

                with ThreadPoolExecutor(8) as pool:
                    claims = list(pool.map(work, range(8)))
                self.assert_each_claimed_once(jobs, [id for ids in claims for id in ids])

    def test_processes_claim_each_job_exactly_once(self) -> None:
        jobs = self.make_jobs()
        name = connection.settings_dict["NAME"]
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DURABLE_TASKS_TEST_DB_NAME": str(name),
        }
        with ExitStack() as stack:
            processes = [
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.store.claimer", f"process {n}", "10"],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                        env=environment,
                    )
                )
                for n in range(4)
            ]
            for process in processes:
                stack.callback(process.kill)
                assert process.stdout is not None
                self.assertEqual(process.stdout.readline(), "ready\n")
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            outputs = [process.communicate()[0] for process in processes]
        self.assertEqual([process.returncode for process in processes], [0] * 4)
        self.assert_each_claimed_once(jobs, [UUID(id) for id in "".join(outputs).split()])

    def test_one_claimer_keeps_the_order(self) -> None:
        jobs = self.make_jobs()
        queue = {job.id: job.queue_name for job in jobs}
        claimed = drain("default", "w", 37, None)
        best = sorted(jobs, key=lambda job: (-job.priority, job.run_at, job.id))
        for name in QUEUES:
            self.assertEqual(
                [id for id in claimed if queue[id] == name],
                [job.id for job in best if job.queue_name == name],
            )
