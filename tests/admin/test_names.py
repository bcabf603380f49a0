"""Queues of any name: they work, are paused, and are seen everywhere."""

from importlib.util import find_spec
from io import StringIO
from urllib.parse import urlencode

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import TransactionTestCase, override_settings

from durable_tasks import health, metrics, pauses
from durable_tasks.models import Job, Pause, Statistic
from durable_tasks.state import Look
from tests.app import tasks
from tests.helpers import tasks_setting, work

NAMES = (
    *("a b", "%s %d %%", 'it\'s "quoted"', "back\\slash", "-- comment", "{x} {{y}} {% z %}"),
    *("🐘" * 100, "ü" * 100, "a/b?c&d#e", "<b>", "all", "a,b", "\u202egnol"),
)


@pytest.mark.any_version
@override_settings(TASKS=tasks_setting())
class NameTests(TransactionTestCase):
    def test_each_name(self):
        user = get_user_model().objects.create_superuser("admin", "a@example.com", "secret")
        self.client.force_login(user)
        for name in NAMES:
            with self.subTest(name):
                Job.objects.all().delete()
                Statistic.objects.all().delete()
                id = tasks.echo.using(queue_name=name).enqueue(1).id
                self.assertTrue(pauses.pause_queue("default", name))
                work(queue_names=(name,))
                self.assertEqual(Job.objects.get(id=id).status, "READY")
                self.assertEqual([each.name for each in Look().queues()], [name])
                self.look(name)
                self.client.post(
                    "/admin/durable_tasks/pause/resume/", {"backend": "default", "queue": name}
                )
                self.assertFalse(Pause.objects.exists())
                work(queue_names=(name,))
                self.assertEqual(Job.objects.get(id=id).status, "SUCCESSFUL")
                self.assertEqual(Statistic.objects.get(period=0).queue_name, name)
                self.look(name)

    def look(self, name):
        for path in ("", "statistic/overview/", "pause/", "worker/"):
            for query in ("", f"?{urlencode({'queue': name})}" if path[:2] in ("", "st") else ""):
                answer = self.client.get(f"/admin/durable_tasks/{path}{query}")
                self.assertEqual(answer.status_code, 200)
        page = self.client.get("/admin/durable_tasks/job/", {"queue_name": name})
        self.assertEqual([row.job.queue_name for row in page.context["rows"]], [name])
        health.report()
        call_command("tasks_status", stdout=StringIO())
        if find_spec("prometheus_client"):
            from prometheus_client import CollectorRegistry, generate_latest
            from prometheus_client.parser import text_string_to_metric_families

            registry = CollectorRegistry(auto_describe=False)
            registry.register(metrics.Collector())
            text = generate_latest(registry).decode()
            families = {each.name: each for each in text_string_to_metric_families(text)}
            labels = [each.labels["queue"] for each in families["durable_tasks_jobs"].samples]
            self.assertLessEqual(set(labels), {name})
