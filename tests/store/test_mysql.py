from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

from django.db import OperationalError, connection, transaction
from django.utils import timezone

from durable_tasks.models import Job
from durable_tasks.store import Store
from durable_tasks.store.messages import MAX_BATCH

from ..helpers import eventually
from . import contract, plans, racing
from .jobs import StoreTestCase, failed, make_jobs, state, succeeded


class MySQLStoreTests(contract.StoreContract):
    def refused_changes(self) -> list[dict[str, Any]]:
        return [
            *super().refused_changes(),
            {"status": "X" * 17},
            {"writes": ("status", "lost"), "lost": 40_000},
            {"writes": ("status", "attempts"), "attempts": 1 << 40},
        ]

    def cut_connection(self) -> None:
        [id] = self.store.row("SELECT CONNECTION_ID()")
        with connection.cursor() as cursor:
            cursor.execute(f"KILL {id}")


class MySQLHeadsTests(contract.HeadsContract):
    pass


class MySQLParallelTests(contract.ParallelContract):
    impatience = "SET innodb_lock_wait_timeout = 5"


class MySQLRaceTests(racing.RaceContract):
    pass


class MySQLPlanTests(plans.PlanContract):
    paused_index = "durable_job_scheduled"
    primary_key = "PRIMARY"
    analyze = "ANALYZE TABLE"

    def explain(self, store: Store, sql: str, params: Any) -> list[dict[str, Any]]:
        with store.connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {sql}", params)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def faults(self, plan: list[dict[str, Any]], indexes: set[str]) -> list[str]:
        return [
            str(row)
            for row in plan
            if "filesort" in (row["Extra"] or "")
            or "temporary" in (row["Extra"] or "")
            # MIN() of an index's column is answered while planning, without a table.
            or (row["table"] == plans.TABLE and row["key"] not in indexes)
            or row["type"] in ("ALL", "index")
        ]

    def test_a_claim_from_heads_reads_nothing_before_them(self) -> None:
        self.assert_starts_at_heads()

    def reads_before_heads(self, plan: list[dict[str, Any]]) -> list[str]:
        return [
            str(row) for row in plan if row["key"] == "durable_job_ready" and row["type"] != "range"
        ]


class PruneDueTests(StoreTestCase):
    def test_it_does_not_wait_long_for_who_has_locked_the_table(self) -> None:
        now = timezone.now()
        make_jobs(status="FAILED", delete_after=now)
        sql = "SELECT @@lock_wait_timeout"
        before = self.store.row(sql)
        other = self.open_store()
        other.changed(f"LOCK TABLES {Job._meta.db_table} READ")  # as a migration does that copies
        with self.assertRaises(OperationalError) as caught:
            self.store.prune_due(now, 9)
        self.assertTrue(self.store.is_busy(caught.exception))
        self.assertEqual(self.store.row(sql), before)
        other.changed("UNLOCK TABLES")
        self.assertEqual(self.store.prune_due(now, 9)[0], 1)


class LimitTests(StoreTestCase):
    def test_a_value_longer_than_a_packet_fails_alone(self) -> None:
        [limit] = self.store.row("SELECT @@max_allowed_packet")
        make_jobs(20)
        claims = self.claim()
        finishes = [succeeded(claim, n) for n, claim in enumerate(claims)]
        finishes[7].return_value = f'"{"x" * limit}"'
        # As quoted it is twice as long.
        finishes[13].return_value = '"' + '\\"' * (limit // 4) + '"'
        exchange = self.exchange(finishes)
        self.assertEqual(exchange.counted, {claim.id for claim in claims})
        self.assertEqual(
            set(Job.objects.failed().values_list("id", "exception_class_path")),
            {(finishes[n].id, "durable_tasks.exceptions.RefusedByDatabase") for n in (7, 13)},
        )
        self.assertEqual(Job.objects.successful().count(), 18)

    def test_a_large_value_that_fits_a_packet_is_saved(self) -> None:
        make_jobs()
        [claim] = self.claim()
        self.finish(succeeded(claim, '"' * 2_000_000))
        self.assertEqual(Job.objects.get().return_value, '"' * 2_000_000)

    def test_text_that_the_connection_cannot_carry_fails_alone(self) -> None:
        store = self.open_store(charset="utf8mb3")
        make_jobs(3)
        claims = self.claim(store=store)
        finishes = [succeeded(claim, "ü") for claim in claims]
        finishes[1].return_value = '"🎈"'
        self.assertEqual(len(self.finish(*finishes, store=store)), 3)
        self.assertEqual(
            [state(claim.id)["status"] for claim in claims], ["SUCCESSFUL", "FAILED", "SUCCESSFUL"]
        )

    def test_a_full_batch_takes_few_statements(self) -> None:
        make_jobs(MAX_BATCH)
        finishes = [
            succeeded(claim) if n % 2 else failed(claim) for n, claim in enumerate(self.claim())
        ]
        before = self.questions()
        self.assertEqual(len(self.finish(*finishes)), MAX_BATCH)
        self.assertLess(self.questions() - before, MAX_BATCH // 10)

    def questions(self) -> int:
        """Return how many statements the store's connection has sent."""
        return int(self.store.row("SHOW SESSION STATUS LIKE 'Questions'")[1])


class ConflictTests(StoreTestCase):
    lock = f"SELECT id FROM {Job._meta.db_table} WHERE id = %s FOR UPDATE"

    def test_the_loser_of_a_deadlock_tries_again(self) -> None:
        jobs = sorted(make_jobs(2), key=lambda job: job.id)
        finishes = [succeeded(claim) for claim in self.claim()]
        first, second = (self.store.to_id(job.id) for job in jobs)
        make_jobs(50, status="FAILED")
        conflict = self.meets_conflict()
        with ThreadPoolExecutor(1) as thread:
            with transaction.atomic(), connection.cursor() as cursor:
                # The one that changed less loses.
                Job.objects.failed().update(lost=1)
                cursor.execute(self.lock, [second])
                saving = thread.submit(self.finish, *finishes)
                eventually(lambda: self.is_waiting() or saving.done(), "the other one waits")
                self.assertFalse(saving.done())
                cursor.execute(self.lock, [first])
            self.assertEqual(saving.result(), {job.id for job in jobs})
        self.assertTrue(conflict.is_set())
        self.assertEqual(Job.objects.successful().count(), 2)

    def is_waiting(self) -> bool:
        # Not information_schema.innodb_trx: who reads that all the time sees an old copy.
        [_, count] = self.watcher.row("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
        return int(count) > 0

    def setUp(self) -> None:
        super().setUp()
        self.watcher = self.open_store()

    def test_a_lock_wait_that_timed_out_is_tried_again(self) -> None:
        [job] = make_jobs()
        [claim] = self.claim()
        self.store.changed("SET SESSION innodb_lock_wait_timeout = 1")
        conflict = self.meets_conflict()
        with ThreadPoolExecutor(1) as thread:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(self.lock, [self.store.to_id(job.id)])
                saving = thread.submit(self.finish, succeeded(claim))
                self.assertTrue(conflict.wait(30))
            self.assertEqual(saving.result(), {job.id})


class OwnConnectionTests(StoreTestCase):
    def test_it_reads_committed(self) -> None:
        variable = "tx_isolation" if connection.mysql_is_mariadb else "transaction_isolation"
        self.assertEqual(self.store.row(f"SELECT @@{variable}")[0], "READ-COMMITTED")

    def test_a_server_without_skip_locked_is_named_as_the_problem(self) -> None:
        self.assertIsNone(self.store.server_problem())
        features = self.store.connection.features
        with mock.patch.object(features, "has_select_for_update_skip_locked", False):
            self.assertIn("SKIP LOCKED", self.store.server_problem() or "")

    def test_the_time_zone_of_the_session_does_not_move_the_clock(self) -> None:
        before = self.store.database_time()
        self.store.changed("SET time_zone = '+05:45'")
        self.assertAlmostEqual(self.store.database_time(), before, delta=900)
