"""PgBouncer in transaction mode between everything, and workers that are killed behind it."""

from contextlib import ExitStack
from unittest import skipUnless

from django.db import connection

from ..helpers import WorkerTestCase, eventually, running_worker
from ..pgbouncer import running_pgbouncer
from .load import OPTIONS, Load
from .servers import using
from .test_database import cut_connections


@skipUnless(connection.vendor == "postgresql", "PgBouncer is PostgreSQL's")
class PooledTests(WorkerTestCase):
    def test_killed_workers_and_cut_servers_behind_a_pooler_lose_nothing(self):
        load = Load(seconds=0.002)
        with running_pgbouncer() as pooler, using(pooler.url), ExitStack() as stack:
            first, second, _ = (
                stack.enter_context(
                    running_worker("--threads=2", "--interval=0.1", "-v0", options=OPTIONS)
                )
                for _ in range(3)
            )
            load.enqueue(600)
            left = load.left()
            eventually(lambda: load.left() < left - 50, "jobs end")
            first.kill()
            eventually(cut_connections, "there are connections to cut")
            second.kill()
            load.enqueue(100)
            load.drained()
        count = load.count()
        self.assertEqual(count.broken, [])
        self.assertEqual(count.jobs, 700)
