"""What workers counted, as charts, totals and groups of errors show it."""

import uuid
from datetime import UTC, datetime
from typing import Any
from unittest import mock

from django.conf import settings
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks import history, tallies
from durable_tasks.histogram import bucket
from durable_tasks.models import ErrorGroup, Statistic

# A full hour; all that is not told otherwise is as of then.
NOW = 1_800_000_000


def row(begins: int, task: str = "shop.a", *, queue: str = "default", **values: Any) -> Statistic:
    """Write one row; of a minute unless told otherwise."""
    for name in ("waits", "runs"):
        if name in values:
            values[name] = {str(bucket(seconds)): n for seconds, n in values[name].items()}
    using = values.pop("using", "default")
    row = {"backend_name": "default", "period": 60, "queue_name": queue, "task_path": task}
    return Statistic.objects.using(using).create(**{**row, "begins": begins, **values})


def at(seconds: float) -> datetime:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def group(**values: Any) -> ErrorGroup:
    given = {
        "backend_name": "default",
        "exception_class_path": "builtins.KeyError",
        "place": "shop/a.py in f",
        "count": 1,
        "first_seen": at(NOW - 9000),
        "last_seen": at(NOW - 60),
        "task_path": "shop.a",
        "last_job_id": uuid.uuid4(),
    }
    return ErrorGroup.objects.create(**given | values)


class SeriesTests(TestCase):
    databases = {"default", "other"}

    def setUp(self):
        self.enterContext(mock.patch.dict(tallies.kept_sums, clear=True))

    def counts(self, range="1h", now=NOW, **which):
        found = history.series(range, now=now, **which)
        return {
            begin: point.totals.successful
            for begin, point in zip(found.begins, found.points, strict=True)
            if point
        }

    def test_an_hour_ends_with_the_last_minute_that_all_workers_have_written(self):
        for begins in (NOW - 3780, NOW - 3720, NOW - 3660, NOW - 120, NOW - 60, NOW):
            row(begins, successful=1)
        for now, expected in (
            (NOW, [NOW - 3660, NOW - 120]),
            (NOW + 59.9, [NOW - 3660, NOW - 120]),
            (NOW - 0.1, [NOW - 3720, NOW - 3660]),
            (NOW + 60, [NOW - 120, NOW - 60]),
        ):
            with self.subTest(now=now):
                self.assertEqual(list(self.counts(now=now)), expected)
        self.assertEqual(len(history.series("1h", now=NOW).begins), 60)

    def test_longer_ranges_have_points_of_their_own_and_show_the_one_under_way(self):
        for name, period, length in (("24h", 600, 144), ("7d", 3600, 168)):
            with self.subTest(range=name):
                for begins in (NOW - length * period, NOW - (length - 1) * period, NOW):
                    row(begins, period=period, successful=7)
                found = history.series(name, now=NOW + 330)
                self.assertEqual(list(found.begins)[::length], [NOW - (length - 1) * period])
                self.assertEqual(len(found.begins), length)
                self.assertEqual(found.begins[-1], NOW)
                self.assertEqual(found.covered[-2:], [period, 300])
                self.assertEqual(found.totals().successful, 14)

    def test_a_range_that_is_not_known_is_an_error(self):
        with self.assertRaises(KeyError):
            history.series("2h")

    def test_a_point_sums_queues_and_tasks_and_a_gap_is_none(self):
        begins = NOW - 600
        row(begins, "shop.a", successful=5, failed=1, runs={0.1: 6})
        row(begins, "shop.a", queue="mails", successful=2, retried=3, runs={0.1: 5})
        row(begins, "shop.b", cancelled=1, lost=2, runs={10: 2}, waits={3: 1})
        row(begins, "", ready=7, running=2)
        row(begins, "", queue="mails", ready=3, scheduled=4)
        row(begins + 60, "", queue="mails", ready=0)
        found = history.series("1h", now=NOW)
        points = dict(zip(found.begins, found.points, strict=True))
        point = points[begins]
        self.assertEqual([getattr(point.totals, name) for name in history.COUNTS], [7, 1, 1, 3, 2])
        self.assertEqual((point.ready, point.scheduled, point.running), (10, 4, 2))
        self.assertEqual((points[begins + 60].ready, points[begins + 60].running), (0, None))
        self.assertIsNone(points[begins + 120])
        self.assertEqual(set(found.tasks), {"shop.a", "shop.b"})
        task = found.tasks["shop.a"]
        self.assertEqual((task.ended, task.attempts, task.failure_rate), (8, 11, 1 / 8))
        self.assertEqual(found.totals().attempts, 14)

    def test_percentiles_are_of_all_rows_together(self):
        row(NOW - 600, runs={0.1: 94}, waits={0.01: 100})
        row(NOW - 540, runs={1: 4, 20: 2}, waits={5: 1})
        sums = history.series("1h", now=NOW).totals()
        for found, expected in zip(sums.run_times(), (0.1, 1, 20), strict=True):
            self.assertAlmostEqual(found, expected, delta=expected / 8)
        self.assertAlmostEqual(sums.wait_times()[0], 0.01, delta=0.002)
        self.assertAlmostEqual(sums.run_seconds, 53.4, delta=53.4 / 8)
        empty = history.series("1h", task="none", now=NOW).totals()
        self.assertEqual(empty.run_times(), [None] * 3)
        self.assertIsNone(empty.failure_rate)

    def test_filters(self):
        begins = NOW - 600
        row(begins, "shop.a", successful=1)
        row(begins, "shop.a", queue="mails", successful=10)
        row(begins, "shop.b", queue="mails", successful=100)
        row(begins, "shop.b", backend_name="another", successful=1000)
        row(begins, "shop.b", successful=10_000, using="other")
        for which, expected in (
            ({}, 111),
            ({"backend": "default"}, 111),
            ({"backend": "another"}, 1000),
            ({"queue": "mails"}, 110),
            ({"task": "shop.a"}, 11),
            ({"queue": "mails", "task": "shop.b"}, 100),
            ({"queue": "nowhere"}, 0),
            ({"using": "other"}, 10_000),
        ):
            with self.subTest(which):
                self.assertEqual(self.counts(**which).get(begins), expected)
        paths = history.task_paths("1h", queue="mails", now=NOW)
        self.assertEqual(paths, {"shop.a", "shop.b"})

    def test_what_is_asked_for_was_idle_where_workers_wrote_of_others(self):
        row(NOW - 600, "shop.a", queue="mails", successful=1)
        row(NOW - 540, "", ready=3)
        for which, ready in (({"queue": "mails"}, 0), ({"task": "shop.a"}, None)):
            with self.subTest(which):
                found = history.series("1h", now=NOW, **which)
                points = dict(zip(found.begins, found.points, strict=True))
                self.assertEqual(points[NOW - 600].totals.successful, 1)
                self.assertEqual(
                    points[NOW - 540], history.Point(ready=ready, scheduled=ready, running=ready)
                )
                self.assertIsNone(points[NOW - 480])

    def test_what_is_kept_moves_on_with_time_and_says_the_same(self):
        for back in range(-20, 80):
            row(NOW - back * 60, f"shop.{back % 3}", successful=back + 21, runs={back + 30: 1})
            row(NOW - back * 60, "", ready=back + 21)
        for now in (NOW, NOW + 60, NOW + 66, NOW + 600, NOW + 1200, NOW - 60):
            with self.subTest(now=now), mock.patch.object(tallies, "MANY", 1):
                kept = history.series("1h", now=now)
                self.assertTrue(tallies.kept_sums)
            with mock.patch.dict(tallies.kept_sums, clear=True):
                self.assertEqual(kept, history.series("1h", now=now))

    def test_periods_that_are_over_are_read_once_where_there_are_many(self):
        for back in range(60):
            row(NOW - back * 60, successful=1)
        with mock.patch.object(tallies, "MANY", 1):
            before = self.counts()
            Statistic.objects.filter(begins__lt=NOW - 180).delete()
            self.assertEqual(self.counts(), before)
            with mock.patch.object(tallies, "KEPT", -1.0):
                self.assertEqual(len(self.counts()), 2)

    def test_few_rows_are_read_anew(self):
        row(NOW - 1800, successful=1)
        self.assertEqual(sum(self.counts().values()), 1)
        row(NOW - 1740, successful=1)
        self.assertEqual(sum(self.counts().values()), 2)

    def test_one_query_of_the_index_reads_a_range(self):
        row(NOW - 1800, successful=1)
        with CaptureQueriesContext(connection) as queries:
            history.series("1h", now=NOW)
        self.assertLessEqual(len(queries), 2)


class TotalsTests(TestCase):
    def test_totals_of_the_last_minutes_that_are_known(self):
        for begins in (NOW - 420, NOW - 360, NOW - 120, NOW - 60, NOW):
            row(begins, successful=1, failed=1)
        row(NOW - 120, queue="mails", successful=3, cancelled=2)
        sums = history.totals(300, now=NOW)
        self.assertEqual((sums.successful, sums.failed, sums.cancelled), (5, 2, 2))
        self.assertEqual(history.totals(300, queue="mails", now=NOW).successful, 3)
        self.assertEqual(history.totals(300, now=NOW + 9000), history.Totals())

    def test_failure_rate(self):
        self.assertEqual(history.failure_rate("default", 900, now=NOW), (None, 0))
        row(NOW - 120, successful=3, failed=1, cancelled=5, retried=9)
        self.assertEqual(history.failure_rate("default", 900, now=NOW), (0.25, 4))
        self.assertEqual(history.failure_rate(None, 900, now=NOW), (0.25, 4))
        self.assertEqual(history.failure_rate("another", 900, now=NOW), (None, 0))

    def test_totals_by_task(self):
        for begins in (NOW, NOW + 3600, NOW + 7200):
            row(begins, period=3600, successful=1, runs={0.1: 1})
        row(NOW, "", period=3600, ready=3)
        row(NOW, period=3600, queue="mails", failed=1)
        found = history.totals_by_task(3600, NOW, NOW + 7200)
        one = found["default", "default", "shop.a"]
        self.assertEqual((one.successful, one.runs), (2, {bucket(0.1): 2}))
        self.assertEqual(found["default", "mails", "shop.a"].failed, 1)
        self.assertEqual(len(found), 2)


class ErrorGroupTests(TestCase):
    def test_groups_come_latest_first_and_not_without_end(self):
        old = group(place="old", last_seen=at(NOW - 7200))
        late = group(place="late", last_seen=at(NOW - 30), task_path="shop.b")
        middle = group(place="middle")
        group(place="another", backend_name="another")
        since = at(NOW - 3600)
        self.assertEqual(history.error_groups(since), [late, middle])
        self.assertEqual(history.error_groups(at(NOW - 7200)), [late, middle, old])
        self.assertEqual(history.error_groups(since, task="shop.b"), [late])
        self.assertEqual(history.error_groups(since, backend="default", most=1), [late])

    def test_counts_by_hour_end_with_the_present_one(self):
        one = group(hours={str(NOW): 3, str(NOW - 3600): 2, str(NOW - 7 * 3600): 9})
        self.assertEqual(history.by_hour(one, NOW + 1800, 3), [0, 2, 3])
        self.assertEqual(history.by_hour(one, NOW - 1, 2), [0, 2])
