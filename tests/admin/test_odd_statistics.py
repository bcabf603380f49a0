"""Statistics that are not as workers write them hide nothing else; and very many of them."""

import time
from importlib.util import find_spec
from uuid import UUID

from django.utils import timezone

from durable_tasks import history, metrics
from durable_tasks.models import ErrorGroup, Statistic

from .base import AdminTests

GARBAGE = ([], "x", 5, {"a": 1}, {"5": "x"}, {"5": None}, {"5": [1]}, {"9" * 17: 1}, {"-1": 1})
PAGES = ("", "statistic/overview/", "job/", "pause/")


def row(begins, period=60, **changes):
    names = {"backend_name": "default", "queue_name": "default", "task_path": "a.b"}
    return Statistic(**names | {"period": period, "begins": begins, "successful": 3} | changes)


class OddStatisticTests(AdminTests):
    def test_garbage(self):
        minute, at = int(time.time()) // 60 * 60 - 180, timezone.now()
        for garbage in GARBAGE:
            with self.subTest(garbage=garbage):
                Statistic.objects.all().delete()
                ErrorGroup.objects.all().delete()
                odd = {"waits": garbage, "runs": garbage}
                row(0, 0, **odd).save()
                row(minute, **odd).save()
                row(minute, task_path="c.d", runs={"40": 2}).save()
                ErrorGroup.objects.create(
                    backend_name="default",
                    exception_class_path="E",
                    count=1,
                    hours=garbage,
                    first_seen=at,
                    last_seen=at,
                    task_path="a.b",
                    last_job_id=UUID(int=1),
                )
                series = history.series("1h")
                self.assertEqual(series.totals().successful, 6)
                self.assertEqual(series.tasks["c.d"].runs, {40: 2})
                if find_spec("prometheus_client"):
                    self.assertTrue(list(metrics.Collector().collect()))
                for path in PAGES:
                    answer = self.client.get(f"/admin/durable_tasks/{path}")
                    self.assertEqual(answer.status_code, 200)

    def test_ten_thousand_tasks(self):
        minute = int(time.time()) // 3600 * 3600
        paths = [f"shop.tasks.t{number}" for number in range(10_000)]
        for period, begins in ((60, minute - 60), (3600, minute - 3600), (0, 0)):
            rows = [row(begins, period, task_path=path, runs={"40": 3}) for path in paths]
            Statistic.objects.bulk_create(rows, batch_size=1000)
        for path in PAGES:
            answer = self.client.get(f"/admin/durable_tasks/{path}?range=7d")
            self.assertEqual(answer.status_code, 200)
        self.assertEqual(len(history.series("7d").tasks), len(paths))
