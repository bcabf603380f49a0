"""What the admin says while the database of the jobs does not answer."""

from unittest import mock

from django.db import OperationalError, connections
from django.test import override_settings

from tests.helpers import tasks_setting

from .base import AdminTests
from .test_permissions import ADD, PAGES, SCHEDULE

SECRET = "no route to host db-7"


@override_settings(
    DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"], TASKS=tasks_setting(schedulable=[ADD])
)
class AwayTests(AdminTests):
    databases = {"default", "other"}

    def away(self):
        """Let each statement to the jobs' database fail, as one that is away does."""

        def fail(execute, *args):
            raise OperationalError(SECRET)

        return connections["other"].execute_wrapper(fail)

    def test_each_page_says_so(self):
        self.worker()
        job = self.job(5)
        self.client.post(self.url("periodictask_add"), {**SCHEDULE, "name": "mine"})
        rows = {"job": job.pk, "worker": "w-1", "schedule": 1}
        selected = {"_selected_action": str(job.pk)}
        for name, pages in PAGES.items():
            if name in ("app_list", "durable_tasks_overview"):
                continue
            for page in pages:
                args = [*([rows[page.row]] if page.row else []), *([page.act] if page.act else [])]
                url = self.url(name.removeprefix("durable_tasks_"), *args)
                for method in ("get", "post"):
                    data = page.data | (selected if name == "durable_tasks_job_act" else {})
                    with (
                        self.subTest(url, method=method, **page.data),
                        self.away(),
                        mock.patch("durable_tasks.admin.base.logger.exception"),
                    ):
                        if method == "get":
                            answer = self.client.get(url)
                        else:
                            answer = self.client.post(url, data)
                        # Others: it was not asked.
                        expected = (503, 302, 403, 405)
                        if name == "durable_tasks_periodictask_add":
                            expected = (503, 200)
                        self.assertIn(answer.status_code, expected)
                        self.assertNotContains(answer, SECRET, status_code=answer.status_code)
                        if answer.status_code == 503:
                            self.assertContains(answer, "does not answer", status_code=503)
                        if method == "get" and page.get and 200 not in expected:
                            self.assertEqual(answer.status_code, 503)

    def test_the_overview_says_so(self):
        with self.away(), self.assertLogs("durable_tasks", "ERROR"):
            page = self.client.get("/admin/durable_tasks/")
        self.assertContains(page, "The database of the jobs does not answer")
        self.assertContains(page, self.url("job_changelist"))
        with self.away():
            answer = self.client.get(self.url("overview"))
        self.assertEqual(answer.status_code, 503)
        self.assertEqual(answer.json(), {"error": "The database does not answer."})
