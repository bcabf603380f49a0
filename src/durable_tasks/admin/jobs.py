"""The admin of jobs."""

from datetime import timedelta

from django.contrib import admin
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from ..models import Job
from .base import ReadOnlyAdmin, as_json


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
        return as_json(job.args)

    @admin.display(description=_("keyword arguments"))
    def keyword_arguments(self, job: Job) -> SafeString:
        return as_json(job.kwargs)

    @admin.display(description=_("return value"))
    def result(self, job: Job) -> SafeString:
        return as_json(job.return_value)

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
