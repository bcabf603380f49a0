"""Many workers start at the same instant."""

from contextlib import ExitStack
from datetime import timedelta

from django.utils import timezone

from durable_tasks.compat import task_backends
from durable_tasks.models import Job, Worker

from ..app import tasks
from ..helpers import WorkerTestCase, eventually, running_worker
from .load import LONG, OPTIONS, Load

WORKERS = 20 if LONG else 8
WAITING = 100_000 if LONG else 2_000


class StartTests(WorkerTestCase):
    def test_all_begin_at_once_on_an_empty_and_on_a_full_database(self):
        for waiting in (0, WAITING):
            with self.subTest(waiting), ExitStack() as stack:
                if waiting:
                    later = timezone.now() + timedelta(hours=1)
                    old = tasks.no_value.using(run_after=later)
                    task_backends["default"].enqueue_many([(old, [], {})] * (waiting // 2))
                    ready = tasks.no_value.using(queue_name="elsewhere")
                    task_backends["default"].enqueue_many([(ready, [], {})] * (waiting // 2))
                load = Load()
                load.enqueue(300)
                mine = Job.objects.filter(
                    queue_name="default", run_at__lte=timezone.now() + timedelta(minutes=1)
                )
                workers = [
                    stack.enter_context(running_worker(options=OPTIONS, ready=False))
                    for _ in range(WORKERS)
                ]
                eventually(lambda: Worker.objects.count() == WORKERS, "all of them start", 120)
                load.enqueue(300)
                eventually(
                    lambda mine=mine: (
                        not mine.exclude(status__in=("SUCCESSFUL", "FAILED")).exists()
                    ),
                    "all jobs end",
                    60,
                )
                for worker in workers:
                    worker.send_signal(15)
                for worker in workers:
                    self.assertEqual(worker.wait(), 0, worker.output())
                    self.assertNotIn("Traceback", worker.output())
                self.assertFalse(Worker.objects.exists())
                Job.objects.filter(task_path__endswith="no_value").delete()
                count = load.count()
                self.assertEqual(count.broken, [])
                self.assertEqual((count.jobs, count.lost_runs, count.doubles.total()), (600, 0, 0))
                Job.objects.all().delete()
                tasks.Effect.objects.all().delete()
