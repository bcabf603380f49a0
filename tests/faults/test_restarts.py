"""The database is restarted, or all of its connections end, while jobs run."""

import json
import os
import signal
from contextlib import ExitStack
from unittest import mock, skipIf, skipUnless

from django.db import connection

from ..helpers import WorkerTestCase, eventually, running_worker
from .load import LONG, OPTIONS, Load
from .servers import private_database, running_private
from .test_database import cut_connections

POSTGRES = connection.vendor == "postgresql"
FAST = signal.SIGINT if POSTGRES else signal.SIGTERM
# PostgreSQL's "immediate", and what becomes of MariaDB when the machine has no memory left.
AT_ONCE = signal.SIGQUIT if POSTGRES else signal.SIGKILL


@skipIf(connection.vendor == "sqlite", "SQLite has no server and no connections")
class RestartTests(WorkerTestCase):
    def run_while(self, *faults, jobs=300):
        """Let two workers run a load, and each fault happen in the middle of it."""
        load = Load(seconds=0.005)
        with ExitStack() as stack:
            workers = [
                stack.enter_context(
                    running_worker("--interval=0.1", "--threads=3", options=OPTIONS)
                )
                for _ in range(2)
            ]
            for fault in faults:
                load.enqueue(jobs)
                left = load.left()
                eventually(lambda left=left: load.left() < left - jobs // 5, "jobs end", 60)
                self.assertGreater(load.left(), 0)
                fault()
            load.drained()
            for worker in workers:
                self.assertIn("The database failed (", worker.output())
                self.assertEqual(worker.stop(), 0)
        count = load.count()
        self.assertEqual(count.broken, [])
        self.assertEqual(count.jobs, jobs * len(faults))
        # They held their jobs in memory: nobody was lost.
        self.assertEqual((count.lost_runs, count.by_status["SUCCESSFUL"] > 0), (0, True))

    def test_restarts_of_the_server_are_survived(self):
        with private_database() as server:

            def restart(number):
                server.end(number)
                connection.close()
                server.start()

            self.run_while(lambda: restart(FAST), lambda: restart(AT_ONCE))

    def test_the_end_of_every_connection_is_survived(self):
        self.run_while(*[lambda: eventually(cut_connections)] * 3)

    @skipUnless(LONG, "long")
    @skipUnless(POSTGRES, "only PostgreSQL's driver takes several hosts")
    def test_a_failover_to_a_replica_is_survived(self):
        with ExitStack() as stack:
            primary = stack.enter_context(private_database())
            replica = stack.enter_context(running_private(replica_of=primary))
            with connection.cursor() as cursor:
                # What was committed is on both: a replica that lags would lose the rest.
                cursor.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                cursor.execute("SELECT pg_reload_conf()")
                sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
                eventually(lambda: cursor.execute(sql) or cursor.fetchone()[0], "it replicates")
            ports = [
                server.url.rpartition(":")[2].partition("/")[0] for server in (primary, replica)
            ]
            hosts = {
                "HOST": "127.0.0.1,127.0.0.1",
                "PORT": ",".join(ports),
                "OPTIONS": {"target_session_attrs": "read-write", "connect_timeout": 3},
            }
            env = {"DURABLE_TASKS_TEST_DATABASE": json.dumps(hosts)}
            stack.enter_context(mock.patch.dict(os.environ, env))
            connection.close()
            connection.settings_dict.update(hosts)

            def fail_over():
                primary.end(AT_ONCE)
                connection.close()
                import psycopg

                with psycopg.connect(replica.url) as there:
                    self.assertEqual(there.execute("SELECT pg_promote()").fetchone(), (True,))

            self.run_while(fail_over)
            with connection.cursor() as cursor:
                cursor.execute("SELECT inet_server_port()")
                self.assertEqual(cursor.fetchone(), (int(ports[1]),))
