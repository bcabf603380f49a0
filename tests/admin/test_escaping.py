"""Whatever stands in a row is shown as text: on each page, of each column."""

import uuid
from contextlib import suppress
from datetime import timedelta
from html.parser import HTMLParser
from io import StringIO

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.db import models
from django.test import override_settings
from django.utils import timezone

from durable_tasks.models import ErrorGroup, Job, Pause, PeriodicTask, Statistic, Worker
from durable_tasks.statuses import JobStatus
from tests.helpers import tasks_setting

from .base import AdminTests
from .test_permissions import ADD, PAGES

HOSTILE = "\"'><img src=x onerror=a></textarea><!--{{x}}&lt;\u202e"
# What decides whether and where a row is shown at all, and what only one of a few values can be.
FIXED = {
    "backend_name": "default",
    "status": "FAILED",
    "wish": None,
    "source": "database",
    "time_zone": "UTC",
    "period": 60,
    "catch_up": "latest",
    "overlap": "allow",
    "delete_after": None,
    "cancel_requested_at": None,
    "lease": 1,
}
HISTOGRAM = {"hours", "waits", "runs"}


def hostile(model, **changes):
    """Insert a row that has the text in each column which takes texts."""
    now = timezone.now()
    values = {}
    for field in model._meta.concrete_fields:
        name = field.name
        if isinstance(field, models.AutoField):
            continue
        if name in FIXED:
            values[name] = FIXED[name]
        elif isinstance(field, models.JSONField):
            values[name] = {} if name in HISTOGRAM else {HOSTILE: [HOSTILE, {"x": HOSTILE}]}
        elif isinstance(field, models.CharField):
            values[name] = HOSTILE[: field.max_length]
        elif isinstance(field, models.DateTimeField):
            values[name] = now - timedelta(minutes=3)
        elif isinstance(field, models.UUIDField):
            values[name] = uuid.uuid4()
        elif field.get_internal_type() in ("IntegerField", "BigIntegerField", "SmallIntegerField"):
            values[name] = 1
    columns = {field.name for field in model._meta.concrete_fields}
    return model.objects.create(**{k: v for k, v in (values | changes).items() if k in columns})


class Tags(HTMLParser):
    """Notes what the text would have made of a page."""

    def __init__(self):
        super().__init__()
        self.wrong = []

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if tag == "img" and names.get("src") == "x":
            self.wrong.append(tag)
        self.wrong += [name for name in names if name.startswith("on") or name == "style"]
        if tag == "script" and not names.get("src") and names.get("type") != "application/json":
            self.wrong.append("script")
        if str(names.get("href")).startswith("javascript:"):
            self.wrong.append(names["href"])

    def handle_comment(self, data):
        if "{{x}}" in data:
            self.wrong.append(data)


@pytest.mark.any_database
@override_settings(TASKS=tasks_setting(schedulable=[ADD]))
class EscapingTests(AdminTests):
    def setUp(self):
        super().setUp()
        now = timezone.now()
        error = {
            "exception_class_path": f"a.{HOSTILE}",
            "traceback": f'  File "{HOSTILE}", line 1, in {HOSTILE}\n    {HOSTILE}\nE: {HOSTILE}',
            "worker_id": HOSTILE,
            "attempt": HOSTILE,
            "finished_at": HOSTILE,
        }
        self.jobs = [
            hostile(Job, status=status, errors=[error, {HOSTILE: HOSTILE}])
            for status in JobStatus.values
        ]
        self.jobs.append(hostile(Job, task_path="durable_tasks.bulk.act", metadata={"bulk": error}))
        seen = int(now.timestamp() * 1e6) - 60_000_000
        self.rows = {"worker": hostile(Worker, last_seen=seen)}
        self.rows["schedule"] = hostile(PeriodicTask, enabled=True, last_job_ids=[HOSTILE])
        hostile(Pause, task_path="")
        hostile(Pause, queue_name="")
        begins = int(now.timestamp()) // 60 * 60
        for minutes in (2, 3, 4):
            hostile(Statistic, begins=begins - 60 * minutes)
        hostile(ErrorGroup, count=3)
        for each in (*self.jobs[:1], *self.rows.values()):
            LogEntry.objects.log_actions(self.user.pk, [each], 2, change_message=HOSTILE)
        self.user.username = HOSTILE[:100]
        self.user.save()

    def addresses(self):
        """Every page of the table of permissions, of every row, and what is asked of it."""
        for name, pages in PAGES.items():
            for page in {(each.row, each.act) for each in pages}:
                row, act = page
                if name == "app_list" or act or name.endswith(("_act", "_pause", "_resume")):
                    continue
                rows = self.jobs if row == "job" else [self.rows[row]] if row else [None]
                for each in rows:
                    args = [] if each is None else [each.pk]
                    yield self.url(name.removeprefix("durable_tasks_"), *args), {}
        jobs = self.url("job_changelist")
        names = ("queue_name", "task_path", "exception_class_path", "error_place", "schedule")
        for name in (*names, "worker_id", "backend_name", "status", "since", "until", "id", "q"):
            yield jobs, {name: HOSTILE}
            yield self.url("job_act"), {"action": "delete", name: HOSTILE}
        yield jobs, {"q": f'kwargs.a="{HOSTILE}"', "after": HOSTILE}
        yield self.url("job_act"), {"action": HOSTILE}
        for status in JobStatus.values:
            yield jobs, {"status": status}
        for name in ("range", "backend", "queue", "task"):
            yield "/admin/durable_tasks/", {name: HOSTILE}
        yield "/admin/durable_tasks/", {"range": "7d"}
        yield self.url("worker_changelist"), {"q": HOSTILE}
        yield self.url("worker_act", "w", "drain"), {}
        yield "/admin/", {}

    def check(self, answer):
        if answer["Content-Type"].startswith("application/json"):
            return
        tags = Tags()
        tags.feed(answer.content.decode())
        self.assertEqual(tags.wrong, [])

    def test_pages(self):
        for url, query in self.addresses():
            with self.subTest(url, **query):
                answer = self.client.get(url, query, follow=True)
                self.assertIn(answer.status_code, (200, 403, 405))
                self.check(answer)

    def test_what_comes_back_from_a_form(self):
        ids = {"_selected_action": str(self.jobs[0].pk)}
        for url, data in (
            (self.url("job_act"), {"action": "move", "argument": HOSTILE, **ids}),
            (self.url("job_act"), {"action": "prioritize", "argument": HOSTILE, **ids}),
            (self.url("job_act"), {"action": "delete", **ids, "job": HOSTILE}),
            (self.url("job_act"), {"action": HOSTILE, "search": HOSTILE}),
            (self.url("job_act"), {"action": "retry", "_selected_action": HOSTILE}),
            (self.url("pause_pause"), {"backend": HOSTILE, "queue": HOSTILE}),
            (self.url("pause_pause"), {"backend": "default", "queue": HOSTILE + "2"}),
            (self.url("pause_pause"), {"backend": "default", "task": HOSTILE}),
            (self.url("pause_resume"), {"backend": "default", "task": HOSTILE}),
            (self.url("periodictask_act", self.rows["schedule"].pk, "run"), {}),
            (self.url("periodictask_act", self.rows["schedule"].pk, "disable"), {}),
            (self.url("worker_act", self.rows["worker"].pk, "drain"), {}),
            (self.url("periodictask_add"), {"name": HOSTILE, "spec": HOSTILE, "args": HOSTILE}),
        ):
            with self.subTest(url, **data):
                for confirmed in ("", "yes"):
                    answer = self.client.post(url, {**data, "confirmed": confirmed}, follow=True)
                    self.assertEqual(answer.status_code, 200)
                    self.check(answer)

    def test_commands_steer_no_terminal(self):
        for name in ("tasks_status", "tasks_health", "periodic_tasks"):
            out = StringIO()
            with self.subTest(name):
                with suppress(SystemExit):
                    call_command(name, stdout=out, stderr=out)
                self.assertTrue(out.getvalue())
                self.assertNotIn("\u202e", out.getvalue())
