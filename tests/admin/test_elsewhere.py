"""The pages of the machine while a router keeps the jobs in another database."""

from django.test import override_settings

from durable_tasks.models import Job, Pause, PeriodicTask, Worker
from tests.helpers import from_django, tasks_setting

from .base import AdminTests

ADD = "tests.app.tasks.add"


@override_settings(
    DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"], TASKS=tasks_setting(schedulable=[ADD])
)
class ElsewhereTests(AdminTests):
    databases = {"default", "other"}

    def post(self, page, *args, **data):
        response = self.client.post(self.url(page, *args), data, follow=True)
        self.assertEqual(response.status_code, 200)
        return response

    def test_workers(self):
        self.worker()
        self.job(status="RUNNING", worker_id="w-1")
        self.assertContains(self.get("worker_changelist"), "Working")
        self.post("worker_act", "w-1", "drain")
        self.assertEqual(Worker.objects.using("other").get().wish, "drain")
        self.assertContains(self.get("worker_change", "w-1"), "Runs now: 1")

    def test_periodic_tasks(self):
        form = {"backend_name": "default", "name": "mine", "enabled": "on", "task_path": ADD}
        form |= {"spec": "1h", "args": "[1]", "catch_up": "latest", "overlap": "allow"}
        self.post("periodictask_add", **form)
        row = PeriodicTask.objects.using("other").get()
        self.post("periodictask_change", row.pk, **form | {"args": "[2]"})
        self.post("periodictask_act", row.pk, "run")
        self.assertEqual(Job.objects.using("other").get().args, [2])
        self.assertContains(self.get("periodictask_changelist"), "<rect")
        self.post("periodictask_act", row.pk, "disable")
        self.assertFalse(PeriodicTask.objects.using("other").get().enabled)
        self.post("periodictask_delete", row.pk, post="yes")
        self.assertFalse(PeriodicTask.objects.using("other").exists())

    def test_queues(self):
        self.job(queue_name="mails")
        self.assertContains(self.get("pause_changelist"), "mails")
        self.post("pause_pause", backend="default", queue="mails")
        self.assertTrue(Pause.objects.using("other").exists())
        self.assertFalse(Pause.objects.using("default").exists())
        self.post("pause_resume", backend="default", queue="mails")
        self.assertFalse(Pause.objects.using("other").exists())


@override_settings(
    TASKS={
        **tasks_setting(schedulable=[ADD]),
        "second": {**tasks_setting(schedulable=["tests.app.tasks.echo"])["default"]},
        "not ours": {"BACKEND": from_django("dummy.DummyBackend"), "QUEUES": []},
    }
)
class SeveralBackendsTests(AdminTests):
    def test_each_has_its_own_queues_workers_and_schedules(self):
        self.worker("w-1")
        self.worker("w-2", backend_name="second")
        page = self.get("pause_changelist")
        self.assertEqual(list(page.context["backends"]), ["default", "second"])
        self.assertContains(self.get("worker_changelist", backend_name="second"), "w-2")
        self.assertNotContains(self.get("worker_changelist", backend_name="second"), "w-1")
        form = {"backend_name": "second", "name": "mine", "enabled": "on", "task_path": ADD}
        form |= {"spec": "1h", "args": "[1]", "catch_up": "latest", "overlap": "allow"}
        page = self.client.post(self.url("periodictask_add"), form)
        self.assertContains(page, "The backend second does not offer this task.")
        form["task_path"] = "tests.app.tasks.echo"
        self.client.post(self.url("periodictask_add"), form)
        self.assertEqual(PeriodicTask.objects.get().backend_name, "second")
