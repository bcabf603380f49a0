import os

from django.apps import AppConfig


class TestsAppConfig(AppConfig):
    name = "tests.app"
    label = "tests_app"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self):
        if grace := os.environ.get("DURABLE_TASKS_TEST_GRACE"):
            from durable_tasks.worker import interrupts

            interrupts.GRACE = float(grace)
        if every := os.environ.get("DURABLE_TASKS_TEST_PRUNE"):
            from durable_tasks.chores import prune

            prune.EVERY = float(every)
        if grace := os.environ.get("DURABLE_TASKS_TEST_SERVE_GRACE"):
            from durable_tasks.contrib.serve.management.commands import serve

            serve.GRACE = int(grace)
