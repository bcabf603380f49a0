"""The admin of queues: what it counts, and pausing queues and tasks."""

import time
from datetime import timedelta

from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks.models import Pause, Statistic
from tests.helpers import tasks_setting

from .base import ESCAPED, SCRIPT, AdminTests

ECHO = "tests.app.tasks.echo"


class QueuePageTests(AdminTests):
    def pause(self, **names):
        values = {"backend_name": "default", "paused_at": timezone.now(), "paused_by": "ann"}
        return Pause.objects.create(**values | names)

    def statistic(self, **changes):
        now = int(time.time())
        values = {
            "backend_name": "default",
            "period": 60,
            "begins": now - now % 60 - 120,  # the last minute is not known yet
            "queue_name": "mails",
            "task_path": ECHO,
        }
        return Statistic.objects.create(**values | changes)

    def row(self, name):
        """Return what the page shows of a queue."""
        rows = self.get("pause_changelist").context["backends"]["default"]
        [row] = [row for row in rows if row.state.name == name]
        return row

    def test_a_queue_shows_what_waits_runs_and_ended_and_who_serves_it(self):
        long_ago = timezone.now() - timedelta(hours=2)
        self.job(queue_name="mails", run_at=long_ago)
        self.job(queue_name="mails")
        self.job(queue_name="mails", status="SCHEDULED")
        self.job(queue_name="mails", status="RUNNING", worker_id="w-1")
        self.statistic(successful=5, failed=2)
        self.statistic(begins=0, successful=99)
        self.statistic(task_path="", ready=9)
        self.worker("w-1", queues="mails, reports")
        self.worker("w-2", queues="reports")
        self.worker("w-3", queues="all", wish="drain")
        row = self.row("mails")
        self.assertEqual(
            [str(row.state.ready), str(row.state.scheduled), str(row.state.running)],
            ["2", "1", "1"],
        )
        self.assertEqual((row.hour.value, row.workers), (7, 1))
        self.assertEqual(row.waiting, "2\xa0h")
        self.assertFalse(row.is_alarming)
        page = self.get("pause_changelist")
        self.assertContains(page, "queue_name=mails")
        self.assertContains(page, "status=READY")

    def test_jobs_that_nobody_will_run_are_an_alarm(self):
        self.job(queue_name="mails", run_at=timezone.now() - timedelta(hours=2))
        self.assertTrue(self.row("mails").is_alarming)
        self.assertContains(self.get("pause_changelist"), "nobody")

    def test_the_index_of_the_admin_calls_it_queues(self):
        self.assertContains(self.client.get("/admin/"), "Queues")

    def test_a_queue_is_paused_and_resumed(self):
        self.job(queue_name="mails")
        queue = {"backend": "default", "queue": "mails"}
        response = self.client.post(self.url("pause_pause"), queue, follow=True)
        self.assertContains(response, "Paused: mails.")
        pause = Pause.objects.get()
        self.assertEqual((pause.queue_name, pause.paused_by), ("mails", "admin"))
        self.assertTrue(self.row("mails").state.is_paused)
        self.assertContains(self.get("pause_changelist"), "admin")
        again = self.client.post(self.url("pause_pause"), queue, follow=True)
        self.assertContains(again, "Paused already: mails.")
        response = self.client.post(self.url("pause_resume"), queue, follow=True)
        self.assertContains(response, "Resumed: mails.")
        self.assertFalse(Pause.objects.exists())
        self.assertEqual(LogEntry.objects.count(), 2)

    @override_settings(TASKS=tasks_setting(schedulable=["tests.app.tasks.add"]))
    def test_a_task_is_chosen_from_those_that_ran_or_may_be_scheduled(self):
        now = int(time.time())
        self.statistic(period=3600, begins=now - now % 3600)
        self.statistic(period=3600, begins=0, task_path="long.ago")
        known = self.get("pause_changelist").context["known"]
        self.assertEqual(known, {"default": ["tests.app.tasks.add", ECHO]})
        task = {"backend": "default", "task": ECHO}
        self.client.post(self.url("pause_pause"), task)
        page = self.get("pause_changelist")
        self.assertEqual(page.context["known"], {"default": ["tests.app.tasks.add"]})
        [(state, _, _)] = page.context["tasks"]
        self.assertEqual(state.row.task_path, ECHO)
        self.client.post(self.url("pause_resume"), task)
        self.assertFalse(Pause.objects.exists())

    def test_each_button_needs_its_permission(self):
        self.pause(queue_name="mails")
        self.pause(task_path=ECHO)
        self.job(queue_name="reports")
        for granted, shown in (
            ((), ()),
            (("add_pause",), ("pause",)),
            (("delete_pause",), ("resume",)),
        ):
            self.become("view_pause", *granted)
            page = self.get("pause_changelist")
            for act in ("pause", "resume"):
                with self.subTest(granted=granted, act=act):
                    url = self.url(f"pause_{act}")
                    if act in shown:
                        self.assertContains(page, f'action="{url}"')
                        continue
                    self.assertNotContains(page, f'action="{url}"')
                    response = self.client.post(url, {"backend": "default", "queue": "mails"})
                    self.assertEqual(response.status_code, 403)
                    self.assertEqual(Pause.objects.count(), 2)
        self.become("view_worker")
        self.assertEqual(self.client.get(self.url("pause_changelist")).status_code, 403)

    def test_crafted_posts_get_an_answer_that_names_what_is_wrong(self):
        for data, text in (
            ({}, "Name a queue or a task."),
            ({"backend": "default"}, "Name a queue or a task."),
            ({"backend": "default", "queue": "a", "task": "b.c"}, "Name a queue or a task."),
            ({"backend": "nowhere", "queue": "a"}, "nowhere"),
            ({"backend": "default", "queue": "x" * 1000}, "1000 characters"),
            ({"backend": "default", "queue": "a\0b"}, "NUL"),
            ({"backend": "default", "task": SCRIPT}, ESCAPED),
        ):
            with self.subTest(data=data):
                response = self.client.post(self.url("pause_pause"), data, follow=True)
                self.assertContains(response, text)
                self.assertNotContains(response, "<script>alert(")
        self.assertFalse(Pause.objects.exists())
        self.assertEqual(self.client.get(self.url("pause_pause")).status_code, 405)

    def test_names_are_escaped(self):
        self.job(queue_name=SCRIPT)
        self.pause(queue_name=SCRIPT, paused_by=SCRIPT)
        self.pause(task_path=SCRIPT, paused_by=SCRIPT)
        now = int(time.time())
        self.statistic(period=3600, begins=now - now % 3600, task_path=f"{SCRIPT}2")
        page = self.get("pause_changelist")
        self.assertContains(page, ESCAPED)
        self.assertNotContains(page, "<script>alert(")

    def test_the_number_of_queries_does_not_grow_with_jobs_and_statistics(self):
        counts = []
        for round in range(2):
            for number in range(10):
                self.job(queue_name="mails")
                self.statistic(task_path=f"a.b{round}{number}")
                self.pause(task_path=f"a.b{round}{number}")
                self.worker(f"w-{round}-{number}")
            with CaptureQueriesContext(connection) as queries:
                self.get("pause_changelist")
            counts.append(len(queries))
        self.assertEqual(counts[0], counts[1])
