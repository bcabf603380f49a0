"""One task, step by step: what ``docs/one-task.md`` tells, done by hand."""

from queue import SimpleQueue
from uuid import UUID

from django.db import connection
from django.test import TestCase
from django.utils import timezone

from durable_tasks.compat import TaskResultStatus, task_backends
from durable_tasks.execute import Executor
from durable_tasks.models import Job
from durable_tasks.options import Options
from durable_tasks.results import to_result
from durable_tasks.store import Claim, Queues, store_for

from .app.tasks import add


class OneTaskTests(TestCase):
    def test_a_task_goes_its_six_steps(self):
        # 1. Enqueue: backend.py makes a row of the call.
        backend = task_backends["default"]
        result = backend.enqueue(add, [1, 2], {})
        self.assertEqual(result.status, TaskResultStatus.READY)

        # 2. Row: store/<vendor>.py inserted it, in the caller's transaction.
        job = Job.objects.get(id=result.id)
        self.assertEqual((job.status, job.args, job.attempts, job.lease), ("READY", [1, 2], 0, 0))

        # 3. Claim: what worker/loop.py asks of the store.
        store = store_for(connection)
        queues = Queues("default", ("default",))
        claims = store.exchange(
            [], 10, queues=queues, worker_id="by hand", now=timezone.now()
        ).claims
        self.assertEqual([claim.id for claim in claims], [UUID(result.id)])
        job.refresh_from_db()
        self.assertEqual((job.status, job.worker_id, job.lease), ("RUNNING", "by hand", 1))

        # 4. Run: execute.py makes an ending of a claim, whatever the task does.
        started: SimpleQueue[Claim] = SimpleQueue()
        executor = Executor(
            backend_name="default",
            worker_id="by hand",
            now=timezone.now,
            options=Options(max_result_size=1000),
            database="default",
            on_start=lambda claim, started_at: started.put(claim),
        )
        finish = executor.execute(claims[0])
        self.assertIs(started.get_nowait(), claims[0])
        self.assertEqual((finish.status, finish.return_value), ("SUCCESSFUL", "3"))
        job.refresh_from_db()
        self.assertEqual(job.status, "RUNNING")  # nothing is written yet

        # 5. Finish: the next exchange writes it, fenced by the lease.
        exchange = store.exchange(
            [finish], 10, queues=queues, worker_id="by hand", now=timezone.now()
        )
        self.assertEqual((exchange.counted, exchange.claims), ({job.id}, []))

        # 6. Result: results.py makes Django's TaskResult of the row.
        job.refresh_from_db()
        seen = to_result(job)
        self.assertEqual((seen.status, seen.return_value), (TaskResultStatus.SUCCESSFUL, 3))
        self.assertEqual(backend.get_result(result.id), seen)
        result.refresh()
        self.assertEqual(result.return_value, 3)
        self.assertEqual(result.worker_ids, ["by hand"])
