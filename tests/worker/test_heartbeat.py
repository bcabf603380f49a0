"""The heartbeat and the clock."""

import os
import time
import uuid
from datetime import UTC, datetime
from unittest import mock

from django.db import OperationalError, router
from django.test import SimpleTestCase
from django.utils import timezone

from durable_tasks.chores import prune
from durable_tasks.models import Job, Worker
from durable_tasks.options import Options
from durable_tasks.results import find_task
from durable_tasks.retention import Retention
from durable_tasks.store import Queues, own_connection, store_for
from durable_tasks.store.registry import Registry, WorkerRow
from durable_tasks.worker.clock import Clock
from durable_tasks.worker.heartbeat import Heartbeat
from durable_tasks.worker.process import process_start, this_host

from ..app import tasks
from ..helpers import WorkerTestCase, eventually


def new_heartbeat(timeout=10.0, on_rescued=lambda finishes: None, prunes=False):
    return Heartbeat(
        router.db_for_write(Job),
        worker_id="w",
        queues=Queues("default", None),
        clock=Clock(),
        timeout=timeout,
        max_lost=3,
        retention=Retention("default", Options(), find_task),
        prunes=prunes,
        on_rescued=on_rescued,
        listens=False,
        on_ring=lambda: None,
        on_cancel=lambda: None,
        on_wish=lambda wish: None,
    )


class FreshnessTests(SimpleTestCase):
    def setUp(self):
        self.heartbeat = new_heartbeat(timeout=10.0)
        self.heartbeat.begin(uuid.uuid4())

    def is_fresh_after(self, seconds):
        with mock.patch("time.monotonic", return_value=time.monotonic() + seconds):
            return self.heartbeat.is_fresh()

    def test_nothing_is_fresh_before_the_first_life(self):
        self.assertFalse(new_heartbeat().is_fresh())

    def test_a_beat_is_fresh_for_a_part_of_the_timeout(self):
        self.assertTrue(self.is_fresh_after(0))
        self.assertTrue(self.is_fresh_after(6.9))
        self.assertFalse(self.is_fresh_after(7.1))
        self.assertFalse(self.is_fresh_after(10_000))

    def test_a_lost_worker_is_not_fresh_until_its_next_life(self):
        self.heartbeat.lost.set()
        self.assertFalse(self.heartbeat.is_fresh())
        self.heartbeat.begin(uuid.uuid4())
        self.assertTrue(self.heartbeat.is_fresh())


class BeatTests(WorkerTestCase):
    def setUp(self):
        self.connection = own_connection(router.db_for_write(Job))
        self.addCleanup(self.connection.close)
        self.registry = Registry(store_for(self.connection, own=True))

    def add_row(self, id="w", **changes):
        values = {
            "id": id,
            "life": uuid.uuid4(),
            "backend_name": "default",
            "host": this_host(),
            "pid": os.getpid(),
            "process_started": process_start(os.getpid()),
            "last_seen": 1,
            **changes,
        }
        row = WorkerRow(**values)
        self.registry.add(
            row, queues="all", threads=1, coroutines=0, version="1", now=timezone.now()
        )
        return row

    def start(self, life, **changes):
        heartbeat = new_heartbeat(**changes)
        heartbeat.start(life)
        self.addCleanup(heartbeat.stop)
        return heartbeat

    def seen(self, id="w"):
        row = Worker.objects.filter(id=id).first()
        return row and row.last_seen

    def test_it_writes_that_this_life_is_alive(self):
        heartbeat = self.start(self.add_row().life)
        first = eventually(lambda: self.seen() > 1 and self.seen(), "the first beat")
        self.assertAlmostEqual(first / 1e6, time.time(), delta=60)
        heartbeat._beaten_at = float("-inf")
        self.assertTrue(heartbeat.beat_now(timeout=30))
        eventually(lambda: self.seen() > first, "it beats when asked to")
        self.assertFalse(heartbeat.lost.is_set())

    def test_it_notices_that_its_row_is_gone(self):
        heartbeat = self.start(self.add_row().life)
        eventually(lambda: self.seen() > 1)
        Worker.objects.all().delete()
        heartbeat._bell.wake()
        self.assertTrue(heartbeat.lost.wait(30))
        self.assertFalse(heartbeat.beat_now(timeout=30))

    def test_another_life_under_its_name_is_not_its_own(self):
        now = int(time.time() * 1e6)
        self.add_row(last_seen=now)
        heartbeat = self.start(uuid.uuid4())
        self.assertTrue(heartbeat.lost.wait(30))
        self.assertEqual(self.seen(), now)

    def test_it_rescues_the_jobs_of_those_that_are_gone_and_no_others(self):
        now_micros = int(time.time() * 1e6)
        self.add_row("alive", host="elsewhere", last_seen=now_micros + 3600 * 10**6)
        self.add_row("silent", host="elsewhere", last_seen=now_micros - 3600 * 10**6)
        self.add_row("dead", process_started="1", last_seen=now_micros)
        self.add_row("foreign", backend_name="second", last_seen=1, host="elsewhere")
        owners = ["alive", "silent", "dead", "foreign", "nobody"]
        results = {owner: tasks.add.enqueue(1) for owner in owners}
        results["once"] = tasks.hold_once.enqueue("x")
        for owner, result in results.items():
            Job.objects.filter(id=result.id).update(
                status="RUNNING",
                worker_id="dead" if owner == "once" else owner,
                lease=5,
                started_lease=5 if owner == "once" else None,
                attempts=2,
            )
        rescued = []
        with self.assertLogs("durable_tasks", "WARNING") as logs:
            self.start(self.add_row().life, on_rescued=rescued.extend)
            eventually(lambda: rescued, "the job that must not run twice has failed")
        jobs = {owner: result.job for owner, result in results.items()}
        for owner in ("alive", "foreign"):
            self.assertEqual((jobs[owner].status, jobs[owner].lease), ("RUNNING", 5))
        for owner in ("silent", "dead", "nobody"):
            job = jobs[owner]
            self.assertEqual(
                (job.status, job.lease, job.attempts, job.lost, job.worker_id),
                ("READY", 6, 2, 1, None),
            )
            (error,) = job.errors
            self.assertEqual((error["worker_id"], error["attempt"]), (owner, 2))
            self.assertIn("WorkerLost", error["traceback"])
        self.assertEqual((jobs["once"].status, jobs["once"].lost), ("FAILED", 1))
        self.assertEqual(len(rescued), 4)
        over = [str(finish.id) for finish in rescued if finish.finished_at]
        self.assertEqual(over, [results["once"].id])
        self.assertEqual(
            set(Worker.objects.values_list("id", flat=True)), {"alive", "foreign", "w"}
        )
        self.assertIn("Rescued 4 jobs of lost workers: 3 will run again, 1 ended.", logs.output[-1])

    def test_it_beats_while_there_is_always_more_to_prune(self):
        with (
            mock.patch.object(prune, "EVERY", 0.0),
            mock.patch.object(prune.Pruning, "tick", return_value=prune.Pruned(1, 0.0)) as tick,
        ):
            self.start(self.add_row().life, timeout=1.0, prunes=True)
            for _ in range(3):
                eventually(lambda: tick.called, "it prunes")
                before = self.seen()
                tick.reset_mock()
                eventually(lambda: self.seen() > before, "it beats")  # noqa: B023

    def test_it_outlives_its_database_connection(self):
        heartbeat = self.start(self.add_row().life, timeout=4.0)
        eventually(lambda: self.seen() > 1)
        with self.assertLogs("durable_tasks", "INFO") as logs:
            with mock.patch.object(Registry, "all", side_effect=OperationalError("cut")):
                heartbeat._bell.wake()
                eventually(lambda: logs.records, "it says so")
            eventually(lambda: len(logs.records) == 2, "it is back")
        self.assertIn("can't reach the database and keeps trying: cut", logs.output[0])
        self.assertIn("The heartbeat is back.", logs.output[1])


class ClockTests(SimpleTestCase):
    def test_it_tells_the_databases_time(self):
        clock = Clock()
        store = mock.Mock(database_time=lambda: time.time() + 3600)
        clock.measure(store)
        ahead = clock.now().timestamp() - datetime.now(UTC).timestamp()
        self.assertAlmostEqual(ahead, 3600, delta=60)
        self.assertAlmostEqual(clock.micros() / 1e6 - time.time(), 3600, delta=60)

    def test_the_answer_is_taken_for_the_middle_of_the_question(self):
        clock = Clock()
        with mock.patch("time.time", side_effect=[1000.0, 1010.0, 2000.0]):
            clock.measure(mock.Mock(database_time=lambda: 1065.0))
            self.assertEqual(clock.micros(), 2_060_000_000)
