"""A database that answers, but refuses: read-only after a failover, locked rows, no connections."""

import json
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import skipUnless

from django.db import connection, transaction
from django.test import skipUnlessDBFeature

from durable_tasks.models import Job

from ..app import tasks
from ..helpers import WorkerTestCase, ended, eventually, held, running_worker
from .test_database import cut_connections

POSTGRES = connection.vendor == "postgresql"


class RefusalTestCase(WorkerTestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.go = Path(folder.name) / "go"

    @contextmanager
    def altered(self, how, back):
        """Alter the database of new connections for a while, and end the old ones but our own."""
        name = connection.ops.quote_name(connection.settings_dict["NAME"])
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} {how}")
            cut_connections()
            try:
                yield
            finally:
                cursor.execute(f"ALTER DATABASE {name} {back}")

    def assert_saved_once(self, result):
        job = ended(result)
        self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 1, 0))


@skipUnless(POSTGRES, "MariaDB's administrators may write even then")
class ReadOnlyTests(RefusalTestCase):
    def test_what_ended_is_kept_until_the_database_may_be_written(self):
        running = tasks.hold_without_database.enqueue("x", str(self.go))
        with running_worker(options={"worker_timeout": 30}) as worker:
            held("x")
            setting = "default_transaction_read_only"
            with self.altered(f"SET {setting} = on", f"RESET {setting}"):
                self.go.touch()
                # Twice: it goes on trying, after a pause.
                eventually(
                    lambda: worker.output().count("read-only transaction); trying again") >= 2,
                    worker.output,
                )
                self.assertEqual(running.job.status, "RUNNING")
            self.assert_saved_once(running)
            self.assert_saved_once(tasks.effect.enqueue("after"))
            self.assertEqual(worker.stop(), 0)


@skipUnlessDBFeature("has_select_for_update")
class LockTests(RefusalTestCase):
    def test_an_ending_waits_for_a_row_that_somebody_holds(self):
        options = (
            {"options": "-c lock_timeout=100ms"}
            if POSTGRES
            else {"init_command": "SET innodb_lock_wait_timeout = 1"}
        )
        env = {"DURABLE_TASKS_TEST_DATABASE": json.dumps({"OPTIONS": options})}
        running = tasks.hold_without_database.enqueue("x", str(self.go))
        with running_worker(env=env, options={"worker_timeout": 30}) as worker:
            held("x")
            with transaction.atomic():
                Job.objects.select_for_update().get(id=running.id)
                self.go.touch()
                worker.says("trying again in")
            self.assert_saved_once(running)
            self.assertEqual(worker.stop(), 0)


@skipUnless(POSTGRES, "MariaDB can't refuse connections to one database")
class UnreachableTests(RefusalTestCase):
    def test_a_stop_meanwhile_waits_for_what_runs_and_saves_it(self):
        running = tasks.hold_without_database.enqueue("x", str(self.go))
        with running_worker("--threads", "2", options={"worker_timeout": 1}) as worker:
            held("x")
            with self.altered("ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true"):
                worker.send_signal(signal.SIGTERM)
                # Its pauses grow: by then, the database has been away for longer than the timeout.
                eventually(lambda: worker.output().count("trying again") >= 6, worker.output)
                self.assertIsNone(worker.process.poll())
            self.go.touch()
            self.assert_saved_once(running)
            self.assertEqual(worker.wait(), 0)
