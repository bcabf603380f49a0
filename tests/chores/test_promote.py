from datetime import timedelta
from unittest import mock

from django.utils import timezone

from durable_tasks.chores import promote
from durable_tasks.models import Job
from durable_tasks.store.messages import MAX_BATCH
from tests.store.jobs import StoreTestCase, make_jobs


class PromoteTests(StoreTestCase):
    def test_every_due_job_is_promoted_in_batches(self) -> None:
        now = timezone.now()
        due = MAX_BATCH + 3
        make_jobs(due, status="SCHEDULED", run_at=now)
        make_jobs(status="SCHEDULED", run_at=now + timedelta(hours=1))
        report = promote.tick(self.store, now)
        self.assertEqual(report, promote.Promoted(due, now + timedelta(hours=1)))
        self.assertEqual((Job.objects.ready().count(), Job.objects.scheduled().count()), (due, 1))

    def test_nothing_scheduled_reports_nothing(self) -> None:
        make_jobs()
        self.assertEqual(
            promote.tick(self.store, timezone.now()), promote.Promoted(jobs=0, next_due=None)
        )

    def test_jobs_that_others_are_promoting_are_left_to_them(self) -> None:
        now = timezone.now()
        make_jobs(status="SCHEDULED", run_at=now)
        # As if every due row were locked.
        with mock.patch.object(self.store, "promote", return_value=0) as called:
            self.assertEqual(promote.tick(self.store, now), promote.Promoted(0, now))
        called.assert_called_once()
