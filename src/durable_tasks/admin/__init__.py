"""The admin: jobs and workers, to look at."""

import json
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from ..models import Job, PeriodicTask, Worker


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What the engine writes is not for editing."""

    show_full_result_count = False  # counting a million rows helps nobody

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = (
        "task_path",
        "status",
        "queue_name",
        "priority",
        "enqueued_at",
        "run_at",
        "run_time",
        "attempts",
        "worker_id",
    )
    list_filter = ("status", "queue_name", "backend_name")
    search_fields = ("=id", "task_path")
    ordering = ("-enqueued_at",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("id", "task_path", "status", "queue_name", "backend_name", "priority"),
                    *("worker_id", "schedule"),
                )
            },
        ),
        (_("Call and result"), {"fields": ("arguments", "keyword_arguments", "result")}),
        (
            _("Times"),
            {
                "fields": (
                    *("enqueued_at", "run_after", "run_at", "started_at", "last_attempted_at"),
                    *("finished_at", "run_time", "delete_after", "cancel_requested_at"),
                )
            },
        ),
        (_("Attempts"), {"fields": ("attempts", "lost", "tracebacks")}),
    )

    @admin.display(description=_("run time"))
    def run_time(self, job: Job) -> timedelta | None:
        if job.last_attempted_at is None or job.finished_at is None:
            return None
        return job.finished_at - job.last_attempted_at

    @admin.display(description=_("arguments"))
    def arguments(self, job: Job) -> SafeString:
        return _json(job.args)

    @admin.display(description=_("keyword arguments"))
    def keyword_arguments(self, job: Job) -> SafeString:
        return _json(job.kwargs)

    @admin.display(description=_("return value"))
    def result(self, job: Job) -> SafeString:
        return _json(job.return_value)

    @admin.display(description=_("errors"))
    def tracebacks(self, job: Job) -> SafeString:
        return format_html_join(
            "",
            "<p>{} {}, {}</p><pre>{}</pre>",
            (
                (_("Attempt"), error["attempt"], error["worker_id"] or "", error["traceback"])
                for error in job.errors or ()
                if error["exception_class_path"]
            ),
        )


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
        return _json(periodic_task.args)

    @admin.display(description=_("keyword arguments"))
    def keyword_arguments(self, periodic_task: PeriodicTask) -> SafeString:
        return _json(periodic_task.kwargs)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("id", "backend_name", "queues", "host", "pid", "started_at", "seen")
    list_filter = ("backend_name",)
    fields = (*list_display, "capacity")

    @admin.display(description=_("last seen"), ordering="last_seen")
    def seen(self, worker: Worker) -> str:
        age = timezone.now().timestamp() - worker.last_seen / 1_000_000
        return _("%(seconds).0f s ago") % {"seconds": max(age, 0.0)}


def _json(value: Any) -> SafeString:
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False))
