"""The loop: how much it claims, in which order, and when it ends."""

import random
import tempfile
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
from django.test import SimpleTestCase
from django.utils import timezone

from durable_tasks.compat import task_backends, task_finished, tasks_logger
from durable_tasks.ids import uuid7
from durable_tasks.models import Job, Worker
from durable_tasks.store import Queues, Store
from durable_tasks.store.heads import Head, Heads
from durable_tasks.store.messages import MAX_BATCH
from durable_tasks.worker.lanes import RESERVE, Lane

from ..app import tasks
from ..helpers import (
    WorkerTestCase,
    effects,
    ended,
    eventually,
    heard,
    held,
    let_go,
    running_worker,
    statuses,
    work,
)


class Slots:
    """A pool in which nothing runs."""

    def __init__(self, slots):
        self.slots = slots
        self.claims = []

    def submit(self, claims):
        self.claims += claims

    def take_back(self):
        taken, self.claims = self.claims[self.slots :], self.claims[: self.slots]
        return taken


class LaneTests(SimpleTestCase):
    def lane(self, slots, runs=MAX_BATCH, **values):
        return Lane(Slots(slots), runs=runs, **values)

    def test_without_experience_only_free_slots_are_room(self):
        self.assertEqual(self.lane(4).room(0), 4)
        self.assertEqual(self.lane(4, held=3).room(0), 1)
        self.assertEqual(self.lane(4, held=6).room(0), -2)

    def test_slow_tasks_have_no_reserve_and_fast_ones_a_share_of_a_second(self):
        self.assertEqual(self.lane(4, seconds=10.0).room(0), 4)
        self.assertEqual(self.lane(4, seconds=RESERVE).room(0), 4 + 4)
        self.assertEqual(self.lane(1, seconds=RESERVE / 100).room(0), 1 + 100)

    def test_a_reserve_is_never_more_than_a_batch(self):
        for seconds in (0.0, 1e-9, 1e-5):
            self.assertEqual(self.lane(1, seconds=seconds).room(0), MAX_BATCH)
        self.assertEqual(self.lane(1, seconds=0.0, held=MAX_BATCH).room(0), 0)

    def test_fast_tasks_that_got_stuck_have_no_reserve(self):
        stuck = self.lane(2, seconds=0.001, held=2, ended_at=100.0)
        self.assertGreater(stuck.room(100.0), 100)
        self.assertEqual(stuck.room(101.0), 0)

    def test_a_few_fast_tasks_are_no_reason_for_a_large_reserve(self):
        self.assertEqual(self.lane(4, runs=3, seconds=0.001).room(0), 4 + 3)

    def test_the_run_time_is_an_average_that_remembers_rare_long_ones(self):
        lane = self.lane(1, runs=0, held=1000)
        lane.end(0.0, [1.0])
        self.assertEqual((lane.held, lane.seconds), (999, 1.0))
        lane.end(0.0, [2.0])
        self.assertAlmostEqual(lane.seconds, 1.5)
        for number in range(500):
            lane.end(0.0, [0.2 if number % 10 == 0 else 0.0])
        self.assertTrue(0.015 < lane.seconds < 0.025, lane.seconds)
        lane = self.lane(1, runs=0, held=3)
        lane.end(0.0, [1.0, None, 2.0])
        self.assertEqual((lane.held, lane.seconds), (0, 1.5))

    def test_what_has_no_slot_waits_until_one_ends_or_it_is_taken_back(self):
        lane = self.lane(2)
        lane.submit(["a"], 1.0)
        self.assertTrue(lane.is_free)
        lane.submit(["b"], 2.0)
        self.assertEqual((lane.is_free, lane.waits, lane.waiting_since), (False, False, None))
        lane.submit(["c", "d"], 3.0)
        lane.submit(["e"], 4.0)
        self.assertEqual((lane.waits, lane.waiting_since), (True, 3.0))
        lane.end(5.0, [0.1])
        self.assertEqual((lane.waits, lane.waiting_since), (True, 5.0))
        self.assertEqual(lane.take_back(), ["c", "d", "e"])
        self.assertEqual((lane.held, lane.waits, lane.waiting_since), (1, False, None))


class BatchTests(WorkerTestCase):
    def test_a_batch_runs_everything_and_leaves_no_trace_of_the_worker(self):
        results = task_backends["default"].enqueue_many(
            [(tasks.add, [n, 1], {}) for n in range(700)]
        )
        work()
        self.assertEqual(set(statuses(results)), {"SUCCESSFUL"})
        self.assertEqual(
            [row.return_value for row in Job.objects.order_by("id")], list(range(1, 701))
        )
        self.assertFalse(Worker.objects.exists())

    def test_a_batch_without_jobs_ends(self):
        work()
        self.assertFalse(Worker.objects.exists())

    def test_a_batch_does_not_end_while_jobs_may_lie_before_the_heads(self):
        results = [tasks.add.enqueue(1) for _ in range(3)]
        far = Head("default", 0, timezone.now() + timedelta(days=1), uuid7())
        known: list[Head] = [far]
        with (
            mock.patch.object(Heads, "known", return_value=known),
            mock.patch.object(Store, "look_everywhere", side_effect=known.clear),
        ):
            work()
        self.assertEqual(known, [])
        self.assertEqual(set(statuses(results)), {"SUCCESSFUL"})

    def test_a_batch_ends_after_an_atomic_task_that_took_its_time(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "held"
            result = tasks.atomic_hold.enqueue("x", str(path))
            with running_worker("--batch", "--threads", "2", ready=False) as worker:
                eventually(path.exists)
                path.unlink()
                self.assertEqual(worker.wait(), 0)
        self.assertEqual(result.job.status, "SUCCESSFUL")

    def test_a_batch_runs_what_its_tasks_enqueue(self):
        tasks.effect_then_more.enqueue("a", 3)
        work()
        self.assertEqual(effects(), ["a", "a+", "a++", "a+++"])

    def test_a_batch_leaves_what_is_not_due(self):
        later = tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1)
        past = tasks.add.using(run_after=timezone.now() - timedelta(hours=1)).enqueue(1)
        due = tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1)
        Job.objects.filter(id=due.id).update(run_at=timezone.now() - timedelta(seconds=1))
        work()
        self.assertEqual(statuses([later, past, due]), ["SCHEDULED", "SUCCESSFUL", "SUCCESSFUL"])

    def test_a_success_is_written_in_full(self):
        result = tasks.describe.enqueue("x")
        work(worker_id="w")
        job = result.job
        self.assertEqual(
            (job.status, job.worker_id, job.attempts, job.lost, job.lease, job.errors),
            ("SUCCESSFUL", "w", 1, 0, 1, None),
        )
        self.assertEqual(job.started_at, job.last_attempted_at)
        self.assertTrue(job.enqueued_at <= job.started_at <= job.finished_at)
        self.assertEqual(job.return_value["workers"], ["w"])

    def test_a_failure_is_written_in_full(self):
        result = tasks.fail.enqueue("no luck")
        work(worker_id="w")
        job = result.job
        self.assertEqual(
            (job.status, job.worker_id, job.attempts, job.return_value, job.exception_class_path),
            ("FAILED", None, 1, None, "builtins.ValueError"),
        )
        (error,) = job.errors
        self.assertEqual((error["attempt"], error["worker_id"]), (1, "w"))
        self.assertIn("no luck", error["traceback"])
        result.refresh()
        self.assertEqual((result.worker_ids, result.attempts), (["w"], 1))
        self.assertIs(result.errors[0].exception_class, ValueError)

    def test_max_tasks_ends_the_worker_after_so_many(self):
        results = [tasks.add.enqueue(n) for n in range(12)]
        work(batch=False, max_tasks=5, interval=0)
        self.assertEqual(statuses(results), ["SUCCESSFUL"] * 5 + ["READY"] * 7)
        self.assertEqual({r.job.attempts for r in results[5:]}, {0})


class QueueTests(WorkerTestCase):
    def setUp(self):
        for name in ("default", "a", "b", "ü c"):
            tasks.effect.using(queue_name=name).enqueue(name)

    def test_one_queue(self):
        work(("a",))
        self.assertEqual(effects(), ["a"])

    def test_several_queues(self):
        work(("b", "ü c", "no such queue"))
        self.assertEqual(sorted(effects()), ["b", "ü c"])

    def test_all_queues(self):
        work(None)
        self.assertEqual(sorted(effects()), ["a", "b", "default", "ü c"])

    def test_all_queues_but_some(self):
        work(queues=Queues("default", None, frozenset({"a", "default"})))
        self.assertEqual(sorted(effects()), ["b", "ü c"])

    def test_jobs_of_another_backend_are_not_ours(self):
        Job.objects.filter(queue_name="a").update(backend_name="second")
        work(None)
        self.assertEqual(sorted(effects()), ["b", "default", "ü c"])


class OrderTests(WorkerTestCase):
    def test_jobs_of_the_same_age_run_in_the_order_of_their_ids(self):
        now = timezone.now()
        for number in range(20):
            tasks.effect.enqueue(str(number))
        Job.objects.update(run_at=now)
        work()
        self.assertEqual(effects(), [str(number) for number in range(20)])

    def test_priority_then_age_within_a_queue_and_across_queues(self):
        dice = random.Random(7)
        now = timezone.now()
        ages = dice.sample(range(1, 1000), 120)
        keys = {}
        for number, age in enumerate(ages):
            priority = dice.choice([-100, -1, 0, 0, 5, 100])
            tasks.effect.using(
                priority=priority,
                queue_name=dice.choice(["a", "b", "c"]),
                run_after=now - timedelta(minutes=age),
            ).enqueue(str(number))
            keys[str(number)] = (-priority, -age)
        work(None)
        self.assertEqual(effects(), sorted(keys, key=keys.get))


class WaitingTests(WorkerTestCase):
    def test_a_worker_wakes_for_the_time_of_a_scheduled_job(self):
        # With this interval, nothing else would make it look again.
        due = timezone.now() + timedelta(seconds=1.5)
        result = tasks.add.using(run_after=due).enqueue(1, 2)
        with running_worker("--interval", "3600") as worker:
            eventually(lambda: result.job.status == "SUCCESSFUL", "the scheduled job ran")
            self.assertGreaterEqual(result.job.started_at, due)
            self.assertEqual(worker.stop(), 0)

    def test_an_idle_worker_finds_new_work_at_its_interval(self):
        with running_worker("--interval", "0.05", "--queue-name", "a, b ,a") as worker:
            for _ in range(3):
                result = tasks.add.using(queue_name="b").enqueue(1, 2)
                eventually(lambda result=result: result.job.status == "SUCCESSFUL", "it ran")
            row = worker.row()
            self.assertEqual((row.queues, row.backend_name, row.capacity), ("a, b", "default", 51))
            self.assertEqual(worker.stop(), 0)
            self.assertIsNone(worker.row())


@pytest.mark.any_version
class SuspectTests(WorkerTestCase):
    def test_what_waits_behind_a_long_run_is_left_to_others_and_none_fails(self):
        first, second = tasks.hold.enqueue("x"), tasks.add.enqueue(1, 2)
        Job.objects.update(attempts=2, lost=2)
        with running_worker("--threads", "4") as worker:
            held("x")
            eventually(lambda: second.job.status == "SCHEDULED", "it is given back")
            eventually(lambda: second.job.lease > 2, "it was claimed again")
            let_go()
            for result in (first, second):
                self.assertEqual((ended(result).status, result.job.lost), ("SUCCESSFUL", 2))
            self.assertEqual(worker.stop(), 0)


class LogTests(WorkerTestCase):
    def test_every_line_about_a_job_says_which_where_and_who(self):
        good, bad = tasks.add.enqueue(1, 2), tasks.fail.using(queue_name="q").enqueue("no luck")
        with self.assertLogs("durable_tasks", "DEBUG") as logs:
            work(None, worker_id="w")
        told = [record for record in logs.records if hasattr(record, "job_id")]
        self.assertEqual(
            {
                (r.job_id, r.task_path, r.queue_name, r.worker_id, r.attempt, r.levelname)
                for r in told
            },
            {
                (good.id, "tests.app.tasks.add", "default", "w", 1, "DEBUG"),
                (bad.id, "tests.app.tasks.fail", "q", "w", 1, "DEBUG"),
                (bad.id, "tests.app.tasks.fail", "q", "w", 1, "INFO"),
            },
        )
        (line,) = [r.getMessage() for r in told if r.levelname == "INFO"]
        self.assertEqual(
            line, f"Job {bad.id} of tests.app.tasks.fail failed: builtins.ValueError: no luck"
        )

    def test_an_error_that_cannot_be_printed_is_told_like_any_other(self):
        results = [tasks.fail_without_text.enqueue()]
        results += [tasks.add.enqueue(n) for n in range(3)]
        with heard(task_finished) as told, self.assertLogs("durable_tasks", "INFO") as logs:
            work()
        self.assertEqual(statuses(results), ["FAILED"] + ["SUCCESSFUL"] * 3)
        self.assertEqual([result.id for _, result in told], [result.id for result in results])
        self.assertNotIn("ERROR", {record.levelname for record in logs.records})
        self.assertIn("Unprintable", results[0].job.errors[0]["traceback"])

    def test_djangos_own_lines_are_as_they_are(self):
        result = tasks.fail.enqueue()
        with self.assertLogs(tasks_logger, "INFO") as logs:
            work()
        self.assertEqual([r.levelname for r in logs.records], ["INFO", "ERROR"])
        for record in logs.records:
            self.assertIn(result.id, record.getMessage())
