import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock, skipUnless
from uuid import UUID

from django.contrib.postgres.functions import RandomUUID
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.test import TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks.compat import EXPRESSION_IDS
from durable_tasks.models import Job
from durable_tasks.store import NewJob, Queues, Store, store_for
from durable_tasks.store.postgresql import COPY_FROM

from . import contract, plans, racing
from .jobs import StoreTestCase, make_jobs, new_job, succeeded


class PostgreSQLStoreTests(contract.StoreContract):
    def refused_changes(self) -> list[dict[str, Any]]:
        return [
            *super().refused_changes(),
            {"status": "X" * 17},
            {"return_value": '"\\u0000"'},
            {"writes": ("status", "exception_class_path"), "exception_class_path": "a\0b"},
            {"writes": ("status", "lost"), "lost": 40_000},
            {"writes": ("status", "attempts"), "attempts": 1 << 40},
        ]

    def cut_connection(self) -> None:
        [pid] = self.store.row("SELECT pg_backend_pid()")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])


class PostgreSQLHeadsTests(contract.HeadsContract):
    pass


class PostgreSQLParallelTests(contract.ParallelContract):
    impatience = "SET lock_timeout = '5s'"


class PostgreSQLRaceTests(racing.RaceContract):
    pass


class PostgreSQLPlanTests(plans.PlanContract):
    primary_key = "durable_tasks_job_pkey"

    def explain(self, store: Store, sql: str, params: Any) -> Any:
        [plan] = store.row(f"EXPLAIN (FORMAT JSON) {sql}", params)
        return (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]

    def faults(self, plan: Any, indexes: set[str]) -> list[str]:
        return list(_faults(plan, indexes, above=None))

    def test_with_old_statistics_no_least_value_is_looked_for_among_all(self) -> None:
        every = Queues("default", None)
        for status, *works in (
            ("READY", lambda: self.claim(20, None), lambda: self.store.queue_names(every)),
            ("SCHEDULED", lambda: self.store.next_due(), lambda: self.store.peek(every)),
            ("PAUSED", lambda: self.store.resume("default", ["tests.app.tasks.add"])),
        ):
            Job.objects.all().delete()
            with connection.cursor() as cursor:
                cursor.execute(f"TRUNCATE {plans.TABLE}")  # its pages are counted, too
            self.analyze_tables()
            statements = [statement for work in works for statement in self.sent(work)]
            make_jobs(3000, status=status)
            for sql, params in statements:
                with self.subTest(sql=sql):
                    plan = self.explain(self.store, sql, params)
                    self.assertEqual(
                        [each for each in self.faults(plan, set()) if "above" in each], []
                    )

    def test_a_claim_from_heads_reads_nothing_before_them(self) -> None:
        self.assert_starts_at_heads()

    def reads_before_heads(self, plan: Any) -> list[str]:
        return [
            node["Index Cond"]
            for node in _nodes(plan)
            if node.get("Index Name") == "durable_job_ready"
            and "ROW(run_at, id) >=" not in node["Index Cond"]
        ]


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _faults(node: dict[str, Any], indexes: set[str], above: str | None) -> Iterator[str]:
    kind = node["Node Type"]
    if "Sort" in kind or kind == "Aggregate":
        above = kind
    elif kind in ("Limit", "ModifyTable"):
        above = None  # what is sorted or put together above it is no more than the limit
    reads = node.get("Relation Name") == plans.TABLE and "Operation" not in node
    if reads and kind != "Tid Scan" and node.get("Index Name") not in indexes:
        yield f"{kind} without an index of {indexes}"
    if reads and above:
        yield f"{above} above {kind}"
    for child in node.get("Plans", ()):
        yield from _faults(child, indexes, above)


class ConflictTests(StoreTestCase):
    def test_the_loser_of_a_deadlock_tries_again(self) -> None:
        jobs = sorted(make_jobs(2), key=lambda job: job.id)
        finishes = [succeeded(claim) for claim in self.claim()]
        [pid] = self.store.row("SELECT pg_backend_pid()")
        conflict = self.meets_conflict()
        other = self.open_store()
        lock = f"SELECT id FROM {Job._meta.db_table} WHERE id = %s FOR UPDATE"
        with ThreadPoolExecutor(1) as thread:
            # Who loses is the server's choice: nearly always the one that waited first.
            for _ in range(10):
                with transaction.atomic(), connection.cursor() as cursor:
                    try:
                        cursor.execute(lock, [jobs[1].id])
                        saving = thread.submit(self.finish, *finishes)
                        while not other.row("SELECT pg_blocking_pids(%s) <> '{}'", [pid])[0]:
                            pass
                        cursor.execute(lock, [jobs[0].id])
                    except OperationalError:
                        transaction.set_rollback(True)
                self.assertEqual(saving.result(), {job.id for job in jobs})
                if conflict.is_set():
                    break
        self.assertTrue(conflict.is_set())
        self.assertEqual(Job.objects.successful().count(), 2)


class PruneDueTests(StoreTestCase):
    def test_it_does_not_wait_for_who_has_locked_the_table(self) -> None:
        now = timezone.now()
        make_jobs(status="FAILED", delete_after=now)
        other = self.open_store()
        with other._transaction():  # as a migration that makes an index
            other.changed(f"LOCK TABLE {Job._meta.db_table} IN SHARE MODE")
            self.store.changed("SET lock_timeout = '20s'")
            with self.assertRaisesMessage(OperationalError, "could not obtain lock on relation"):
                self.store.prune_due(now, 9)
        self.assertEqual(self.store.prune_due(now, 9)[0], 1)


class OwnConnectionTests(StoreTestCase):
    def test_plans_are_pinned_on_the_engines_connection_only(self) -> None:
        for name in ("enable_seqscan", "enable_bitmapscan", "jit"):
            with self.subTest(name):
                sql = f"SELECT current_setting('{name}'), boot_val FROM pg_settings WHERE name = %s"
                self.assertEqual(self.store.row(sql, [name])[0], "off")
                ours, default = store_for(connection).row(sql, [name])
                self.assertEqual(ours, default)

    def test_options_of_the_project_are_kept_but_for_the_pool(self) -> None:
        given = {"OPTIONS": {"pool": True, "options": "-c work_mem=1MB", "sslmode": "prefer"}}
        made = type(self.store).own_settings(given)
        self.assertNotIn("pool", made["OPTIONS"])
        self.assertTrue(made["OPTIONS"]["options"].startswith("-c work_mem=1MB -c enable_seqscan"))
        self.assertEqual(made["OPTIONS"]["sslmode"], "prefer")
        self.assertEqual(set(given["OPTIONS"]), {"pool", "options", "sslmode"})

    def test_an_exchange_is_one_statement(self) -> None:
        make_jobs(20, queue_name=lambda n: "ab"[n % 2])
        self.claims_seem(slow=False)
        claims = self.claim(10)
        statements: list[str] = []

        def note(execute: Any, sql: str, *args: Any) -> Any:
            statements.append(sql)
            return execute(sql, *args)

        with self.store.connection.execute_wrapper(note):
            exchange = self.exchange([succeeded(claim) for claim in claims], 5)
        self.assertEqual((len(exchange.counted), len(exchange.claims)), (10, 5))
        self.assertEqual(len(statements), 1)

    def test_psycopg_2_is_named_as_the_problem(self) -> None:
        self.assertIsNone(self.store.driver_problem())
        with mock.patch("django.db.backends.postgresql.psycopg_any.is_psycopg3", False):
            self.assertIn("psycopg 3", self.store.driver_problem() or "")


class CopyTests(TransactionTestCase):
    """Many rows at once are copied; the contract proves what all inserts have in common."""

    def insert(self) -> tuple[list[NewJob], set[str]]:
        """Insert many rows into an empty table; return them, and the words that were sent."""
        rows = [new_job(args=f"[{n}]") for n in range(COPY_FROM)]
        with CaptureQueriesContext(connection) as queries:
            store_for(connection).insert(rows)
        stored = dict(Job.objects.values_list("id", "args"))
        self.assertEqual(stored, {row.id: json.loads(row.args) for row in rows})
        return rows, {query["sql"].split()[0] for query in queries}

    @contextmanager
    def connection_with(self, **options: Any) -> Iterator[None]:
        """In the block, Django's own connection has these options."""
        usual = connections["default"]
        made = connections.create_connection("default")
        settings = made.settings_dict  # all connections share it
        made.settings_dict = {**settings, "OPTIONS": {**settings["OPTIONS"], **options}}
        connections["default"] = made
        try:
            yield
        finally:
            connections["default"] = usual
            made.close()
            made.close_pool()

    def test_it_works_with_server_side_binding(self) -> None:
        with self.connection_with(server_side_binding=True):
            self.assertIn("COPY", self.insert()[1])

    @skipUnless(find_spec("psycopg_pool"), "psycopg-pool")
    def test_it_works_with_djangos_pool(self) -> None:
        with self.connection_with(pool=True):
            self.assertIn("COPY", self.insert()[1])
            with self.assertRaises(IntegrityError):
                store_for(connection).insert(new_job(priority=1000) for _ in range(COPY_FROM))
            connection.close()  # gives it back, fit for the next one
            self.assertEqual(Job.objects.count(), COPY_FROM)

    def test_times_are_kept_without_time_zones(self) -> None:
        for zone in ("UTC", "America/New_York", "Asia/Kathmandu"):
            with self.subTest(zone), override_settings(USE_TZ=False, TIME_ZONE=zone):
                rows, _ = self.insert()
                self.assertEqual(Job.objects.get(id=rows[7].id).run_at, rows[7].run_at)
                Job.objects.all().delete()

    def test_nothing_is_copied_under_row_level_security(self) -> None:
        """PostgreSQL refuses that; INSERT obeys the table's policies."""
        table, role = Job._meta.db_table, f"durable_tasks_{os.getpid()}"
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {role}")
            cursor.execute(f"GRANT ALL ON {table} TO {role}")
            cursor.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            cursor.execute(f"CREATE POLICY everything ON {table} USING (true)")
            cursor.execute(f"SET LOCAL ROLE {role}")
            words = self.insert()[1]
            transaction.set_rollback(True)
        self.assertIn("INSERT", words)
        self.assertNotIn("COPY", words)


if EXPRESSION_IDS:

    class ExpressionIdTests(TransactionTestCase):
        def test_the_database_makes_ids(self) -> None:
            rows = [new_job(id=RandomUUID(), args=f"[{n}]") for n in range(3)]
            ids = store_for(connection).insert(rows)
            self.assertEqual({type(id) for id in ids}, {UUID})
            stored = dict(Job.objects.values_list("id", "args"))
            self.assertEqual([stored[id] for id in ids], [[0], [1], [2]])
