"""The admin: jobs and workers, to look at and not to change."""

import time
import uuid
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from durable_tasks.models import Job, PeriodicTask, Worker

from .app import tasks

SCRIPT = "<script>alert('x')</script>"
ESCAPED = "&lt;script&gt;alert("


class AdminTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_superuser("admin", "a@example.com", "secret")

    def setUp(self):
        self.client.force_login(self.user)

    def url(self, page, *args):
        return reverse(f"admin:durable_tasks_{page}", args=args)

    def get(self, page, *args, **query):
        response = self.client.get(self.url(page, *args), query)
        self.assertEqual(response.status_code, 200)
        return response

    def job(self, *args, **changes):
        job = tasks.echo.using(queue_name=changes.pop("queue_name", "default")).enqueue(*args).job
        Job.objects.filter(id=job.id).update(**changes)
        return job

    def test_periodic_tasks_are_shown_and_switched_off_and_on(self):
        for name in ("nightly", SCRIPT):
            PeriodicTask.objects.create(
                name=name,
                backend_name="default",
                task_path="tests.app.tasks.add",
                spec="30 3 * * *",
                time_zone="UTC",
                args=[SCRIPT],
                queue_name="default",
                priority=0,
                catch_up="latest",
                overlap="allow",
                definition="x",
                next_run_at=timezone.now(),
            )
        response = self.get("periodictask_changelist", enabled__exact=1, q="nightly")
        self.assertContains(response, "30 3 * * *")
        self.assertNotContains(response, SCRIPT)
        ids = list(PeriodicTask.objects.values_list("id", flat=True))
        for action, enabled, text in (
            ("disable", False, "2 periodic tasks are disabled."),
            ("enable", True, "2 periodic tasks are enabled."),
        ):
            response = self.client.post(
                self.url("periodictask_changelist"),
                {"action": action, "_selected_action": ids},
                follow=True,
            )
            self.assertContains(response, text)
            self.assertEqual(set(PeriodicTask.objects.values_list("enabled", flat=True)), {enabled})
        page = self.get("periodictask_change", ids[0])
        self.assertContains(page, ESCAPED)
        self.assertNotContains(page, 'name="_save"')

    def failed_job(self, text):
        now = timezone.now()
        error = {
            "attempt": 1,
            "worker_id": "w-1",
            "started_at": now.isoformat(),
            "finished_at": now.isoformat(),
            "exception_class_path": "builtins.ValueError",
            "traceback": f"Traceback (most recent call last): {text}",
        }
        return self.job(
            status="FAILED",
            errors=[error],
            attempts=1,
            started_at=now,
            last_attempted_at=now - timedelta(seconds=90),
            finished_at=now,
        )

    def worker(self, id="w-1"):
        return Worker.objects.create(
            id=id,
            life=uuid.uuid4(),
            backend_name="default",
            host="a-host",
            pid=4242,
            process_started="1",
            queues="all",
            started_at=timezone.now(),
            last_seen=int(time.time() * 1e6) - 7_000_000,
            capacity=51,
        )


class JobTests(AdminTests):
    def test_the_list_shows_jobs_and_filters_them(self):
        first, second = self.job(), self.job(queue_name="mails", status="RUNNING")
        shown = self.get("job_changelist")
        for job in (first, second):
            self.assertContains(shown, self.url("job_change", job.id))
        for query, expected in (
            ({"status__exact": "RUNNING"}, [second]),
            ({"status__exact": "READY"}, [first]),
            ({"queue_name": "mails"}, [second]),
            ({"q": str(first.id)}, [first]),
            ({"q": "app.tasks.echo"}, [second, first]),
            ({"q": "no such task"}, []),
        ):
            with self.subTest(query=query):
                found = self.get("job_changelist", **query).context["cl"].queryset
                self.assertEqual(list(found), expected)

    def test_a_job_shows_its_call_its_result_and_its_tracebacks(self):
        page = self.get("job_change", self.job("an argument").id)
        self.assertContains(page, "an argument")
        done = self.job(status="SUCCESSFUL", return_value={"ünï": "code"})
        self.assertContains(self.get("job_change", done.id), "ünï")
        page = self.get("job_change", self.failed_job("line 1\n  line 2").id)
        self.assertContains(page, "line 1\n  line 2")
        self.assertContains(page, "w-1")
        self.assertContains(page, "0:01:30")

    def test_what_users_and_tasks_wrote_is_escaped(self):
        jobs = [
            self.job(SCRIPT, {SCRIPT: SCRIPT}),
            self.job(status="SUCCESSFUL", return_value=SCRIPT),
            self.failed_job(SCRIPT),
            self.job(task_path=SCRIPT, queue_name=SCRIPT),
        ]
        for page in [
            *(self.get("job_change", job.id) for job in jobs),
            self.get("job_changelist"),
        ]:
            self.assertContains(page, ESCAPED)
            self.assertNotContains(page, "<script>alert(")

    def test_a_job_whose_task_is_gone_still_opens(self):
        for path in ("tests.app.tasks.removed", "tests.app.explodes.task", "no dots", ""):
            job = self.job(task_path=path)
            with self.subTest(path=path):
                self.assertContains(self.get("job_change", job.id), str(job.id))
        self.assertContains(self.get("job_changelist"), "tests.app.tasks.removed")

    def test_every_status_and_an_unknown_one_opens(self):
        for status in ("READY", "SCHEDULED", "RUNNING", "CANCELLED", "WAITING"):
            with self.subTest(status=status):
                self.get("job_change", self.job(status=status).id)
        self.get("job_changelist")

    def test_the_number_of_queries_does_not_grow_with_the_jobs(self):
        counts = []
        for _ in range(2):
            for _ in range(20):
                self.job("argument")
            with CaptureQueriesContext(
                connection,
            ) as queries:
                self.get("job_changelist")
            counts.append(len(queries))
        self.assertEqual(counts[0], counts[1])
        self.assertLess(counts[0], 12)
        job = self.failed_job("x")
        with CaptureQueriesContext(connection) as queries:
            self.get("job_change", job.id)
        self.assertLess(len(queries), 8)


class WorkerTests(AdminTests):
    def test_workers_are_shown_with_when_they_were_seen(self):
        self.worker()
        for page in (self.get("worker_changelist"), self.get("worker_change", "w-1")):
            for text in ("w-1", "a-host", "4242"):
                self.assertContains(page, text)
            self.assertRegex(page.content.decode(), r"\d+ s ago")

    def test_a_workers_name_is_escaped(self):
        self.worker(SCRIPT)
        self.assertNotContains(self.get("worker_changelist"), "<script>alert(")


class ReadOnlyTests(AdminTests):
    def test_nothing_can_be_added_changed_or_deleted(self):
        job, worker = self.job(), self.worker()
        for name, row in (("job", job), ("worker", worker)):
            pages = [(f"{name}_change", (row.pk,)), (f"{name}_delete", (row.pk,))]
            for page, args in [*pages, (f"{name}_add", ())]:
                with self.subTest(page=page):
                    response = self.client.post(self.url(page, *args), {"status": "READY"})
                    self.assertEqual(response.status_code, 403)
            action = {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"}
            self.client.post(self.url(f"{name}_changelist"), action)
            self.assertTrue(type(row).objects.filter(pk=row.pk).exists())
            for page, args in ((f"{name}_delete", (row.pk,)), (f"{name}_add", ())):
                self.assertEqual(self.client.get(self.url(page, *args)).status_code, 403)
            page = self.get(f"{name}_change", row.pk)
            for button in ('name="_save"', "deletelink", 'name="_continue"'):
                self.assertNotContains(page, button)
        self.assertEqual(Job.objects.get().status, "READY")

    def test_without_a_permission_nothing_is_shown(self):
        user = get_user_model().objects.create_user("staff", is_staff=True)
        self.client.force_login(user)
        response = self.client.get(self.url("job_change", self.job("secret argument").id))
        self.assertEqual(response.status_code, 403)
        self.assertNotContains(response, "secret argument", status_code=403)
