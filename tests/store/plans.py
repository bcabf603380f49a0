"""Which index serves what the store sends, as the database's own planner says.

The statements are those that the store really sends, with their parameters; each is explained on
the store's own connection, once with the statistics of an empty table and once with fresh ones.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from durable_tasks.models import Job
from durable_tasks.store import Queues, Store

from .jobs import StoreTestCase, make_jobs, make_running

TABLE = Job._meta.db_table


@pytest.mark.any_version  # the databases' planners decide
class PlanContract(StoreTestCase):
    primary_key: str

    def explain(self, store: Store, sql: str, params: Any) -> Any:
        """Return the plan of a statement."""
        raise NotImplementedError

    def faults(self, plan: Any, indexes: set[str]) -> list[str]:
        """Return what reads the table of jobs by anything but these indexes, or sorts it."""
        raise NotImplementedError

    analyze = "ANALYZE"

    def make_history(self) -> None:
        """Insert jobs in every status, so that an index is worth more than a scan."""
        now = timezone.now()
        make_jobs(
            3000,
            queue_name=lambda n: "abcde"[n % 5],
            priority=lambda n: n % 7,
            run_at=lambda n: now - timedelta(seconds=n),
        )
        make_jobs(
            3000,
            status=lambda n: "FAILED" if n % 10 == 0 else "SUCCESSFUL",
            finished_at=lambda n: now - timedelta(minutes=n),
            queue_name=lambda n: "abcde"[n % 5],
        )
        make_jobs(2000, status="SCHEDULED", run_at=lambda n: now + timedelta(minutes=n - 100))
        make_jobs(1000, status="PAUSED", task_path=lambda n: f"app.tasks.t{n % 5}")
        make_running(1000, worker_id=lambda n: f"w{n % 50}")  # type: ignore[arg-type]

    def sent(self, work: Callable[[], Any]) -> list[tuple[str, Any]]:
        """Return the statements that ``work`` sends about jobs, with their parameters."""
        statements: list[tuple[str, Any]] = []

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            # Nor what takes SQLite's write lock.
            if TABLE in sql and not sql.startswith("LOCK") and not sql.endswith("WHERE 0"):
                statements.append((sql, params))
            return execute(sql, params, many, context)

        with self.store.connection.execute_wrapper(note):
            work()
        self.assertTrue(statements)
        return statements

    def assert_served_by(self, index: str, *works: Callable[[], Any]) -> None:
        self.store.database_time()  # connects before there are jobs
        self.make_history()
        statements = [statement for work in works for statement in self.sent(work)]
        for statistics in ("old", "fresh"):
            if statistics == "fresh":
                self.analyze_tables()
            for sql, params in statements:
                with self.subTest(sql=sql, statistics=statistics):
                    plan = self.explain(self.store, sql, params)
                    self.assertEqual(self.faults(plan, {index, self.primary_key}), [], plan)
        # Not by the primary key alone.
        plans = str([self.explain(self.store, sql, params) for sql, params in statements])
        self.assertIn(index, plans)

    def analyze_tables(self) -> None:
        with self.store.connection.cursor() as cursor:
            cursor.execute(f"{self.analyze} {TABLE}")

    def test_the_ready_index_serves_claims(self) -> None:
        self.assert_served_by(
            "durable_job_ready",
            lambda: self.claim(20, ["a"]),
            lambda: self.claim(20, ["a", "c", "e"]),
            lambda: self.claim(20, None),
            lambda: self.claim(20, None, excluded=["b"]),
        )

    def assert_starts_at_heads(self) -> None:
        """That nothing before the heads is read, by a claim or a look, whatever the statistics."""
        self.store.database_time()
        self.make_history()
        for names in (["a"], ["a", "b", "d", "e"]):
            self.store.look_everywhere()
            self.look_for_heads(names)
            queues = Queues("default", tuple(names))
            statements = [
                statement
                for work in (lambda: self.claim(20, names), lambda: self.store.peek(queues))  # noqa: B023
                for statement in self.sent(work)
                if "run_at, id)" in statement[0] or "run_at >" in statement[0]
            ]
            self.assertTrue(statements)
            for statistics in ("old", "fresh"):
                if statistics == "fresh":
                    self.analyze_tables()
                for sql, params in statements:
                    with self.subTest(names=names, sql=sql, statistics=statistics):
                        plan = self.explain(self.store, sql, params)
                        indexes = {
                            "durable_job_ready",
                            "durable_job_scheduled",
                            "durable_job_paused",
                            self.primary_key,
                        }
                        self.assertEqual(self.faults(plan, indexes), [], plan)
                        self.assertEqual(self.reads_before_heads(plan), [], plan)

    def reads_before_heads(self, plan: Any) -> list[str]:
        """Return what reads durable_job_ready by less than a position in it."""
        raise NotImplementedError

    def test_the_scheduled_index_serves_promote(self) -> None:
        self.assert_served_by(
            "durable_job_scheduled",
            lambda: self.store.next_due(),
            lambda: self.store.promote(timezone.now(), limit=20),
        )

    def test_the_ready_index_serves_a_pause(self) -> None:
        self.assert_served_by(
            "durable_job_ready",
            lambda: self.store.pause(Queues("default", ("a",)), ["app.tasks.none"], 20),
            lambda: self.store.pause(Queues("default", None), ["tests.app.tasks.add"], 20),
        )

    # No other index knows the tasks of PAUSED jobs.
    paused_index = "durable_job_paused"

    def test_an_index_serves_resumes(self) -> None:
        paused = [f"app.tasks.t{n}" for n in range(3)]
        self.assert_served_by(
            self.paused_index,
            lambda: self.store.stamp("default"),
            lambda: self.store.resume("default", [*paused, "app.tasks.t3", "app.tasks.t4"]),
            lambda: self.store.resume("default", paused, limit=20),
        )

    def test_the_running_index_serves_the_look_at_a_worker(self) -> None:
        self.assert_served_by(
            "durable_job_running",
            lambda: self.store.held_by("w7"),
            lambda: self.store.held_by("w7", backend_name="default"),
            lambda: self.store.tokens_of("w7"),
            lambda: self.store.owners(),
        )

    def test_the_primary_key_serves_the_look_for_cancels_and_locks(self) -> None:
        self.store.database_time()
        self.make_history()
        ids = list(Job.objects.running().values_list("id", flat=True)[:500])
        works = (
            lambda: self.store.cancels_among(ids),
            lambda: self.store.lock(ids),
            lambda: self.store.lock(ids[:1], wait=False),
        )
        statements = [statement for work in works for statement in self.sent(work)]
        for statistics in ("old", "fresh"):
            if statistics == "fresh":
                self.analyze_tables()
            for sql, params in statements:
                if sql.startswith("UPDATE"):
                    continue  # of no row: it takes SQLite's write lock
                with self.subTest(sql=sql[:200], statistics=statistics):
                    plan = self.explain(self.store, sql, params)
                    self.assertEqual(self.faults(plan, {self.primary_key}), [], plan)

    def test_the_delete_after_index_serves_the_prune_of_what_is_due(self) -> None:
        now = timezone.now()
        since = now - timedelta(minutes=50)
        for count in (0, 3000):
            make_jobs(
                count,
                status="SUCCESSFUL",
                finished_at=now,
                delete_after=lambda n: now + timedelta(minutes=n - 100),
            )
            self.assert_served_by(
                "durable_job_delete_after",
                lambda: self.store.prune_due(now, 20),
                lambda: self.store.prune_due(now, 20, since=since),
            )
            Job.objects.all().delete()

    def test_the_ended_index_serves_prune(self) -> None:
        before = timezone.now() - timedelta(minutes=2800)
        for statuses in (["SUCCESSFUL", "FAILED", "CANCELLED"], ["SUCCESSFUL"]):
            self.assert_served_by(
                "durable_job_ended",
                lambda statuses=statuses: self.store.prune(
                    statuses, before, backend_name="default", queue_names=["a"], limit=20
                ),
            )
            Job.objects.all().delete()
