"""The server has no connection left, or no room on its disk."""

import secrets
import subprocess
from contextlib import ExitStack
from pathlib import Path
from unittest import skipIf, skipUnless

from django.db import Error, OperationalError, connection, connections

from durable_tasks.compat import task_backends
from durable_tasks.models import Job

from ..app import tasks
from ..helpers import WorkerTestCase, eventually, running_worker
from .load import LONG
from .servers import private_database

POSTGRES = connection.vendor == "postgresql"
# Bytes that no file of the server may exceed: more than its logs need.
ROOM = 24 * 1024 * 1024


@skipUnless(LONG, "long")
@skipIf(connection.vendor == "sqlite", "SQLite has no server")
class FullTests(WorkerTestCase):
    def test_without_a_connection_the_caller_hears_of_it_and_nothing_is_written(self):
        settings = ["max_connections=10"]
        if POSTGRES:
            settings.append("superuser_reserved_connections=0")
        with private_database(*settings), ExitStack() as stack:
            settings_dict = connections["default"].settings_dict
            connections["default"].close()
            with self.assertRaises(OperationalError):
                for _ in range(20):
                    other = connections.create_connection("default")
                    other.settings_dict = settings_dict
                    stack.callback(other.close)
                    other.ensure_connection()
            with self.assertRaises(OperationalError):
                tasks.add.enqueue(1, 2)
            stack.close()
            eventually(self.counts)
            self.assertEqual(Job.objects.count(), 0)

    def counts(self):
        try:
            return Job.objects.count() == 0
        except OperationalError:
            return False

    @skipUnless(POSTGRES, "a MariaDB whose files may not grow ends")
    def test_on_a_full_disk_nothing_is_half_written_and_later_all_goes_on(self):
        with private_database(prefix=["prlimit", f"--fsize={ROOM}:unlimited"]) as server:
            backend = task_backends["default"]
            results = []
            with self.assertRaises(Error):
                for _ in range(100):
                    entries = [(tasks.echo, [secrets.token_hex(30_000)], {}) for _ in range(20)]
                    results += backend.enqueue_many(entries)
            self.assertGreater(len(results), 0)
            self.assertEqual(Job.objects.count(), len(results))
            with running_worker("--interval=0.2", "-v0", options={"worker_timeout": 5}) as worker:
                # The return values have no room either: they are kept, and not given up.
                worker.says("The database failed (")
                self.assertFalse(Job.objects.filter(status="FAILED").exists())
                for pid in (server.pid, *children(server.pid)):
                    subprocess.run(
                        ["prlimit", f"--pid={pid}", "--fsize=unlimited"],
                        check=False,  # a connection's process may be gone
                        **server.user,
                    )
                eventually(lambda: Job.objects.successful().count() == len(results), "all end")
                self.assertEqual(worker.stop(), 0)
            self.assertEqual(set(Job.objects.values_list("attempts", "lost")), {(1, 0)})


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
