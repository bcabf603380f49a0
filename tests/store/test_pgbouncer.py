"""PostgreSQL behind a real PgBouncer, which refuses start-up options or ignores them."""

import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock, skipUnless

import psycopg
from django.db import DataError, connections
from django.utils import timezone

from durable_tasks.compat import task_backends
from durable_tasks.models import Job
from durable_tasks.store import Queues, Store

from ..app import tasks
from ..helpers import WorkerTestCase, ended, eventually, run_worker, running_worker, statuses
from ..pgbouncer import PgBouncer, running_pgbouncer
from ..servers import DEFAULT_URLS, URL_VARIABLES
from . import test_postgresql as direct
from .jobs import StoreTestCase, make_jobs, state, succeeded

REFUSES: dict[str, Any] = {}
IGNORES = {"ignore_startup_parameters": "options"}
# Every client is lent the same connection of the server.
ONE = {"default_pool_size": 1}

SETTINGS = ("enable_seqscan", "enable_bitmapscan", "jit")


class PooledTestCase(StoreTestCase):
    """Its stores talk to a PgBouncer."""

    config: ClassVar[dict[str, Any]] = REFUSES
    pooler: ClassVar[PgBouncer]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.pooler = cls.enterClassContext(running_pgbouncer(**cls.config))

    def open_store(self, **options: Any) -> Store:
        store = super().open_store(**options)
        store.connection.settings_dict.update(self.pooler.settings)
        return store


class PooledStoreTests(PooledTestCase, direct.PostgreSQLStoreTests):
    def cut_connection(self) -> None:
        # The pooler's own connections are its own affair.
        with socket.socket(fileno=os.dup(self.store.connection.connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)


class RefusedPlanTests(PooledTestCase, direct.PostgreSQLPlanTests):
    pass


class IgnoredPlanTests(PooledTestCase, direct.PostgreSQLPlanTests):
    config = IGNORES


class LentTests(PooledTestCase):
    """What becomes of the one connection that the engine and all others are lent."""

    config: ClassVar[dict[str, Any]] = {**REFUSES, **ONE}

    def setUp(self) -> None:
        super().setUp()
        self.neighbour = self.pooler.connect()
        self.addCleanup(self.neighbour.close)

    def values(self) -> list[str]:
        """Return the settings as the next to borrow the connection finds them."""
        sql = f"SELECT {', '.join(f"current_setting('{name}')" for name in SETTINGS)}"
        return list(self.neighbour.execute(sql).fetchone() or ())

    def seen_inside(self) -> list[str]:
        """Return the settings as the store's statements find them."""
        return list(
            self.store.row(f"SELECT {', '.join(f"current_setting('{name}')" for name in SETTINGS)}")
        )

    def test_plans_are_pinned_for_the_statement_only(self) -> None:
        pid = self.neighbour.execute("SELECT pg_backend_pid()").fetchone()
        before = self.values()
        self.assertIn("on", before)
        self.assertEqual(self.seen_inside(), ["off"] * 3)
        make_jobs(10)
        claims = self.claim(5)
        self.exchange([succeeded(claim) for claim in claims], 5)
        self.store.promote(timezone.now())
        self.assertEqual(self.store.row("SELECT pg_backend_pid()"), pid)
        self.assertEqual(self.values(), before)
        self.assertEqual(Job.objects.successful().count(), 5)

    def test_nothing_is_prepared_on_the_server(self) -> None:
        make_jobs(30)
        for _ in range(10):
            self.exchange([succeeded(claim) for claim in self.claim(1)], 1)
        sql = "SELECT count(*) FROM pg_prepared_statements"
        self.assertEqual(self.neighbour.execute(sql).fetchone(), (0,))

    def test_a_refused_exchange_is_rolled_back_as_a_whole(self) -> None:
        [first, second] = make_jobs(2)
        [claim] = self.claim(1)
        before = [state(first.id), state(second.id)]
        values = self.values()
        finish = succeeded(claim)
        finish.return_value = "{no JSON"
        with self.assertRaises(DataError):
            self.store._exchange([finish], 1, Queues("default", None), "w", timezone.now())
        self.assertEqual([state(first.id), state(second.id)], before)
        self.assertEqual(self.values(), values)
        # As usable as before, for both.
        exchange = self.exchange([succeeded(claim)], 1)
        self.assertEqual((len(exchange.counted), len(exchange.claims)), (1, 1))

    @skipUnless(sys.platform == "linux", "libpq's trace needs Linux")
    def test_an_exchange_is_one_message(self) -> None:
        make_jobs(2)
        [claim] = self.claim(1)
        trace = tempfile.TemporaryFile()  # noqa: SIM115
        self.addCleanup(trace.close)
        pgconn = self.store.connection.connection.pgconn
        pgconn.trace(trace.fileno())
        queues = Queues("default", None)
        claims = self.store._exchange([succeeded(claim)], 1, queues, "w", timezone.now())
        self.assertEqual(len(claims), 1)
        pgconn.untrace()
        trace.seek(0)
        words = re.findall(rb"^[^\t\n]*\t([FB])\t\d+\t(\w+)", trace.read(), re.MULTILINE)
        sent, received = ([word for side, word in words if side == which] for which in (b"F", b"B"))
        self.assertEqual(sent, [b"Parse", b"Bind", b"Describe", b"Execute"] * 2 + [b"Sync"])
        self.assertEqual(received.count(b"ReadyForQuery"), 1)
        self.assertNotIn(b"B", [side for side, _ in words[: len(sent)]])

    def test_a_setting_that_someone_left_behind_is_not_trusted(self) -> None:
        for name in SETTINGS:
            self.neighbour.execute(f"SET {name} = off")
        self.assertEqual(self.seen_inside(), ["off"] * 3)
        for name in SETTINGS:
            self.neighbour.execute(f"RESET {name}")
        self.assertEqual(self.seen_inside(), ["off"] * 3)

    def test_an_old_client_library_sends_more_messages_to_the_same_effect(self) -> None:
        before = self.values()
        with mock.patch.object(psycopg.Pipeline, "is_supported", return_value=False):
            self.assertEqual(self.seen_inside(), ["off"] * 3)
            make_jobs(2)
            self.assertEqual(len(self.claim(2)), 2)
        self.assertEqual(self.values(), before)


class IgnoringLentTests(LentTests):
    config: ClassVar[dict[str, Any]] = {**IGNORES, **ONE}


class PooledWorkerTests(WorkerTestCase):
    """A real worker whose every connection goes through PgBouncer."""

    def env(self, pooler: PgBouncer) -> dict[str, str]:
        return {"DURABLE_TASKS_POSTGRES_URL": pooler.url}

    @contextmanager
    def enqueuing_through(self, pooler: PgBouncer) -> Iterator[None]:
        """In the block, Django's own connection goes through PgBouncer."""
        usual = connections["default"]
        made = connections.create_connection("default")
        made.settings_dict = {**made.settings_dict, **pooler.settings}
        connections["default"] = made
        try:
            yield
        finally:
            connections["default"] = usual
            made.close()

    def test_a_worker_drains_jobs(self) -> None:
        for config, word in ((REFUSES, "refuses"), (IGNORES, "ignores")):
            with self.subTest(word), running_pgbouncer(**config) as pooler:
                results = task_backends["default"].enqueue_many(
                    [(tasks.add, [n, 1], {}) for n in range(700)]
                )
                results += [tasks.effect.enqueue(f"{word} {n}") for n in range(20)]
                output = run_worker(env=self.env(pooler)).stderr
                self.assertEqual(set(statuses(results)), {"SUCCESSFUL"})
                note = f"The database 'default' {word} start-up options"
                self.assertEqual(output.count(note), 1, output)

    def test_a_worker_with_a_direct_connection_says_nothing_of_the_kind(self) -> None:
        self.assertNotIn("start-up options", run_worker().stderr)

    def test_what_can_not_be_heard_is_found_and_said_once(self) -> None:
        said = "Notifications do not arrive on 'default'"
        listening = "SELECT count(*) FROM pg_listening_channels()"
        with (
            running_pgbouncer(**ONE) as pooler,
            running_worker(
                "--interval=0.05", env=self.env(pooler), options={"worker_timeout": 1}
            ) as worker,
            pooler.connect() as neighbour,
        ):
            worker.says(said)
            with self.enqueuing_through(pooler):
                self.assertEqual(ended(tasks.add.enqueue(1, 2)).return_value, 3)
            # Others who are lent that connection are not to hear what they never asked for.
            eventually(lambda: neighbour.execute(listening).fetchone() == (0,))
            seen = worker.row().last_seen
            eventually(lambda: worker.row().last_seen > seen + 1_000_000, "it beats on")
            self.assertEqual(worker.output().count(said), 1)
            self.assertEqual(worker.stop(), 0)

    def test_a_direct_connection_hears_what_is_enqueued_through_the_pooler(self) -> None:
        with running_pgbouncer() as pooler:
            url = os.environ.get(URL_VARIABLES["postgres"]) or DEFAULT_URLS["postgres"][0]
            env = {**self.env(pooler), "DURABLE_TASKS_TEST_DIRECT_URL": url}
            self.hears(pooler, env, {"listen_database": "direct"})

    def test_session_pooling_hears_as_if_it_were_not_there(self) -> None:
        with running_pgbouncer(pool_mode="session") as pooler:
            self.hears(pooler, self.env(pooler), {})

    def hears(self, pooler: PgBouncer, env: dict[str, str], options: dict[str, Any]) -> None:
        # It looks again by itself long after the test has ended.
        with running_worker("--interval=3600", "-v2", env=env, options=options) as worker:
            worker.says("Notifications arrive.")
            with self.enqueuing_through(pooler):
                for number in range(3):
                    result = tasks.add.enqueue(number, 1)
                    self.assertEqual(ended(result).return_value, number + 1)
            self.assertEqual(worker.stop(), 0)
