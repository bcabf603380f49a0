import uuid
from datetime import datetime
from typing import Any
from unittest import mock

from django.utils import timezone

from durable_tasks.chores import rescue
from durable_tasks.exceptions import WorkerLost
from durable_tasks.models import Job, Worker
from durable_tasks.store import Finish
from durable_tasks.store.registry import Registry, WorkerRow
from tests.store.jobs import StoreTestCase, make_running, state, succeeded

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
TIMEOUT = 30


class RescueTests(StoreTestCase):
    def add_worker(
        self, id: str, *, seen_ago: float = 0, backend_name: str = "default"
    ) -> WorkerRow:
        """Insert a worker that was last seen so many seconds before ``NOW``."""
        row = WorkerRow(
            id=id,
            life=uuid.uuid4(),
            backend_name=backend_name,
            host="here",
            pid=1,
            process_started="then",
            last_seen=NOW - int(seen_ago * SECOND),
        )
        Registry(self.store).add(
            row, queues="all", threads=1, coroutines=0, version="1", now=timezone.now()
        )
        return row

    def tick(self, **changes: Any) -> rescue.Rescued:
        options: dict[str, Any] = {
            "seen": NOW,
            "backend_name": "default",
            "timeout": TIMEOUT,
            "max_lost": 3,
            "is_gone": lambda row: False,
            **changes,
        }
        return rescue.tick(self.store, timezone.now(), **options)

    def workers(self) -> set[str]:
        return set(Worker.objects.values_list("id", flat=True))

    def test_a_worker_that_was_not_seen_in_time_is_lost(self) -> None:
        stale = self.add_worker("stale", seen_ago=TIMEOUT)
        self.add_worker("fresh", seen_ago=TIMEOUT - 0.1)
        [job] = make_running(worker_id="stale")
        [kept] = make_running(worker_id="fresh")
        before = state(kept.id)
        report = self.tick()
        self.assertEqual(report.workers, [stale])
        self.assertEqual([finish.id for finish in report.finishes], [job.id])
        self.assertEqual(self.workers(), {"fresh"})
        self.assertEqual(state(kept.id), before)
        row = Job.objects.get(id=job.id)
        self.assertEqual((row.status, row.lost, row.lease, row.worker_id), ("READY", 1, 2, None))
        self.assertEqual(row.exception_class_path, "durable_tasks.exceptions.WorkerLost")
        self.assertIn("'stale'", row.errors[0]["traceback"])

    def test_a_worker_whose_process_is_gone_is_lost_at_once(self) -> None:
        gone = self.add_worker("gone")
        self.add_worker("here")
        make_running(2, worker_id="gone")
        make_running(3, worker_id="here")
        report = self.tick(is_gone=lambda row: row.id == "gone")
        self.assertEqual((report.workers, len(report.finishes)), ([gone], 2))
        self.assertEqual(self.workers(), {"here"})
        self.assertEqual(Job.objects.running().count(), 3)

    def test_jobs_of_a_worker_without_a_row_are_rescued(self) -> None:
        make_running(700, worker_id="unknown")
        report = self.tick()
        self.assertEqual((report.workers, len(report.finishes)), ([], 700))
        self.assertEqual(Job.objects.ready().count(), 700)

    def test_a_beat_in_between_keeps_the_worker_and_its_jobs(self) -> None:
        row = self.add_worker("late", seen_ago=TIMEOUT - 1)
        make_running(worker_id="late")
        registry = Registry(self.store)

        def beat(row: WorkerRow) -> bool:
            self.assertTrue(registry.beat(row.id, row.life, NOW))
            return True

        report = self.tick(is_gone=beat)
        self.assertEqual((report.workers, report.finishes), ([], []))
        self.assertEqual(self.workers(), {row.id})
        self.assertEqual(Job.objects.running().count(), 1)

    def test_workers_of_another_backend_are_left_alone(self) -> None:
        self.add_worker("theirs", seen_ago=9 * TIMEOUT, backend_name="other")
        make_running(worker_id="theirs", backend_name="other")
        report = self.tick(is_gone=lambda row: True)
        self.assertEqual(report, rescue.Rescued())
        self.assertEqual(self.workers(), {"theirs"})
        self.assertEqual(Job.objects.running().count(), 1)

    def test_the_next_look_is_when_the_first_worker_would_be_lost(self) -> None:
        for id, ago in (("a", 5), ("b", 20), ("c", 1)):
            self.add_worker(id, seen_ago=ago)
        self.add_worker("other", seen_ago=25, backend_name="other")
        self.assertEqual(self.tick().next_look, NOW + 10 * SECOND)

    def test_the_third_loss_fails_the_job(self) -> None:
        [job] = make_running(worker_id="unknown")
        for times, status in enumerate(("READY", "READY", "FAILED"), 1):
            [finish] = self.tick().finishes
            row = Job.objects.get(id=job.id)
            self.assertEqual((row.status, row.lost, len(row.errors)), (status, times, times))
            self.assertEqual(finish.status, status)
            if status == "READY":
                [claim] = self.claim(worker_id="unknown")
                self.assertTrue(self.store.mark_started(claim))
        self.assertIsInstance(finish.exception, WorkerLost)
        self.assertEqual(row.exception_class_path, "durable_tasks.exceptions.WorkerLost")
        self.assertIn("Lost 3 times", row.errors[-1]["traceback"])
        self.assertIsNotNone(row.finished_at)
        self.assertIsNone(row.worker_id)

    def test_a_task_that_must_not_run_twice_fails_at_its_first_loss(self) -> None:
        path = "tests.app.store_tasks.only_once"
        [job] = make_running(worker_id="unknown", task_path=path, started_lease=1)
        [other] = make_running(worker_id="unknown")
        self.tick()
        statuses = dict(Job.objects.values_list("id", "status"))
        self.assertEqual(statuses, {job.id: "FAILED", other.id: "READY"})

    def test_a_run_that_is_known_not_to_have_started_does_not_count(self) -> None:
        path = "tests.app.store_tasks.only_once"
        # Prefetched: the run before is the one that was marked.
        [job] = make_running(worker_id="unknown", task_path=path, lease=3, started_lease=2)
        [lost] = make_running(worker_id="unknown", lost=2, lease=3, started_lease=None)
        self.tick()
        for id, losses in ((job.id, 0), (lost.id, 2)):
            row = Job.objects.get(id=id)
            self.assertEqual(
                (row.status, row.lost, row.attempts, row.lease, row.errors),
                ("READY", losses, 0, 4, None),
            )

    def test_a_job_whose_task_is_unknown_runs_again_to_say_so(self) -> None:
        make_running(worker_id="unknown", task_path="tests.app.nowhere")
        self.tick()
        self.assertEqual(Job.objects.get().status, "READY")

    def test_unless_its_start_was_written_as_only_of_tasks_that_must_not_run_twice(self) -> None:
        make_running(worker_id="unknown", task_path="tests.app.nowhere", started_lease=1)
        self.tick()
        self.assertEqual(Job.objects.get().status, "FAILED")

    def test_the_jobs_of_a_new_life_are_left_alone(self) -> None:
        make_running(worker_id="back")
        usual = self.store.finish

        def finish(finishes: list[Finish], *, now: datetime) -> set[uuid.UUID]:
            counted = usual(finishes, now=now)
            if not self.workers():  # it wakes up and goes on anew
                self.add_worker("back")
                make_running(2, worker_id="back")
            return counted

        with mock.patch.object(self.store, "finish", finish):
            report = self.tick()
        self.assertEqual(len(report.finishes), 1)
        self.assertEqual(Job.objects.running().count(), 2)

    def test_a_worker_that_wakes_up_changes_nothing(self) -> None:
        make_running(worker_id="asleep")
        [claim] = self.store.held_by("asleep")
        self.tick()
        [heir] = self.claim(worker_id="heir")
        before = state(claim.id)
        self.assertEqual(self.finish(succeeded(claim)), set())
        self.assertEqual(state(claim.id), before)
        self.assertEqual(self.finish(succeeded(heir)), {heir.id})

    def test_of_two_rescuers_one_does_it(self) -> None:
        make_running(4, worker_id="unknown")
        held = self.store.held_by("unknown")
        store = self.open_store()
        first = rescue.rescue_jobs(store, "unknown", timezone.now(), max_lost=3)
        self.assertEqual(len(first), 4)
        # The other one read the same jobs before.
        with mock.patch.object(self.store, "held_by", side_effect=[held]):
            second = rescue.rescue_jobs(self.store, "unknown", timezone.now(), max_lost=3)
        self.assertEqual(second, [])
        self.assertEqual(set(Job.objects.values_list("status", "lost")), {("READY", 1)})
