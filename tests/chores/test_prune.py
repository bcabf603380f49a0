from datetime import timedelta

from django.utils import timezone

from durable_tasks.chores.prune import prune
from durable_tasks.models import Job
from tests.store.jobs import StoreTestCase, make_jobs


class PruneTests(StoreTestCase):
    def test_all_that_is_old_goes_in_batches(self) -> None:
        now = timezone.now()
        make_jobs(5001, status="SUCCESSFUL", finished_at=now - timedelta(seconds=1))
        [young] = make_jobs(status="SUCCESSFUL", finished_at=now)
        batches = list(
            prune(
                self.store,
                statuses=["SUCCESSFUL"],
                before=now,
                backend_name="default",
                queue_names=None,
            )
        )
        self.assertEqual(batches, [5000, 1])
        self.assertEqual(Job.objects.get(), young)
