"""The Django app."""

from importlib import import_module
from importlib.util import find_spec

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DurableTasksConfig(AppConfig):
    name = "durable_tasks"
    verbose_name = _("Durable tasks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers them)
        from .adoption import checks as adoption_checks  # noqa: F401

        # Those of the drop-ins, whose own apps may have been overwritten.
        if find_spec("durable_tasks_dropins") is not None:
            import_module("durable_tasks_dropins.checks")
