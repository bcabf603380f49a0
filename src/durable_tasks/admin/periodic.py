"""The admin of periodic tasks."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from ..models import PeriodicTask
from .base import ReadOnlyAdmin, as_json


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(ReadOnlyAdmin):
    list_display = (
        *("name", "enabled", "spec", "time_zone", "next_run_at", "last_run_at", "task_path"),
        "queue_name",
    )
    list_filter = ("enabled", "backend_name")
    search_fields = ("name", "task_path")
    ordering = ("backend_name", "name")
    fields = (
        *("name", "task_path", "enabled", "spec", "time_zone", "next_run_at", "last_run_at"),
        *("last_job_id", "arguments", "keyword_arguments", "queue_name", "priority"),
        *("catch_up", "overlap", "backend_name"),
    )
    actions = ("enable", "disable")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and admin.ModelAdmin.has_change_permission(self, request)

    @admin.action(description=_("Enable the selected periodic tasks"), permissions=["change"])
    def enable(self, request: HttpRequest, periodic_tasks: "QuerySet[PeriodicTask]") -> None:
        self._switch(request, periodic_tasks, enabled=True)

    @admin.action(description=_("Disable the selected periodic tasks"), permissions=["change"])
    def disable(self, request: HttpRequest, periodic_tasks: "QuerySet[PeriodicTask]") -> None:
        self._switch(request, periodic_tasks, enabled=False)

    def _switch(
        self, request: HttpRequest, periodic_tasks: "QuerySet[PeriodicTask]", *, enabled: bool
    ) -> None:
        count = periodic_tasks.update(enabled=enabled)
        text = (
            ngettext("%d periodic task is enabled.", "%d periodic tasks are enabled.", count)
            if enabled
            else ngettext("%d periodic task is disabled.", "%d periodic tasks are disabled.", count)
        )
        self.message_user(request, text % count)

    @admin.display(description=_("arguments"))
    def arguments(self, periodic_task: PeriodicTask) -> SafeString:
        return as_json(periodic_task.args)

    @admin.display(description=_("keyword arguments"))
    def keyword_arguments(self, periodic_task: PeriodicTask) -> SafeString:
        return as_json(periodic_task.kwargs)
