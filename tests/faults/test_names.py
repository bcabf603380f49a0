"""A worker id is a name: who may take it over, and when."""

import time
import uuid
from unittest import mock

from django.db import OperationalError, connections, router
from django.utils import timezone

from durable_tasks.compat import task_backends
from durable_tasks.exceptions import WorkerIdInUse
from durable_tasks.models import Job, Worker
from durable_tasks.store import Queues, store_for
from durable_tasks.store.registry import Registry
from durable_tasks.worker.worker import Worker as WorkerMachine
from durable_tasks.worker.worker import WorkerSettings

from ..app import tasks
from ..helpers import (
    QUICK,
    WorkerTestCase,
    ended,
    eventually,
    held,
    let_go,
    run_command,
    running_worker,
)

NEVER = {"worker_timeout": 3600}


def foreign_row(seconds_ago=0.0):
    """Add the row of a worker "w" on a host that can't be seen from here."""
    return Worker.objects.create(
        id="w",
        life=uuid.uuid4(),
        backend_name="default",
        host="elsewhere",
        pid=4242,
        process_started="1",
        queues="all",
        started_at=timezone.now(),
        last_seen=int((time.time() - seconds_ago) * 1e6),
        capacity=1,
    )


class NameTests(WorkerTestCase):
    def test_a_name_in_use_is_refused_and_its_owner_named(self):
        with running_worker("--worker-id", "w", options=NEVER) as first:
            second = run_command("db_worker", *QUICK, "--worker-id", "w", options=NEVER)
            self.assertEqual(second.returncode, 1)
            line = second.stderr.strip()
            self.assertEqual(len(line.splitlines()), 1, line)
            self.assertIn(f"worker 'w' (process {first.pid} on ", line)
            self.assertIn("choose another --worker-id", line)
            job = ended(tasks.add.enqueue(1, 2))
            self.assertEqual((job.status, job.worker_id), ("SUCCESSFUL", "w"))
            self.assertEqual(first.stop(), 0)

    def test_the_name_of_a_killed_worker_is_taken_over_at_once_with_its_jobs(self):
        result = tasks.hold.enqueue("x")
        with running_worker("--worker-id", "w", options=NEVER) as first:
            held("x")
            first.kill()
        with running_worker("--worker-id", "w", options=NEVER) as second:
            held("x", times=2)
            self.assertNotIn("Waiting", second.output())
            let_go()
            job = ended(result)
            self.assertEqual((job.worker_id, job.attempts, job.lost), ("w", 2, 1))
            self.assertEqual(Worker.objects.get().pid, second.pid)

    def test_a_name_whose_owner_cannot_be_seen_is_waited_for_until_it_is_stale(self):
        row = foreign_row(seconds_ago=-3)  # the worker below may take its time to start
        result = tasks.hold.enqueue("x")
        Job.objects.update(status="RUNNING", worker_id="w", lease=1, attempts=1)
        let_go()
        options = {"worker_timeout": 2}
        with running_worker("--worker-id", "w", options=options, ready=False) as worker:
            worker.says("for the former worker 'w' (process 4242 on elsewhere)")
            self.assertEqual(result.job.status, "RUNNING")
            eventually(worker.row, "it takes over")
            self.assertGreaterEqual(worker.row().last_seen, row.last_seen + 2_000_000)
            job = ended(result)
            self.assertEqual((job.worker_id, job.attempts, job.lost), ("w", 2, 1))

    def test_a_stale_name_is_taken_over_at_once(self):
        foreign_row(seconds_ago=7200)
        with running_worker("--worker-id", "w", options=NEVER) as worker:
            self.assertNotIn("Waiting", worker.output())

    def test_a_name_whose_heartbeat_moves_is_refused(self):
        row = foreign_row()
        with running_worker("--worker-id", "w", options=NEVER, ready=False) as worker:
            worker.says("Waiting up to")
            Worker.objects.update(last_seen=row.last_seen + 1)
            self.assertEqual(worker.wait(), 1)
            self.assertIn("worker 'w' (process 4242 on elsewhere) is alive", worker.output())
        self.assertEqual(Worker.objects.get().life, row.life)

    def test_a_worker_that_waits_for_its_name_can_be_stopped(self):
        row = foreign_row()
        with running_worker("--worker-id", "w", options=NEVER, ready=False) as worker:
            worker.says("Waiting up to")
            self.assertEqual(worker.stop(), 0)
        self.assertEqual(Worker.objects.get().last_seen, row.last_seen)

    def test_without_a_name_every_worker_has_its_own(self):
        with running_worker() as first, running_worker() as second:
            ids = {first.row().id, second.row().id}
            self.assertEqual(len(ids), 2)

    def test_a_row_whose_answer_was_lost_is_its_own(self):
        def add(registry, row, **columns):
            usual(registry, row, **columns)
            raise OperationalError("the reply is lost")

        usual = Registry.add
        registry = Registry(store_for(connections[router.db_for_write(Worker)]))
        backend = task_backends["default"]
        queues = Queues("default", None)
        worker = WorkerMachine(
            WorkerSettings(type(backend), backend.durable_options, queues, worker_id="w")
        )
        with mock.patch.object(Registry, "add", add), self.assertRaises(OperationalError):
            worker._add_row(registry)
        life = worker._add_row(registry)
        self.assertEqual(Worker.objects.get().life, life)
        with self.assertRaisesMessage(WorkerIdInUse, "is alive; choose another"):
            worker._add_row(registry)
