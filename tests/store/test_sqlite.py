import sqlite3
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import OperationalError, connection
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.test import SimpleTestCase
from django.utils import timezone

from durable_tasks.models import Job
from durable_tasks.store import Store, own_connection, store_for
from durable_tasks.store.sqlite import SQLiteStore

from . import contract, plans, racing
from .jobs import StoreTestCase, make_jobs, succeeded


class SQLiteStoreTests(contract.StoreContract):
    def make_claims_refused(self) -> dict[str, Any]:
        # SQLite takes text of any length, and any text as an id.
        self.store.changed(
            f"UPDATE {Job._meta.db_table} SET id = 'x' || rowid WHERE status = 'READY'"
        )
        return {}

    def cut_connection(self) -> None:
        self.store.connection.connection.close()

    def refused_changes(self) -> list[dict[str, Any]]:
        self.store.connection.ensure_connection()
        self.store.connection.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 300_000)
        return [*super().refused_changes(), {"return_value": f'"{"x" * 300_000}"'}]


class SQLiteRaceTests(racing.RaceContract):
    pass


class SQLitePlanTests(plans.PlanContract):
    def explain(self, store: Store, sql: str, params: Any) -> list[str]:
        return [row[-1] for row in store.rows(f"EXPLAIN QUERY PLAN {sql}", params)]

    def faults(self, plan: list[str], indexes: set[str]) -> list[str]:
        faults = [
            line
            for line in plan
            if "TEMP B-TREE" in line
            or (plans.TABLE in line and not any(f"INDEX {name}" in line for name in indexes))
        ]
        return faults + [line for line in plan if line.startswith(f"SCAN {plans.TABLE}")]

    primary_key = "sqlite_autoindex_durable_tasks_job_1"


class WriteLockTests(StoreTestCase):
    def hold_the_write_lock(self) -> Any:
        other = self.open_store().connection
        cursor = other.cursor()
        self.addCleanup(cursor.close)
        cursor.execute("BEGIN IMMEDIATE")
        return cursor

    def test_a_write_waits_until_the_lock_is_free(self) -> None:
        [job] = make_jobs()
        [claim] = self.claim()
        holder = self.hold_the_write_lock()
        conflict = self.meets_conflict()
        with ThreadPoolExecutor(1) as thread:
            saving = thread.submit(self.finish, succeeded(claim))
            met = conflict.wait(30)
            holder.execute("ROLLBACK")
            self.assertTrue(met)
            self.assertEqual(saving.result(), {job.id})

    def test_a_lock_that_is_never_free_is_an_error_and_sending_again_is_safe(self) -> None:
        [job] = make_jobs()
        [claim] = self.claim()
        holder = self.hold_the_write_lock()
        self.store.retry_for = 0  # type: ignore[misc]
        with self.assertRaises(OperationalError):
            self.finish(succeeded(claim))
        holder.execute("ROLLBACK")
        self.assertEqual(self.finish(succeeded(claim)), {job.id})

    def test_looking_for_jobs_to_delete_takes_no_write_lock(self) -> None:
        now = timezone.now()
        self.hold_the_write_lock()
        self.assertEqual(self.store.prune_due(now, 9), (0, None))

    def test_pruning_what_is_due_does_not_wait_for_the_lock(self) -> None:
        now = timezone.now()
        make_jobs(status="FAILED", delete_after=now)
        holder = self.hold_the_write_lock()
        self.store.retry_for = 3600  # type: ignore[misc]
        with self.assertRaises(OperationalError) as caught:
            self.store.prune_due(now, 9)
        self.assertTrue(self.store.is_busy(caught.exception))
        holder.execute("ROLLBACK")
        self.assertEqual(self.store.prune_due(now, 9)[0], 1)

    def test_looking_for_due_jobs_takes_no_write_lock(self) -> None:
        make_jobs(status="SCHEDULED", run_at=timezone.now() + timedelta(hours=1))
        self.hold_the_write_lock()
        self.store.retry_for = 0  # type: ignore[misc]
        self.assertEqual(self.store.promote(timezone.now()), 0)
        self.assertEqual(Job.objects.scheduled().count(), 1)


class WithoutWalTests(SimpleTestCase):
    databases = {"default"}

    def test_what_a_worker_reads_at_its_start_waits_for_writers(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            name = {"NAME": str(Path(folder, "db.sqlite3")), "OPTIONS": {}}
            writer = DatabaseWrapper(connection.settings_dict | name)
            reader = DatabaseWrapper(SQLiteStore.own_settings(connection.settings_dict | name))
            reader.inc_thread_sharing()
            self.addCleanup(writer.close)
            self.addCleanup(reader.close)
            store = store_for(reader, own=True)
            met = threading.Event()
            is_busy = store.is_busy
            store.is_busy = lambda error: met.set() or is_busy(error)  # type: ignore
            with writer.cursor() as cursor, ThreadPoolExecutor(1) as thread:
                cursor.execute("CREATE TABLE shop (id INTEGER)")
                cursor.execute("BEGIN EXCLUSIVE")
                looking = thread.submit(store.tables)
                waited = met.wait(30)
                cursor.execute("COMMIT")
                self.assertTrue(waited)
                self.assertEqual(looking.result(), {"shop"})


class OwnConnectionTests(StoreTestCase):
    def test_it_waits_while_it_is_set_up_and_for_nobody_afterwards(self) -> None:
        own = own_connection(connection.alias)
        self.addCleanup(own.close)
        timeout = connection.get_connection_params()["timeout"]
        self.assertEqual(own.get_connection_params()["timeout"], timeout)
        self.assertGreater(timeout, 0)
        with own.cursor() as cursor:
            for pragma, value in (("busy_timeout", 0), ("journal_mode", "wal")):
                cursor.execute(f"PRAGMA {pragma}")
                self.assertEqual(cursor.fetchone()[0], value)


class SettingsTests(SimpleTestCase):
    databases = {"default"}

    def advice(self, **options: Any) -> list[tuple[str, str]]:
        with tempfile.TemporaryDirectory() as folder:
            made = DatabaseWrapper(
                connection.settings_dict
                | {"NAME": str(Path(folder, "db.sqlite3")), "OPTIONS": options},
                alias="shop",
            )
            try:
                return store_for(made).settings_advice()
            finally:
                made.close()

    def test_the_recommended_settings_need_no_advice(self) -> None:
        wal = "PRAGMA journal_mode=WAL;"
        self.assertEqual(self.advice(init_command=wal, transaction_mode="IMMEDIATE"), [])

    def test_advice_names_the_setting_to_add(self) -> None:
        [(wal, wal_hint), (immediate, immediate_hint)] = self.advice()
        self.assertIn("WAL", wal)
        self.assertIn('DATABASES["shop"]["OPTIONS"]["init_command"] = "PRAGMA', wal_hint)
        self.assertIn("IMMEDIATE", immediate)
        self.assertIn(
            'DATABASES["shop"]["OPTIONS"]["transaction_mode"] = "IMMEDIATE"', immediate_hint
        )
