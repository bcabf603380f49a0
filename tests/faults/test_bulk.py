"""Actions on all jobs that match, while their worker is killed in the midst of them."""

from datetime import timedelta

from django.db.models import Count
from django.utils import timezone

from durable_tasks import bulk
from durable_tasks.models import Job
from durable_tasks.search import JobSearch
from durable_tasks.statuses import ENDED

from ..helpers import WorkerTestCase, eventually, run_worker, running_worker
from ..store.jobs import make_jobs

# A few pages, and kills fewer than lost runs that a job may have.
JOBS, KILLS = 3 * bulk.SIZE + 100, 2
# What is marked is not deleted meanwhile.
PATIENT = {"DURABLE_TASKS_TEST_PRUNE": "3600"}
# The status that jobs are in before, what is asked for, and what then is so of each.
CASES = {
    "run": ("SCHEDULED", None, {"status": "READY", "lease": 0}),
    "retry": ("FAILED", None, {"status": "READY", "lease": 1}),
    "cancel": ("SCHEDULED", None, {"status": "CANCELLED"}),
    "move": ("SCHEDULED", "other", {"queue_name": "other", "lease": 0}),
    "prioritize": ("SCHEDULED", "7", {"priority": 7, "lease": 0}),
    "copy": ("FAILED", None, {"status": "FAILED", "lease": 0}),
    "mark": ("SUCCESSFUL", None, {"status": "SUCCESSFUL", "delete_after__isnull": False}),
    "delete": ("SUCCESSFUL", None, None),
}


class KilledTests(WorkerTestCase):
    def changed(self):
        rows = Job.objects.filter(task_path="durable_tasks.bulk.act")
        return sum(job.metadata["bulk"]["changed"] for job in rows)

    def test_a_killed_worker_leaves_nothing_undone_and_nothing_done_twice(self):
        self.assertEqual(set(CASES), set(bulk.ACTIONS))
        now = timezone.now()
        asked = {}
        for action, (status, argument, _) in CASES.items():
            changes = {"finished_at": now} if status in ENDED else {}
            changes |= {"status": status, "task_path": f"a.{action}", "queue_name": "held"}
            make_jobs(JOBS, run_at=now + timedelta(hours=1), **changes)
            search = JobSearch(task_path=f"a.{action}", status=status)
            asked[action] = bulk.start(search, action, argument, "ada", "default")
        arguments = ("--worker-id=w", "--threads=4", "--queue-name=default")
        for _ in range(KILLS):
            with running_worker(*arguments, env=PATIENT, ready=False) as worker:
                before = self.changed()
                eventually(lambda before=before: self.changed() > before, "a page is done")
                worker.kill()
            self.assertLess(self.changed(), len(CASES) * JOBS)
        run_worker(*arguments, env=PATIENT)
        for action, id in asked.items():
            with self.subTest(action):
                job = Job.objects.get(id=id)
                self.assertEqual((job.status, job.return_value), ("SUCCESSFUL", JOBS), job.errors)
                self.assertEqual(job.metadata["bulk"]["changed"], JOBS)
                jobs, expected = Job.objects.filter(task_path=f"a.{action}"), CASES[action][2]
                if action == "copy":
                    copies = jobs.filter(status="READY")
                    self.assertEqual(copies.count(), JOBS)
                    jobs = jobs.exclude(status="READY")
                found = jobs.filter(**expected).count() if expected else JOBS - jobs.count()
                self.assertEqual((found, jobs.count()), (JOBS, JOBS if expected else 0))
        lost = Job.objects.filter(lost__gt=0).aggregate(jobs=Count("id"))
        self.assertGreater(lost["jobs"], 0)
