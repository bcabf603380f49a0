from datetime import timedelta
from itertools import pairwise

from django.db import connection, transaction
from django.utils import timezone

from durable_tasks.models import Job
from durable_tasks.statuses import ENDED, MOVES, WAITING, JobStatus
from durable_tasks.store import Queues, store_for
from tests.store.contract import KINDS
from tests.store.jobs import StoreTestCase, make_jobs


class MoveTests(StoreTestCase):
    def test_every_status_can_be_left_and_reached_but_scheduled_only_from_running(self) -> None:
        self.assertEqual(set(MOVES), set(JobStatus))
        self.assertEqual({status for after in MOVES.values() for status in after}, set(JobStatus))
        self.assertEqual([s for s in JobStatus if "SCHEDULED" in MOVES[s]], ["RUNNING"])

    def test_an_ended_job_is_only_ever_run_again(self) -> None:
        for status in ENDED:
            self.assertEqual(MOVES[status], ("READY",))

    def test_what_the_store_does_is_allowed(self) -> None:
        for kind, finish_of in KINDS.items():
            with self.subTest(kind):
                Job.objects.all().delete()
                make_jobs(status="SCHEDULED", run_at=timezone.now() - timedelta(hours=1))
                trail = [Job.objects.get().status]
                self.store.promote(timezone.now())
                trail.append(Job.objects.get().status)
                [claim] = self.claim()
                trail.append(Job.objects.get().status)
                self.finish(finish_of(claim))
                trail.append(Job.objects.get().status)
                for before, after in pairwise(trail):
                    self.assertIn(after, MOVES[JobStatus(before)])
                self.assertEqual(trail[:3], ["SCHEDULED", "READY", "RUNNING"])

    def test_a_pause_and_its_end_are_allowed(self) -> None:
        [job] = make_jobs(task_path="a.b")
        before = job.status
        for step in (
            lambda: self.store.pause(Queues("default", None), ["a.b"]),
            lambda: self.store.resume("default", []).jobs,
        ):
            self.assertEqual(step(), 1)
            after = Job.objects.get().status
            self.assertIn(after, MOVES[JobStatus(before)])
            before = after
        self.assertEqual(before, "READY")

    def test_what_is_done_by_hand_is_allowed(self) -> None:
        store = store_for(connection)
        for word, target, sources in (
            ("cancel", "CANCELLED", WAITING),
            ("retry", "READY", ENDED),
            ("run_now", "READY", [JobStatus.SCHEDULED]),
        ):
            for status in JobStatus:
                with self.subTest(word, status=status):
                    [job] = make_jobs(status=status)
                    with transaction.atomic():
                        getattr(store, word)(store.lock([job.id]), timezone.now())
                    after = Job.objects.get(id=job.id).status
                    self.assertEqual(after, target if status in sources else status)
                    if status in sources:
                        self.assertIn(target, MOVES[status])
