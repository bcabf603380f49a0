"""The way between workers and the database is cut, with and without a word."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from unittest import SkipTest, skipIf, skipUnless

from django.db import connection

from durable_tasks.models import Job

from ..app import tasks
from ..helpers import (
    WorkerTestCase,
    effects,
    ended,
    eventually,
    held,
    let_go,
    row_of,
    running_worker,
    statuses,
)
from ..servers import URL_VARIABLES
from .load import LONG, OPTIONS, Load
from .proxy import running_proxy
from .servers import KIND

POSTGRES = connection.vendor == "postgresql"
# After how many seconds a silent network counts as broken: as docs/how-to/deploy.md has it,
# but shorter.
NOTICED = 3
TCP = (
    {
        "connect_timeout": NOTICED,
        "keepalives_idle": 1,
        "keepalives_interval": 1,
        "keepalives_count": 2,
        "tcp_user_timeout": NOTICED * 1000,
    }
    if POSTGRES
    else {"connect_timeout": NOTICED, "read_timeout": NOTICED, "write_timeout": NOTICED}
)


@skipIf(connection.vendor == "sqlite", "SQLite has no network")
class NetworkTests(WorkerTestCase):
    def env(self, proxy, **more):
        return {URL_VARIABLES[KIND[connection.vendor]]: proxy.url, **more}

    def lose(self, proxy, *words):
        """Lose the next reply to such an exchange; on MySQL the commit is a message of its own."""
        proxy.lose_reply(*words, *([] if POSTGRES else [b"COMMIT"]))

    def assert_kept(self, load, jobs):
        count = load.count()
        self.assertEqual(count.broken, [])
        self.assertEqual((count.jobs, count.by_status["SUCCESSFUL"]), (jobs, jobs))
        self.assertEqual((count.lost_runs, count.doubles.total()), (0, 0))

    def test_the_lost_reply_to_a_claim_or_a_finish_leaves_nothing_running(self):
        for words in ([b"SET status = 'RUNNING'"], [b"SUCCESSFUL"]):
            with self.subTest(words), running_proxy() as proxy:
                Job.objects.all().delete()
                tasks.Effect.objects.all().delete()
                load = Load(("plain", "async", "once"))
                load.enqueue(60)
                self.lose(proxy, *words)
                with running_worker(
                    "--interval=0.1", env=self.env(proxy), options=OPTIONS
                ) as worker:
                    load.drained()
                    worker.says("The database is back.")
                    self.assertEqual(proxy.replies_lost, 1)
                    self.assertEqual(worker.stop(), 0)
                self.assert_kept(load, 60)

    def test_the_lost_reply_to_an_atomic_tasks_commit_repeats_nothing(self):
        with running_proxy() as proxy:
            load = Load(("atomic",))
            load.enqueue(10)
            proxy.lose_reply(b"SUCCESSFUL", b"COMMIT")
            with running_worker("--interval=0.1", env=self.env(proxy), options=OPTIONS) as worker:
                load.drained()
                self.assertEqual(worker.stop(), 0)
            self.assertEqual(proxy.replies_lost, 1)
            self.assert_kept(load, 10)

    def test_connections_cut_again_and_again_lose_nothing(self):
        with running_proxy() as proxy:
            load = Load(seconds=0.005)
            with running_worker(
                "--interval=0.1", "--threads=3", env=self.env(proxy), options=OPTIONS
            ) as worker:
                for _ in range(4):
                    load.enqueue(100)
                    left = load.left()
                    eventually(lambda left=left: load.left() < left - 20)
                    self.assertGreater(proxy.cut(), 0)
                load.drained()
                self.assertEqual(worker.stop(), 0)
            count = load.count()
            self.assertEqual((count.broken, count.jobs, count.lost_runs), ([], 400, 0))

    def test_a_silent_network_is_noticed_and_the_late_word_does_not_count(self):
        settings = json.dumps({"OPTIONS": TCP})
        result = tasks.hold.enqueue("x")
        once = tasks.hold_once.enqueue("y")
        with (
            running_proxy() as proxy,
            running_worker(
                *("--worker-id=first", "--threads=2"),
                env=self.env(proxy, DURABLE_TASKS_TEST_DATABASE=settings),
                options=OPTIONS,
            ) as first,
        ):
            held("x")
            held("y")
            proxy.hold()
            with running_worker("--worker-id=second", options=OPTIONS) as second:
                held("x", times=2)
                if not POSTGRES:  # the proxy's own TCP answers, and that is all libpq looks at
                    first.says("The heartbeat can't reach the database")
                let_go()
                self.assertEqual(ended(result).worker_id, "second")
                self.assertEqual(ended(once).exception_class_path.rpartition(".")[2], "WorkerLost")
                self.assertEqual(second.stop(), 0)
            before = [row_of(result), row_of(once)]
            proxy.release()
            first.says("This worker was declared lost; its jobs run elsewhere.")
            later = ended(tasks.add.enqueue(1, 2))
            self.assertEqual((later.worker_id, later.return_value), ("first", 3))
            self.assertEqual(first.stop(), 0)
        self.assertEqual([row_of(result), row_of(once)], before)
        self.assertEqual(effects("held y"), ["held y"])
        self.assertEqual(statuses([result, once]), ["SUCCESSFUL", "FAILED"])

    @skipUnless(LONG, "long")
    @skipUnless(POSTGRES, "MySQL's time limits are seen above")
    def test_a_cable_that_is_cut_is_noticed_by_tcp_alone(self):
        settings = json.dumps({"OPTIONS": TCP})
        result = tasks.hold.enqueue("x")
        with (
            namespace() as cable,
            running_proxy(HOST) as proxy,
            running_worker(
                *("--worker-id=first", "--threads=2"),
                env=self.env(proxy, DURABLE_TASKS_TEST_DATABASE=settings),
                options=OPTIONS,
                prefix=("ip", "netns", "exec", NAME),
            ) as first,
        ):
            held("x")
            cable("down")
            began = time.monotonic()
            with running_worker("--worker-id=second", options=OPTIONS):
                first.says("The heartbeat can't reach the database")
                first.says("The database failed (")
                print(f"Noticed after {time.monotonic() - began:.1f} s")
                self.assertLess(time.monotonic() - began, 4 * NOTICED)
                held("x", times=2)
                let_go()
                self.assertEqual(ended(result).worker_id, "second")
            before = row_of(result)
            cable("up")
            first.says("This worker was declared lost; its jobs run elsewhere.")
            self.assertEqual(ended(tasks.add.enqueue(1, 2)).worker_id, "first")
        self.assertEqual(row_of(result), before)


NAME = f"durable{os.getpid()}"
HOST, WORKER = "10.213.77.1", "10.213.77.2"


@contextmanager
def namespace():
    """Make a network of a host and a worker; give what sets the cable between them up or down."""
    if os.geteuid() or not shutil.which("ip"):
        raise SkipTest("Network namespaces need root and iproute2.")

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    cable = f"dt{os.getpid()}"
    ip("netns", "add", NAME)
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", NAME)
        ip("addr", "add", f"{HOST}/30", "dev", cable)
        ip("-n", NAME, "addr", "add", f"{WORKER}/30", "dev", "eth0")
        ip("link", "set", cable, "up")
        ip("-n", NAME, "link", "set", "eth0", "up")
        ip("-n", NAME, "link", "set", "lo", "up")
        yield lambda state: ip("link", "set", cable, state)
    finally:
        ip("netns", "delete", NAME)
