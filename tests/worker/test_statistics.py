"""What workers count, and when they write it down."""

import threading
import time
from collections import Counter
from datetime import timedelta
from unittest import mock

from django.db import OperationalError, connection, connections
from django.test import override_settings
from django.utils import timezone

from durable_tasks.compat import task_backends
from durable_tasks.histogram import bucket, percentiles
from durable_tasks.models import ErrorGroup, Job, Statistic
from durable_tasks.store import Finish, Queues
from durable_tasks.store.database import Database
from durable_tasks.testing import live_runner
from durable_tasks.worker import statistics
from durable_tasks.worker.clock import Clock
from durable_tasks.worker.statistics import Statistics

from ..app import slow_tasks, tasks
from ..helpers import (
    WorkerTestCase,
    ended,
    eventually,
    held,
    let_go,
    run_worker,
    running_worker,
    tasks_setting,
    work,
)
from ..store.jobs import (
    StoreTestCase,
    failed,
    make_jobs,
    make_running,
    rescued,
    retried,
    snoozed,
    succeeded,
)

COUNTS = ("successful", "failed", "cancelled", "retried", "lost")


def counted(using="default", period=60):
    """Return what was counted for each task that was, with the number of times."""
    found = {}
    rows = Statistic.objects.using(using).filter(period=period).exclude(task_path="")
    for row in rows:
        assert row.begins % period == 0, row
        name = row.task_path.rpartition(".")[2]
        values = {each: getattr(row, each) for each in COUNTS}
        values |= {each: sum(getattr(row, each).values()) for each in ("waits", "runs")}
        found.setdefault((row.queue_name, name), Counter()).update(values)
    return {key: dict(+counts) for key, counts in found.items()}


def counts(successful=0, *, runs=None, **others):
    """Return what ``counted()`` has for a task; ``runs``: if not all that ended were runs."""
    if runs is None:
        runs = successful + sum(others.values())
    given = {"successful": successful, **others, "waits": runs, "runs": runs}
    return {name: count for name, count in given.items() if count}


def error_groups(using="default"):
    """Return class, place and count of each group."""
    groups = ErrorGroup.objects.using(using).order_by("exception_class_path", "place")
    return [
        (each.exception_class_path.rpartition(".")[2], each.place, each.count) for each in groups
    ]


class WorkTests(WorkerTestCase):
    maxDiff = None

    def test_what_two_workers_run_is_counted_exactly(self):
        many, some = 2000, 20
        backend = task_backends["default"]
        backend.enqueue_many([(tasks.add, [n], {}) for n in range(many)])
        backend.enqueue_many([(tasks.async_add, [n], {}) for n in range(many)])
        elsewhere = tasks.add.using(queue_name="elsewhere")
        backend.enqueue_many([(elsewhere, [n], {}) for n in range(some)])
        for number in range(some):
            tasks.fail.enqueue(f"no {number}")
            tasks.async_fail.enqueue()
            tasks.fail_until.enqueue(f"until {number}", 3)
            tasks.fail_for_an_hour.enqueue()
            tasks.cancel_itself.enqueue("enough")
            tasks.snooze.enqueue(f"snooze {number}", 2)
            tasks.atomic_retained.enqueue()
        with (
            running_worker("--batch", "--queue-name", "*", "--threads", "3", ready=False) as one,
            running_worker("--batch", "--queue-name", "*", ready=False) as two,
        ):
            self.assertEqual((one.wait(), two.wait()), (0, 0))
        for period in (60, 600, 3600):
            with self.subTest(period=period):
                self.assertEqual(
                    counted(period=period),
                    {
                        ("default", "add"): counts(many),
                        ("elsewhere", "add"): counts(some),
                        ("default", "async_add"): counts(many),
                        ("default", "fail"): counts(failed=some),
                        ("default", "async_fail"): counts(failed=some),
                        ("default", "fail_until"): counts(some, retried=2 * some),
                        ("default", "fail_for_an_hour"): counts(retried=some),
                        ("default", "cancel_itself"): counts(cancelled=some),
                        ("default", "snooze"): counts(some),
                        ("default", "atomic_retained"): counts(some),
                    },
                )
        place = "tests/app/tasks.py in"
        self.assertEqual(
            error_groups(),
            [
                ("ValueError", f"{place} async_fail", some),
                ("ValueError", f"{place} fail", some),
                ("ValueError", f"{place} fail_for_an_hour", some),
                ("ValueError", f"{place} fail_until", 2 * some),
            ],
        )
        group = ErrorGroup.objects.get(place=f"{place} fail")
        self.assertEqual(sum(group.hours.values()), some)
        self.assertTrue(group.first_seen <= group.last_seen)
        job = Job.objects.get(id=group.last_job_id)
        self.assertEqual((job.error_place, job.finished_at), (group.place, group.last_seen))
        self.assertEqual((group.task_path, [group.message]), (job.task_path, job.args))

    def test_a_lost_run_is_counted_by_whoever_rescues_it(self):
        result, once = tasks.hold.enqueue("x"), tasks.hold_once.enqueue("y")
        with running_worker("--threads", "2", options={"worker_timeout": 1}) as worker:
            held("x")
            held("y")
            worker.kill()
        let_go()
        with running_worker(options={"worker_timeout": 1}) as worker:
            self.assertEqual(ended(result).status, "SUCCESSFUL")
            self.assertEqual(ended(once).status, "FAILED")
            self.assertEqual(worker.stop(), 0)
        self.assertEqual(
            counted(),
            {
                ("default", "hold"): counts(1, lost=1, runs=1),
                ("default", "hold_once"): counts(failed=1, lost=1, runs=0),
            },
        )
        self.assertEqual(error_groups(), [("WorkerLost", "", 2)])
        self.assertEqual((result.job.error_place, once.job.error_place), ("", ""))

    def test_a_new_life_of_a_name_counts_what_the_old_one_lost(self):
        result = tasks.hold.enqueue("x")
        with running_worker("--worker-id", "w") as worker:
            held("x")
            worker.kill()
        let_go()
        run_worker("--worker-id", "w")
        self.assertEqual(result.job.lost, 1)
        self.assertEqual(counted(), {("default", "hold"): counts(1, lost=1, runs=1)})

    def test_a_worker_that_ends_from_under_a_run_counts_it(self):
        with running_worker("--threads", "2", env={"DURABLE_TASKS_TEST_GRACE": "0.1"}) as worker:
            result = slow_tasks.catch_all.enqueue()
            self.assertEqual(ended(result).status, "FAILED")
            worker.wait()
        self.assertEqual(counted(), {("default", "catch_all"): counts(failed=1)})
        [(name, _, count)] = error_groups()
        self.assertEqual((name, count), ("TaskTimeout", 1))

    def test_a_worker_counts_however_short_it_works(self):
        for kind, changes in {
            "batch": {},
            "a few tasks": {"batch": False, "max_tasks": 3},
        }.items():
            with self.subTest(kind):
                Statistic.objects.all().delete()
                for number in range(3):
                    tasks.add.enqueue(number)
                work(**changes)
                self.assertEqual(counted(), {("default", "add"): counts(3)})

    def test_while_it_works_it_writes_the_counts_down_now_and_then(self):
        often = mock.patch.object(Statistics, "_pause", return_value=0.05)
        with often, live_runner() as runner:
            for turn in (1, 2, 3):
                runner.wait_for(runner.submit(tasks.add, turn))
                expected = {("default", "add"): counts(turn)}
                eventually(lambda expected=expected: counted() == expected, counted)
            depth = Statistic.objects.filter(task_path="", period=60)
            depth.delete()  # the one look of this minute may have been before the first job
            eventually(depth.exists, "it looks again")
        self.assertEqual(set(depth.values_list("queue_name", "ready")), {("default", 0)})

    def test_a_worker_that_was_told_not_to_counts_nothing(self):
        result = tasks.fail.enqueue()
        with override_settings(TASKS=tasks_setting(statistics=False)):
            work()
        self.assertEqual(result.job.error_place, "tests/app/tasks.py in fail")
        self.assertFalse(Statistic.objects.exists() or ErrorGroup.objects.exists())

    @override_settings(TASKS=tasks_setting(immediate=True))
    def test_what_runs_where_it_is_enqueued_is_not_counted(self):
        tasks.add.enqueue(1)
        self.assertFalse(Statistic.objects.exists())

    def test_without_time_zones(self):
        result = tasks.fail.enqueue()
        run_worker(env={"DURABLE_TASKS_USE_TZ": "0"})
        self.assertEqual(counted(), {("default", "fail"): counts(failed=1)})
        begins = Statistic.objects.filter(period=60).values_list("begins", flat=True)
        self.assertLess(abs(time.time() - max(begins)), 3600)
        group = ErrorGroup.objects.get()
        self.assertEqual(group.last_seen, result.job.finished_at)
        self.assertEqual(group.hours, {str(max(begins) // 3600 * 3600): 1})


class ElsewhereTests(WorkerTestCase):
    databases = {"default", "other"}

    @override_settings(DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"])
    def test_the_counts_are_where_the_jobs_are(self):
        tasks.add.enqueue(1)
        tasks.fail.enqueue()
        work()
        self.assertEqual(
            counted("other"),
            {("default", "add"): counts(1), ("default", "fail"): counts(failed=1)},
        )
        self.assertEqual(len(error_groups("other")), 1)
        with override_settings(DATABASE_ROUTERS=[]):
            self.assertFalse(Statistic.objects.exists() or ErrorGroup.objects.exists())
        self.assertIsNot(connections["other"], connection)


class CountTests(StoreTestCase):
    def setUp(self):
        super().setUp()
        self.statistics = self.new()

    def new(self, backend_name="default", names=("default",), excluded=()):
        queues = Queues(backend_name, names, frozenset(excluded))
        return Statistics(queues, worker_id="w", clock=Clock())

    def finished(self, number, finish_of=succeeded, **changes):
        """Return so many endings that were written."""
        make_jobs(number, **changes)
        finishes = [finish_of(claim) for claim in self.claim()]
        self.finish(*finishes)
        return finishes

    def write(self, statistics=None):
        """Write down what was counted; the database works."""
        statistics = statistics or self.statistics
        self.store.rows("SELECT 1")  # a tick without a connection waits for a beat
        statistics.tick(self.store)
        eventually(lambda: statistics._counts or statistics.tick(self.store) or True)

    def test_each_ending_counts_as_what_it_is(self):
        for name, finish_of, expected in (
            ("succeeded", succeeded, counts(1)),
            ("failed", failed, counts(failed=1)),
            ("retried", lambda claim: retried(claim, 60), counts(retried=1)),
            ("retried at once", lambda claim: retried(claim, 0), counts(retried=1)),
            ("lost", rescued, counts(lost=1, runs=0)),
            ("lost for good", lambda c: rescued(c, again=False), counts(lost=1, failed=1, runs=0)),
            ("snoozed", lambda claim: snoozed(claim, 60), None),
            ("given back", Finish.released, None),
        ):
            with self.subTest(name):
                task_path = f"shop.{name}"
                self.statistics.count(self.finished(1, finish_of, task_path=task_path))
                self.write()
                self.assertEqual(counted().get(("default", name)), expected)
                Job.objects.all().delete()

    def test_a_job_that_was_cancelled_counts_as_that(self):
        for name, finish_of, runs in (
            ("retried", lambda claim: retried(claim, 60), 1),
            ("lost", rescued, 0),
            ("snoozed", lambda claim: snoozed(claim, 60), 0),
            ("given back", Finish.released, 0),
        ):
            with self.subTest(name):
                make_jobs(task_path=f"shop.{name}")
                [claim] = self.claim()
                Job.objects.filter(id=claim.id).update(cancel_requested_at=timezone.now())
                finish = finish_of(claim)
                self.finish(finish)
                self.assertEqual(finish.status, "CANCELLED")
                self.statistics.count([finish])
                self.write()
                lost = {"lost": 1} if name == "lost" else {}
                expected = counts(cancelled=1, **lost, runs=runs)
                self.assertEqual(counted()[("default", name)], expected)
        self.assertEqual(error_groups(), [])

    def test_another_backends_jobs_do_not_count(self):
        make_running(1, backend_name="second")
        [claim] = self.store.held_by("w")
        finish = rescued(claim)
        self.finish(finish)
        self.statistics.count([finish])
        self.write()
        self.assertEqual(counted(), {})

    def test_a_few_runs_are_measured_for_many(self):
        now = timezone.now()
        finishes = self.finished(400, run_at=now)
        for number, finish in enumerate(finishes):
            # Waits of 0 to 399 s, and runs of 0 to 3.99 s.
            began = finish.claim.run_at + timedelta(seconds=number)
            finish.last_attempted_at = began
            finish.finished_at = began + timedelta(seconds=number / 100)
        with mock.patch.multiple(statistics, MEASURED=0.0, MEASURED_AT_ONCE=50.0):
            self.statistics._room = 50.0
            self.statistics.count(finishes)
            self.statistics.count(finishes)  # one is measured
        self.write()
        row = Statistic.objects.exclude(task_path="").get(period=3600)
        self.assertEqual(row.successful, 800)
        for histogram, unit in ((row.waits, 1), (row.runs, 0.01)):
            self.assertEqual(sum(histogram.values()), 800)
            spread = {int(key): count for key, count in histogram.items()}
            spread[bucket(200 * unit)] -= 400  # the one for all, in the middle
            for rank, found in zip(
                (0.5, 0.9, 0.99), percentiles(spread, (0.5, 0.9, 0.99)), strict=True
            ):
                expected = 400 * rank * unit
                self.assertTrue(0.8 * expected < found < 1.2 * expected, (rank, found, spread))

    def test_what_cant_be_written_is_kept(self):
        self.statistics.count(self.finished(3))
        with (
            mock.patch.object(
                type(self.store), "rows", side_effect=OperationalError("the database is away")
            ),
            self.assertLogs("durable_tasks", "WARNING") as logs,
        ):
            self.statistics.tick(self.store)
        self.assertIn("can't be written: the database is away", logs.output[0])
        self.statistics.count(self.finished(2))
        self.store.connection.close()
        self.statistics.tick(self.store)  # a beat connects again
        self.assertFalse(Statistic.objects.exists())
        self.store.rows("SELECT 1")
        self.write()
        self.assertEqual(counted(), {("default", "again"): counts(5)})

    def test_a_fault_of_our_own_stops_no_heartbeat(self):
        self.statistics.count(self.finished(3))
        self.store.rows("SELECT 1")
        for act in (self.statistics.tick, self.statistics.finish):
            with (
                self.subTest(act.__name__),
                mock.patch.object(statistics, "add_counts", side_effect=TypeError("a fault")),
                self.assertLogs("durable_tasks", "WARNING") as logs,
            ):
                act(self.store)
            self.assertIn("can't be written: a fault\nTraceback", logs.output[0])
        self.statistics.count(self.finished(2))
        self.write()
        self.assertEqual(counted(), {("default", "again"): counts(5)})

    def test_an_idle_minute_costs_few_statements(self):
        self.write()
        Statistic.objects.all().delete()
        sent = []
        execute = Database._execute

        def watched(store, cursor, sql, params):
            sent.append(sql)
            execute(store, cursor, sql, params)

        at = 1_800_000_060 * 1_000_000  # not one in which rows are deleted
        with (
            mock.patch.object(Clock, "micros", return_value=at),
            mock.patch.object(Database, "_execute", watched),
        ):
            self.statistics.tick(self.store)
        self.assertEqual(Statistic.objects.count(), 3)
        self.assertLessEqual(len(sent), 14, sent)

    def test_what_is_kept_is_limited(self):
        since = int(time.time()) // 60 - 9
        with (
            mock.patch.multiple(statistics, MAX_COUNTS=5, MAX_ERRORS=3),
            self.assertLogs("durable_tasks", "WARNING") as logs,
        ):
            for number in range(9):
                micros = (since + number) * 60_000_000
                with mock.patch.object(Clock, "micros", return_value=micros):
                    self.statistics.count(self.finished(1, task_path="shop.one"))
                    self.statistics.count(self.finished(1, task_path="shop.two"))
            for number in range(5):
                error = type(f"Error{number}", (Exception,), {})()
                finishes = self.finished(1, lambda claim, error=error: failed(claim, error))
                with mock.patch.object(Clock, "micros", return_value=micros):
                    self.statistics.count(finishes)
        self.assertEqual(len(logs.output), 1)
        self.write()
        begins = Statistic.objects.filter(period=60, task_path="shop.one").values("begins")
        self.assertEqual(
            sorted(each["begins"] // 60 - since for each in begins),
            [6, 7, 8],
        )
        self.assertEqual([name for name, _, _ in error_groups()], ["Error2", "Error3", "Error4"])

    def test_one_worker_of_a_backend_looks_in_a_minute(self):
        make_jobs(2, queue_name="mail")
        depth = Statistic.objects.filter(backend_name="default", task_path="")
        depth = depth.order_by("period", "begins")
        at = 1_800_000_000
        others = [self.new(), self.new("second"), self.new()]
        for seconds, ready, expected in ((0, 2, 2), (30, 5, 2), (60, 1, 1), (120, 0, 0)):
            with self.subTest(seconds=seconds):
                Job.objects.all().delete()
                make_jobs(ready, queue_name="mail")
                with mock.patch.object(
                    Clock, "micros", return_value=(at + seconds) * 1_000_000 + 1
                ):
                    for each in (self.statistics, *others):
                        self.write(each)
                last = depth.filter(period=60).last()
                self.assertEqual(
                    (last.begins, last.queue_name, last.ready),
                    (at + seconds // 60 * 60, "mail", expected),
                )
        found = depth.exclude(period=60).values_list("period", "begins", "ready")
        self.assertEqual(list(found), [(600, at, 2), (3600, at // 3600 * 3600, 2)])

    def test_an_idle_worker_is_told_from_none(self):
        setting = tasks_setting()
        setting["default"]["QUEUES"] = ["mail", "video"]
        for queues, served, expected in (
            ([], {"names": None}, "default"),
            (["mail", "video"], {"names": None}, "mail"),
            (["mail", "video"], {"names": None, "excluded": ["mail"]}, "video"),
            (["mail", "video"], {"names": ("video",)}, "video"),
        ):
            with self.subTest(expected, queues=queues, served=served):
                setting["default"]["QUEUES"] = queues
                Statistic.objects.all().delete()
                with override_settings(TASKS=setting):
                    for statistics in (self.new(**served), self.new(**served)):
                        self.write(statistics)
                rows = Statistic.objects.order_by("period").values_list(
                    "period", "queue_name", "task_path", "ready", "scheduled", "running"
                )
                self.assertEqual(
                    list(rows), [(period, expected, "", 0, 0, 0) for period in (60, 600, 3600)]
                )

    def test_a_row_that_is_no_histogram_stops_nobody(self):
        for garbage in ([], "x", {"a": 1}, {"5": "x"}, {"5": None}):
            Statistic.objects.all().delete()
            self.statistics.count(self.finished(1))
            self.write()
            Statistic.objects.update(waits=garbage, runs=garbage)
            self.statistics.count(self.finished(1))
            self.write()
            for period in (0, 3600):
                sums = sum(
                    row.successful
                    for row in Statistic.objects.filter(period=period).exclude(task_path="")
                )
                self.assertEqual(sums, 2, (garbage, period))

    def test_a_clock_that_is_put_back_loses_nothing(self):
        clock = self.statistics._clock
        real = clock.micros
        self.statistics.count(self.finished(2))
        self.write()
        for hours in (-1, 1, -30):
            with mock.patch.object(
                Clock, "micros", lambda self, hours=hours: real() + hours * 3_600_000_000
            ):
                self.statistics.count(self.finished(1))
                self.write()
                self.assertGreater(self.statistics.due_at, time.monotonic() - 1)
                self.assertLess(self.statistics.due_at, time.monotonic() + 61)
        total = Statistic.objects.get(period=0)
        self.assertEqual(total.successful, 5)

    def test_workers_do_not_write_all_at_once(self):
        seconds = {round(self.new()._second) for _ in range(50)}
        self.assertGreater(len(seconds), 10)
        for each in (self.new() for _ in range(50)):
            self.assertTrue(0 < each.due_at - time.monotonic() <= 60)
            self.assertTrue(5 <= each._second <= 55)

    def test_it_counts_from_any_thread(self):
        finishes = self.finished(10)
        threads = [
            threading.Thread(target=lambda: [self.statistics.count(finishes) for _ in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.write()
        self.assertEqual(counted(), {("default", "again"): counts(800)})
