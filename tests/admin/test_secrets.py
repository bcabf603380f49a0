"""Values of names that are secret show nowhere."""

from contextlib import suppress
from importlib.util import find_spec
from io import StringIO
from time import time

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.test import RequestFactory, override_settings
from django.utils import timezone

from durable_tasks import health, metrics
from durable_tasks.models import ErrorGroup, Job, PeriodicTask
from durable_tasks.redaction import MASK
from tests.helpers import tasks_setting

from .base import AdminTests
from .test_permissions import PAGES

SECRET = "hunter2"
ECHO = "tests.app.tasks.echo"
VALUE = {"name": "Ada", "password": SECRET, "deep": [{"pin": SECRET, "x": 1}]}


@pytest.mark.any_database
@override_settings(TASKS=tasks_setting(schedulable=[ECHO], redact=["*password*", "pin"]))
class SecretTests(AdminTests):
    def setUp(self):
        super().setUp()
        text = f"ValueError: wrong password={SECRET} or {{'pin': '{SECRET}'}}"
        self.ids = {"worker": "w-1"}
        self.worker()
        job = self.failed_job(text, args=[VALUE], kwargs=VALUE, metadata=VALUE, return_value=VALUE)
        self.ids["job"] = job.pk
        now = timezone.now()
        ErrorGroup.objects.create(
            backend_name="default",
            exception_class_path="ValueError",
            count=1,
            hours={int(time()) // 3600 * 3600: 1},
            first_seen=now,
            last_seen=now,
            message=text,
            task_path=ECHO,
            last_job_id=job.pk,
        )
        self.form = {"backend_name": "default", "name": "mine", "enabled": "on", "spec": "1h"}
        self.form |= {"task_path": ECHO, "catch_up": "latest", "overlap": "allow", "args": "[1]"}
        kwargs = f'{{"password": "{SECRET}", "x": 1}}'
        self.client.post(self.url("periodictask_add"), self.form | {"kwargs": kwargs})
        self.row = PeriodicTask.objects.get()
        self.ids["schedule"] = self.row.pk

    def test_pages(self):
        for name, pages in PAGES.items():
            for page in {(page.row, page.act) for page in pages}:
                row, act = page
                args = [*([self.ids[row]] if row else []), *([act] if act else [])]
                url = "/admin/durable_tasks/"
                if name != "app_list":
                    url = self.url(name.removeprefix("durable_tasks_"), *args)
                with self.subTest(url):
                    self.assertNotIn(SECRET, self.client.get(url, follow=True).content.decode())
        self.assertContains(self.get("job_change", self.ids["job"]), MASK)
        self.assertContains(self.client.get("/admin/durable_tasks/"), f"password={MASK}")

    def test_who_may_only_view_a_schedule(self):
        self.become("view_periodictask")
        page = self.get("periodictask_change", self.row.pk)
        self.assertNotContains(page, SECRET)
        self.assertContains(page, MASK)

    def test_a_form_keeps_what_it_does_not_show(self):
        page = self.get("periodictask_change", self.row.pk)
        self.assertNotContains(page, SECRET)
        kwargs = f'{{"password": "{MASK}", "x": 2}}'
        url = self.url("periodictask_change", self.row.pk)
        self.client.post(url, self.form | {"kwargs": kwargs})
        self.row.refresh_from_db()
        self.assertEqual(self.row.kwargs, {"password": SECRET, "x": 2})
        self.client.post(url, self.form | {"kwargs": '{"password": "new"}'})
        self.row.refresh_from_db()
        self.assertEqual(self.row.kwargs, {"password": "new"})

    def test_acts_do_not_tell(self):
        ids = {"_selected_action": str(self.ids["job"]), "confirmed": "yes"}
        for action in ("mark", "copy", "retry", "cancel"):
            answer = self.client.post(self.url("job_act"), {"action": action, **ids}, follow=True)
            self.assertNotContains(answer, SECRET)
        search = {"action": "delete", "scope": "all", "confirmed": "yes"}
        for query in (
            f"q=kwargs.password={SECRET}",
            f'q=args.0={{"password":"{SECRET}"}}',
            f'q=kwargs.deep=[{{"pin":"{SECRET}"}}]',
        ):
            self.client.post(self.url("job_act"), search | {"search": query})
        self.assertFalse(Job.objects.filter(task_path="durable_tasks.bulk.act").exists())
        for entry in LogEntry.objects.all():
            self.assertNotIn(SECRET, f"{entry.object_repr}{entry.change_message}")

    def test_commands_and_endpoints(self):
        for command in (["tasks_status"], ["tasks_health", "--format=json"], ["periodic_tasks"]):
            out = StringIO()
            with suppress(SystemExit):
                call_command(*command, stdout=out)
            self.assertTrue(out.getvalue())
            self.assertNotIn(SECRET, out.getvalue())
        request = RequestFactory().get("/", headers={"authorization": "Bearer t0p"})
        self.assertNotIn(SECRET, health.view()(request).content.decode())
        if find_spec("prometheus_client"):
            text = metrics.view(token="t0p")(request).content.decode()
            self.assertIn("durable_tasks_", text)
            self.assertNotIn(SECRET, text)
            self.assertNotIn("t0p", text)
