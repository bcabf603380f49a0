from django.utils import timezone

from durable_tasks.models import PeriodicTask

from .base import ESCAPED, SCRIPT, AdminTests


class PeriodicTaskTests(AdminTests):
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
