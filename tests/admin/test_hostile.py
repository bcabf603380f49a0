"""Crafted addresses and forms: a page or a message that says what is wrong, and never a 500."""

from urllib.parse import quote

import pytest
from django.test import override_settings

from durable_tasks.models import Job, PeriodicTask
from durable_tasks.statuses import JobStatus
from tests.helpers import tasks_setting

from .base import AdminTests

# In any place of an address or a form.
ODD = ("\0", "a\0b", "x" * 5000, "١٢", "[]", "'\"%", "-1", "9" * 30, "9" * 5000, "null", "🐘")
TIMES = (
    *("0001-01-01T00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31", "999999d", "0001-01-01"),
    "2026-02-30T25:61",
)
VALUES = (
    *('"\\u0000"', '"\\ud800"', '{"\\u0000": 1}', '{"\\ud800": 1}', "NaN", "[NaN]", "1e999"),
    *("[-1e999]", "9" * 5000, f"[{'9' * 5000}]", "[" * 300 + "]" * 300, "[" * 5000),
    f"[{','.join('1' * 2000)}]",
)
SEARCHES = (
    *(f"args.0={value}" for value in VALUES),
    " ".join(f"args.{number}=1" for number in range(1500)),
    f"args{'.a' * 1000}=1",
    *("args.-1=5", f"args.{'9' * 20}=1", 'args.0={"99999999999": 1}'),
    *("kwargs.%s=1", "kwargs.*=1", "kwargs.$=1", "kwargs.\\=1", "kwargs.a[0]=1", "kwargs.a\"'b=1"),
)
POSITIONS = (
    *("[]", "null", "5", "[null]", "[NaN]", '["a"]', '{"a": 1}', "[" * 5000, '[["a"]]'),
    *('["default","\\u0000",5,"2026-01-01","%s"]', '["default","\\ud800",5,"2026-01-01","%s"]'),
    *('["default","q",1e999,"2026-01-01","%s"]', '["default","q",5,"0001-01-01T00:00+23:00","%s"]'),
    *('["w\\u0000","%s"]', '["\\ud800","%s"]', '["9999-12-31T23:59:59-23:00","%s"]'),
)


@pytest.mark.any_version
class HostileTests(AdminTests):
    def setUp(self):
        super().setUp()
        self.worker()
        self.client.raise_request_exception = False

    def ask(self, url, data=None, method="get"):
        with self.subTest(url[:200], method=method, data=repr(data)[:200]):
            answer = getattr(self.client, method)(url, data)
            self.assertLess(answer.status_code, 500, getattr(answer, "exc_info", ""))
            return answer

    def test_searches(self):
        jobs, act = self.url("job_changelist"), self.url("job_act")
        for query in SEARCHES:
            self.ask(jobs, {"q": query})
            self.ask(act, {"action": "delete", "q": query})
            form = {"action": "retry", "scope": "all", "confirmed": "yes"}
            # Two are texts: no JSON.
            if query in SEARCHES[: len(VALUES)] and query[7:] not in ("NaN", "9" * 5000):
                answer = self.ask(act, form | {"search": f"q={quote(query)}"}, "post")
                self.assertEqual(answer["Location"], jobs)
        self.assertFalse(Job.objects.exists())
        for name in ("since", "until"):
            for time in TIMES:
                for status in ("", *JobStatus.values):
                    page = self.ask(jobs, {name: time, "status": status})
                    self.assertContains(page, f"{name} must be a time")

    def test_pages_of_the_list(self):
        for status in ("", *JobStatus.values):
            for text in POSITIONS:
                after = text.replace("%s", "0" * 8 + "-0000-7000-8000-" + "0" * 12)
                page = self.ask(self.url("job_changelist"), {"status": status, "after": after})
                self.assertEqual(page.status_code, 200)

    def test_fields(self):
        jobs = ("status", "backend_name", "queue_name", "task_path", "worker_id", "error_place")
        jobs = (*jobs, "schedule", "id", "q", "after", "since", "status[]", "_popup", "e")
        lists = ("q", "p", "o", "all", "_facets", "_popup", "_to_field", "backend_name", "id")
        for text in ODD:
            for name in jobs:
                self.ask(self.url("job_changelist"), {name: text})
                self.ask(self.url("job_act"), {"action": "delete", name: text})
            for name in lists:
                for page in ("worker", "periodictask", "pause"):
                    self.ask(self.url(f"{page}_changelist"), {name: text})
            for name in ("range", "backend", "queue", "task"):
                self.ask("/admin/durable_tasks/", {name: text})
                self.ask(self.url("overview"), {name: text})

    def test_rows(self):
        for text in ODD:
            for key in {quote(text, safe=""), text.replace("\0", "_00")}:
                for page in ("change", "history", "delete", "act/drain", "act/run"):
                    for model in ("job", "worker", "periodictask"):
                        url = f"/admin/durable_tasks/{model}/{key}/{page}/"
                        self.ask(url)
                        self.ask(url, {}, "post")

    @override_settings(TASKS=tasks_setting(schedulable=["tests.app.tasks.echo"]))
    def test_the_form_of_a_periodic_task(self):
        form = {"backend_name": "default", "name": "n", "task_path": "tests.app.tasks.echo"}
        form |= {"spec": "1h", "catch_up": "latest", "overlap": "allow", "args": "[1]"}
        for value in VALUES:
            for name, text in (("args", f"[{value}]"), ("kwargs", f'{{"a": {value}}}')):
                if "1,1" not in text and "9" * 5000 not in text and "[[]]" not in text:
                    page = self.ask(self.url("periodictask_add"), form | {name: text}, "post")
                    self.assertEqual(page.status_code, 200)
        self.assertFalse(PeriodicTask.objects.exists())
        for text in (*ODD, *TIMES):
            for name in (*form, "kwargs", "time_zone", "queue_name", "priority"):
                self.ask(self.url("periodictask_add"), form | {name: text}, "post")
                PeriodicTask.objects.all().delete()

    def test_forms(self):
        job = self.job(5)
        for text in ODD:
            for action in ("move", "prioritize", "delete", text):
                form = {"action": action, "argument": text, "search": text}
                self.ask(self.url("job_act"), form | {"_selected_action": text}, "post")
                form |= {"confirmed": "yes", "job": text}
                if action != "delete":
                    form["_selected_action"] = str(job.pk)
                self.ask(self.url("job_act"), form, "post")
            for act in ("pause", "resume"):
                for name in ("queue", "task"):
                    form = {"backend": "default", name: text}
                    self.ask(self.url(f"pause_{act}"), form, "post")
                self.ask(self.url(f"pause_{act}"), {"backend": text, "queue": "q"}, "post")
            for page, action in (("worker", "drain"), ("periodictask", "enable")):
                form = {"action": action, "_selected_action": text, "index": text}
                self.ask(self.url(f"{page}_changelist"), form, "post")
        self.assertTrue(Job.objects.filter(pk=job.pk).exists())
        self.assertFalse(PeriodicTask.objects.exists())
