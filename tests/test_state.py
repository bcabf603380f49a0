import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from unittest import mock
from uuid import uuid4

from django.db import connection, connections, transaction
from django.test import TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks import state
from durable_tasks.models import Job, Pause, PeriodicTask, Worker
from durable_tasks.state import Count, Look
from durable_tasks.store import store_for

from .helpers import WorkerTestCase, running_worker, tasks_setting
from .store.jobs import make_jobs, make_running

TABLE = Job._meta.db_table
BACKEND = "durable_tasks.DatabaseBackend"


def make_worker(id: str = "w1", age: float = 0, **changes: Any) -> Worker:
    """Insert the row of a worker that was seen so many seconds ago."""
    seconds = Look().seconds
    fields = {"backend_name": "default", "host": "h", "pid": 1, "process_started": "1"}
    fields |= {"queues": "default", "capacity": 4, "life": uuid4(), "started_at": timezone.now()}
    fields |= {"last_seen": int((seconds - age) * 1_000_000)}
    return Worker.objects.create(id=id, **fields | changes)


def make_schedule(name: str = "nightly", late: float = 0, **changes: Any) -> PeriodicTask:
    """Insert a periodic task that should have run so many seconds ago."""
    fields = {"backend_name": "default", "task_path": "tests.app.tasks.add", "spec": "0 3 * * *"}
    fields |= {"time_zone": "UTC", "args": [], "kwargs": {}, "queue_name": "default"}
    fields |= {"priority": 0, "catch_up": "latest", "overlap": "allow", "definition": "x"}
    at = timezone.now() - timedelta(seconds=late)
    return PeriodicTask.objects.create(name=name, next_run_at=at, **fields | changes)


def pause(**changes: Any) -> Pause:
    fields = {"backend_name": "default", "paused_at": timezone.now(), "paused_by": "ann"}
    return Pause.objects.create(**fields | changes)


def ago(seconds: float) -> datetime:
    return timezone.now() - timedelta(seconds=seconds)


class StateTestCase(TransactionTestCase):
    available_apps = WorkerTestCase.available_apps


class CountTests(StateTestCase):
    def test_it_reads_as_people_write_it(self) -> None:
        self.assertEqual(str(Count(1234)), "1,234")
        self.assertEqual(str(Count.of(10_000)), "10,000")
        self.assertEqual(str(Count.of(10_001)), "10,000+")


class QueueTests(StateTestCase):
    def names(self) -> list[str]:
        return [each.name for each in state.queues()]

    def test_an_empty_database_has_no_queues(self) -> None:
        self.assertEqual(state.queues(), [])

    def test_what_waits_and_runs_is_counted_by_queue(self) -> None:
        make_jobs(3, queue_name="mail", run_at=ago(10))
        make_jobs(2, queue_name="mail", status="SCHEDULED", run_at=ago(-60))
        make_running(4, queue_name="media")
        make_jobs(5, queue_name="mail", status="PAUSED")
        make_jobs(6, queue_name="old", status="SUCCESSFUL", finished_at=ago(1))
        mail, media = state.queues()
        self.assertEqual((mail.backend_name, mail.name, media.name), ("default", "mail", "media"))
        counts = mail.ready, mail.scheduled, mail.running, mail.paused
        self.assertEqual(counts, (Count(3), Count(2), Count(0), Count(5)))
        self.assertEqual((media.ready, media.running), (Count(0), Count(4)))
        self.assertEqual((media.oldest_due, media.waiting), (None, 0))

    def test_the_oldest_is_found_behind_any_priority(self) -> None:
        ages = {5: 30, 0: 7000, -5: 500, 100: 2}
        for priority, age in ages.items():
            make_jobs(3, priority=priority, run_at=lambda n, age=age: ago(age - n / 10))
        make_jobs(queue_name="mail", run_at=ago(5))
        default, mail = state.queues()
        self.assertEqual(default.waiting // 100, 70)
        self.assertEqual(mail.waiting // 5, 1)
        oldest = Job.objects.filter(queue_name="default").order_by("run_at").first()
        assert oldest is not None
        self.assertEqual(default.oldest_due, oldest.run_at)

    def test_a_scheduled_job_that_nobody_promotes_waits_as_well(self) -> None:
        make_jobs(queue_name="mail", run_at=ago(10))
        make_jobs(2, queue_name="mail", status="SCHEDULED", run_at=lambda n: ago(100 + n))
        make_jobs(queue_name="media", status="SCHEDULED", run_at=ago(-100))
        mail, media = state.queues()
        self.assertEqual(mail.waiting // 10, 10)
        self.assertEqual((media.oldest_due, media.waiting), (None, 0))

    def test_counts_stop_at_their_limit(self) -> None:
        for status in ("READY", "SCHEDULED", "PAUSED"):
            make_jobs(12, status=status)
        make_running(12)
        with mock.patch.object(state, "MOST", 10), mock.patch.object(state, "MOST_OTHERS", 10):
            [queue] = state.queues()
        ten = Count(10, is_more=True)
        self.assertEqual(queue.ready, ten)
        for count in (queue.scheduled, queue.running, queue.paused):
            self.assertTrue(count.is_more)
        with mock.patch.object(state, "MOST", 12), mock.patch.object(state, "MOST_OTHERS", 12):
            [queue] = state.queues()
        twelve = Count(12)
        counts = queue.ready, queue.scheduled, queue.running, queue.paused
        self.assertEqual(counts, (twelve,) * 4)

    def test_many_queues_share_a_limit(self) -> None:
        make_jobs(80, queue_name=lambda n: f"q{n % 8}")
        with mock.patch.object(state, "MOST_IN_ALL", 40), mock.patch.object(state, "LEAST", 2):
            counts = {each.ready for each in state.queues()}
        self.assertEqual(counts, {Count(5, is_more=True)})

    def test_more_queues_than_a_statement_takes(self) -> None:
        make_jobs(250, queue_name=lambda n: f"q{n:03}", run_at=lambda n: ago(n + 1))
        found = state.queues()
        self.assertEqual([each.name for each in found], [f"q{n:03}" for n in range(250)])
        self.assertEqual({each.ready for each in found}, {Count(1)})
        waiting = [each.waiting for each in found[:3]]
        self.assertGreaterEqual(waiting[0], 1)
        self.assertEqual([round(each - waiting[0]) for each in waiting], [0, 1, 2])

    def test_queues_of_the_settings_and_paused_ones_are_there_without_jobs(self) -> None:
        pause(queue_name="media")
        pause(task_path="tests.app.tasks.add")
        tasks = {"default": {"BACKEND": BACKEND, "QUEUES": ["default", "mail"]}}
        with override_settings(TASKS=tasks):
            found = state.queues()
        self.assertEqual([each.name for each in found], ["default", "mail", "media"])
        self.assertEqual([each.is_paused for each in found], [False, False, True])
        self.assertEqual((found[0].paused_at, found[0].paused_by), (None, ""))
        self.assertEqual(found[2].paused_by, "ann")
        self.assertIsNotNone(found[2].paused_at)

    def test_each_backend_has_its_own(self) -> None:
        make_jobs(2)
        make_jobs(3, backend_name="other", status="SCHEDULED")
        make_jobs(backend_name="gone")
        pause(backend_name="other", queue_name="mail")
        other = {"BACKEND": BACKEND, "QUEUES": []}
        with override_settings(TASKS={**tasks_setting(), "other": other}):
            found = [(each.backend_name, each.name, each.ready) for each in state.queues()]
            self.assertEqual(
                found,
                [
                    ("default", "default", Count(2)),
                    ("other", "default", Count(0)),
                    ("other", "mail", Count(0)),
                ],
            )
            self.assertEqual([each.name for each in state.queues("other")], ["default", "mail"])
            with self.assertRaises(KeyError):
                state.queues("gone")


@override_settings(DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"])
class RouterTests(StateTestCase):
    databases = {"default", "other"}

    def test_the_jobs_database_is_looked_at(self) -> None:
        make_jobs(3)
        make_worker()
        make_schedule(late=100)
        pause(queue_name="mail")
        with CaptureQueriesContext(connections["default"]) as elsewhere:
            self.assertEqual([each.name for each in state.queues()], ["default", "mail"])
            self.assertEqual(len(state.workers()), 1)
            self.assertEqual(len(state.late_schedules()), 1)
            self.assertEqual(len(state.paused()), 1)
        self.assertEqual(len(elsewhere), 0)
        self.assertEqual(state.queues(using="default"), [])


class WorkerStateTests(StateTestCase):
    def test_silence_is_told_from_loss(self) -> None:
        for id, age in (("a", 0), ("b", 16), ("c", 31)):
            make_worker(id, age)
        make_running(3, "b")
        found = state.workers()
        self.assertEqual([each.row.id for each in found], ["a", "b", "c"])
        self.assertEqual([each.is_silent for each in found], [False, True, True])
        self.assertEqual([each.is_lost for each in found], [False, False, True])
        self.assertEqual([int(each.age) for each in found], [0, 16, 31])
        self.assertEqual([each.running for each in found], [Count(0), Count(3), Count(0)])
        self.assertEqual(found[0].capacity, 4)

    @override_settings(TASKS=tasks_setting(worker_timeout=100))
    def test_the_backends_own_timeout_counts(self) -> None:
        make_worker("a", 40)
        make_worker("b", 60)
        self.assertEqual([each.is_silent for each in state.workers()], [False, True])

    def test_which_queues_it_serves(self) -> None:
        for text, serves in (
            ("all", (True, True)),
            ("mail", (True, False)),
            ("default, mail", (True, False)),
            ("all but media, other", (True, False)),
            ("all but mail", (False, True)),
        ):
            Worker.objects.all().delete()
            make_worker(queues=text)
            [worker] = state.workers()
            with self.subTest(text):
                self.assertEqual((worker.serves("mail"), worker.serves("media")), serves)

    def test_a_real_worker_beats_in_database_time(self) -> None:
        with running_worker("--threads", "3", "--coroutines", "50") as process:
            [worker] = state.workers()
            self.assertEqual((worker.row.pid, worker.capacity), (process.pid, 53))
            self.assertFalse(worker.is_silent)


class ScheduleTests(StateTestCase):
    def test_only_what_should_have_run_is_late(self) -> None:
        make_schedule("on time", 30)
        make_schedule("late", 90)
        make_schedule("later", 500)
        make_schedule("off", 500, enabled=False)
        make_schedule("elsewhere", 500, backend_name="gone")
        found = state.late_schedules()
        self.assertEqual([each.row.name for each in found], ["later", "late"])
        self.assertEqual([each.late // 10 for each in found], [50, 9])
        self.assertEqual(len(state.late_schedules(after=20)), 3)


class PausedTests(StateTestCase):
    def test_queues_and_tasks_with_the_jobs_that_are_held(self) -> None:
        pause(task_path="shop.tasks.mail")
        pause(queue_name="media")
        make_jobs(3, status="PAUSED", task_path="shop.tasks.mail")
        make_jobs(1, status="PAUSED", task_path="shop.tasks.other")
        queue, task = state.paused()
        self.assertEqual((queue.row.queue_name, queue.held), ("media", None))
        self.assertEqual((task.row.task_path, task.held), ("shop.tasks.mail", Count(3)))


class CostTests(StateTestCase):
    """What a look reads does not grow with the table, whatever the planner knows of it."""

    def rows_read(self, work: Callable[[], Any]) -> int:
        """Return how many rows of the table or of its indexes ``work`` reads, or on SQLite the
        steps of its virtual machine, by tens.
        """
        if connection.vendor == "sqlite":
            return self._steps(work)
        if connection.vendor == "mysql":
            return self._handler_reads(work)
        read = [0]

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if sql.startswith("SELECT") and TABLE in sql:  # with the plans of this moment
                with connection.cursor() as cursor:
                    cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
                    [plan] = cursor.fetchone()
                plan = json.loads(plan) if isinstance(plan, str) else plan
                read[0] += _rows_of(plan[0]["Plan"])
            return execute(sql, params, many, context)

        with connection.execute_wrapper(note):
            work()
        return read[0]

    def _steps(self, work: Callable[[], Any]) -> int:
        steps = [0]

        def step() -> int:
            steps[0] += 1
            return 0

        connection.ensure_connection()
        connection.connection.set_progress_handler(step, 10)
        try:
            work()
        finally:
            connection.connection.set_progress_handler(None, 10)
        return steps[0]

    def _handler_reads(self, work: Callable[[], Any]) -> int:
        with connection.cursor() as cursor:
            cursor.execute("FLUSH STATUS")
            work()
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(value) for _, value in cursor.fetchall())

    def make_table(self, count: int) -> None:
        for status in ("READY", "SCHEDULED", "PAUSED", "SUCCESSFUL", "FAILED"):
            make_jobs(
                count,
                status=status,
                finished_at=ago(1) if status in ("SUCCESSFUL", "FAILED") else None,
                queue_name=lambda n: "abc"[n % 3],
                task_path=lambda n: f"t{n % 7}",
                priority=lambda n: n % 3 * 10,
                run_at=lambda n: ago(n),
            )
        make_running(count, worker_id=lambda n: f"w{n % 9}")  # type: ignore[arg-type]

    def analyze(self) -> None:
        sql = "ANALYZE TABLE" if connection.vendor == "mysql" else "ANALYZE"
        with connection.cursor() as cursor:
            cursor.execute(f"{sql} {TABLE}")
            cursor.fetchall() if connection.vendor == "mysql" else None

    def test_each_look_reads_no_more_than_its_limit(self) -> None:
        store = store_for(connection)
        names = ["a", "b", "c"]
        self.make_table(1500)
        # PostgreSQL would sort all rows where the limit is not much below their number. Elsewhere
        # steps are counted that are not only rows.
        limits = ((20, 40), (1000, 1020)) if connection.vendor == "postgresql" else ((20, 300),)
        for limit, most in limits:
            looks: dict[str, Callable[[], Any]] = {
                "oldest": lambda: store.oldest_ready("default", names),
                "scheduled": lambda: store.count_scheduled_by_queue(limit),  # noqa: B023
                "running": lambda: store.count_running(limit),  # noqa: B023
                "paused": lambda: store.count_paused(limit),  # noqa: B023
                "ready": lambda: store.count_ready("default", names, limit // 3),  # noqa: B023
            }
            for statistics in ("old", "fresh"):
                if statistics == "fresh":
                    self.analyze()
                for name, look in looks.items():
                    with self.subTest(name, limit=limit, statistics=statistics):
                        look()  # what is read once for each connection
                        with store.pinned_plans():
                            rows = self.rows_read(look)
                        self.assertLess(rows, most)

    def test_what_pins_the_plans_is_gone_afterwards(self) -> None:
        def setting() -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute("SHOW enable_bitmapscan")
                return list(cursor.fetchone())

        if connection.vendor != "postgresql":
            self.skipTest("of PostgreSQL")
        before = setting()
        state.queues()
        self.assertEqual(setting(), before)
        with transaction.atomic():
            make_jobs()
            self.assertEqual(len(state.queues()), 1)
            self.assertEqual(setting(), before)
        self.assertEqual(Job.objects.count(), 1)

    def test_the_queries_do_not_grow_with_the_jobs(self) -> None:
        counts = set()
        for _ in range(2):
            self.make_table(300)
            with CaptureQueriesContext(connection) as queries, transaction.atomic():
                look = Look()
                look.queues(), look.workers(), look.late_schedules(), look.paused()
            counts.add(len(queries))
        self.assertEqual(len(counts), 1, counts)


def _rows_of(node: dict[str, Any]) -> int:
    """Return how many rows a plan's scans of the table have read."""
    rows = 0
    if node.get("Relation Name") == TABLE:
        each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        rows = int(each * node["Actual Loops"])
    return rows + sum(map(_rows_of, node.get("Plans", ())))
