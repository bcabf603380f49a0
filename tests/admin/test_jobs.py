"""The admin: jobs, to look at and to act on."""

from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext

from durable_tasks.models import Job

from .base import ESCAPED, SCRIPT, AdminTests


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
