"""The admin of workers: what it shows, who may do what, and that real workers obey."""

import time

from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from durable_tasks.admin.workers import describe
from durable_tasks.models import Job, Wish, Worker
from durable_tasks.state import Count, WorkerState
from tests.app import tasks
from tests.helpers import WorkerTestCase, ended, eventually, held, let_go, running_worker

from .base import ESCAPED, SCRIPT, AdminTests


class WorkerPageTests(AdminTests):
    def test_the_list_says_how_each_worker_is_and_what_it_has(self):
        self.worker("busy", threads=4, coroutines=50, memory=64 * 1024 * 1024, version="1.2.3")
        self.worker("lazy", queues="mails, reports", last_seen=int(time.time() * 1e6))
        self.job(status="RUNNING", worker_id="busy", last_attempted_at=timezone.now())
        page = self.get("worker_changelist")
        for text in ("Working", "Idle", "mails, reports", "4 threads", "50 coroutines", "1.2.3"):
            self.assertContains(page, text)
        self.assertContains(page, "64\xa0MiB")
        self.assertRegex(page.content.decode(), r"\d+\ss ago")
        self.assertNotContains(page, "&quot;mails")

    def test_a_page_says_what_the_worker_runs_with_links(self):
        self.worker(queues="all")
        job = self.job(status="RUNNING", worker_id="w-1", last_attempted_at=timezone.now())
        others = self.job(status="RUNNING", worker_id="w-2")
        page = self.get("worker_change", "w-1")
        self.assertContains(page, self.url("job_change", job.id))
        self.assertNotContains(page, self.url("job_change", others.id))
        self.assertContains(page, "?worker_id=w-1")
        for text in ("a-host", "4242", "Runs now: 1", "Drain", "Stop"):
            self.assertContains(page, text)

    def test_a_lost_worker_is_not_said_to_run_anything(self):
        self.worker(last_seen=0)
        self.job(status="RUNNING", worker_id="w-1")
        page = self.get("worker_change", "w-1")
        self.assertContains(page, "Ran when it was lost: 1")
        self.assertNotContains(page, "Runs now")

    def test_each_state_has_its_word(self):
        def said(wish=None, running=0, age=0.0, *, silent=False, lost=False):
            row = Worker(wish=wish)
            return describe(WorkerState(row, age, silent, lost, Count(running)))[1]

        self.assertEqual(said(), "idle")
        self.assertEqual(said(running=1), "working")
        self.assertEqual(said(Wish.DRAIN, running=1), "draining")
        self.assertEqual(said(Wish.DRAIN), "drained")
        self.assertEqual(said(Wish.STOP, running=1), "stopping")
        self.assertEqual(said(age=20.0, silent=True), "silent for 20\xa0s")
        self.assertEqual(said(age=40.0, silent=True, lost=True), "lost")

    def test_a_worker_of_a_backend_that_is_gone_is_shown_too(self):
        self.worker("left", backend_name="gone")
        self.assertContains(self.get("worker_changelist"), "left")
        self.get("worker_change", "left")

    def test_names_are_escaped_and_work_in_addresses(self):
        name = f"{SCRIPT}/_1?&#"
        self.worker(name, host=SCRIPT, queues=SCRIPT, version=SCRIPT)
        self.job(status="RUNNING", worker_id=name, task_path=SCRIPT, queue_name=SCRIPT)
        from django.contrib.admin.utils import quote

        for page in (self.get("worker_changelist"), self.get("worker_change", quote(name))):
            self.assertContains(page, ESCAPED)
            self.assertNotContains(page, "<script>alert(")
        self.client.post(self.url("worker_act", quote(name), "drain"))
        self.assertEqual(Worker.objects.get().wish, Wish.DRAIN)

    def test_the_number_of_queries_does_not_grow(self):
        counts = []
        for round in range(2):
            for number in range(10):
                self.worker(f"w-{round}-{number}")
                self.job(status="RUNNING", worker_id=f"w-{round}-{number}")
            with CaptureQueriesContext(connection) as queries:
                self.get("worker_changelist")
            counts.append(len(queries))
        self.assertEqual(counts[0], counts[1])
        self.assertLess(counts[0], 13)


class WorkerPermissionTests(AdminTests):
    def test_buttons_are_there_for_those_who_may_and_work(self):
        self.worker()
        user = self.become("view_worker", "drain_worker", "stop_worker")
        for act, wish in (("drain", Wish.DRAIN), ("go_on", None), ("stop", Wish.STOP)):
            url = self.url("worker_act", "w-1", act)
            self.assertContains(self.get("worker_change", "w-1"), url)
            response = self.client.post(url, follow=True)
            self.assertContains(response, "1 worker was asked to")
            self.assertEqual(Worker.objects.get().wish, wish)
        self.assertEqual(LogEntry.objects.filter(user=user, object_id="w-1").count(), 3)
        page = self.get("worker_change", "w-1")
        self.assertContains(page, "Stopping")
        self.assertNotContains(page, "/act/")  # too late for something else
        self.assertContains(
            self.client.post(self.url("worker_act", "w-1", "drain"), follow=True),
            "No worker was asked.",
        )

    def test_without_the_permission_there_is_no_button_and_a_crafted_post_is_refused(self):
        self.worker()
        for granted, refused in (
            ((), ("drain", "go_on", "stop")),
            (("stop_worker",), ("drain", "go_on")),
            (("drain_worker",), ("stop",)),
        ):
            self.become("view_worker", *granted)
            page = self.get("worker_change", "w-1")
            changelist = self.get("worker_changelist")
            for act in refused:
                with self.subTest(granted=granted, act=act):
                    url = self.url("worker_act", "w-1", act)
                    self.assertNotContains(page, url)
                    self.assertNotContains(changelist, f'value="{act}"')
                    self.assertEqual(self.client.post(url).status_code, 403)
                    data = {"action": act, "_selected_action": ["w-1"]}
                    self.client.post(self.url("worker_changelist"), data)
                    self.assertIsNone(Worker.objects.get().wish)
        self.assertFalse(LogEntry.objects.exists())

    def test_only_a_post_acts_on_a_worker_that_is_there(self):
        self.worker()
        self.assertEqual(self.client.get(self.url("worker_act", "w-1", "stop")).status_code, 405)
        self.assertEqual(
            self.client.post(self.url("worker_act", "w-1", "explode")).status_code, 403
        )
        response = self.client.post(self.url("worker_act", "nobody", "stop"), follow=True)
        self.assertContains(response, "nobody")
        self.assertIsNone(Worker.objects.get().wish)

    def test_the_selected_ones_are_asked(self):
        for id in ("w-1", "w-2", "w-3"):
            self.worker(id)
        data = {"action": "drain", "_selected_action": ["w-1", "w-2"]}
        response = self.client.post(self.url("worker_changelist"), data, follow=True)
        self.assertContains(response, "2 workers were asked to drain.")
        self.assertEqual(
            dict(Worker.objects.values_list("id", "wish")),
            {"w-1": "drain", "w-2": "drain", "w-3": None},
        )

    def test_to_stop_the_selected_ones_is_asked_about_first(self):
        for id in ("w-1", "w-2", "w-3"):
            self.worker(id)
        self.become("view_worker", "stop_worker")
        url = f"{self.url('worker_changelist')}?q=w-"
        data = {"action": "stop", "_selected_action": ["w-1", "w-2"]}
        page = self.client.post(url, data)
        self.assertContains(page, "Are you sure?")
        self.assertContains(page, "w-1, w-2")
        self.assertContains(page, f'action="{url}"')
        self.assertEqual(page.context["ids"], ["w-1", "w-2"])
        self.assertFalse(Worker.objects.filter(wish__isnull=False).exists())
        page = self.client.post(url, {**data, "confirmed": "yes"}, follow=True)
        self.assertContains(page, "2 workers were asked to stop.")
        self.assertEqual(Worker.objects.filter(wish=Wish.STOP).count(), 2)
        self.become("view_worker", "drain_worker")
        data = {**data, "_selected_action": ["w-3"], "confirmed": "yes"}
        self.client.post(url, data)
        self.assertIsNone(Worker.objects.get(id="w-3").wish)


class ObeyingTests(WorkerTestCase):
    available_apps = None  # a user and a session, too

    def test_a_real_worker_does_what_its_buttons_say(self):
        user = get_user_model().objects.create_superuser("admin", "a@example.com", "secret")
        self.client.force_login(user)

        def press(act):
            url = reverse("admin:durable_tasks_worker_act", args=["w", act])
            self.assertEqual(self.client.post(url).status_code, 302)

        with running_worker("--worker-id", "w", options={"worker_timeout": 1}) as worker:
            running = tasks.hold.enqueue("first")
            held("first")
            press("drain")
            worker.says("was asked to drain")
            waiting = tasks.echo.enqueue()
            let_go("first")
            ended(running)
            page = reverse("admin:durable_tasks_worker_change", args=["w"])
            eventually(lambda: "Drained" in self.client.get(page).content.decode())
            self.assertEqual(Job.objects.get(id=waiting.id).status, "READY")
            press("go_on")
            ended(waiting)
            press("stop")
            self.assertEqual(worker.wait(), 0)
