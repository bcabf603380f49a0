"""The admin of workers."""

from django.contrib import admin
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..models import Worker
from .base import ReadOnlyAdmin


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("id", "backend_name", "queues", "host", "pid", "started_at", "seen")
    list_filter = ("backend_name",)
    fields = (*list_display, "capacity")

    @admin.display(description=_("last seen"), ordering="last_seen")
    def seen(self, worker: Worker) -> str:
        age = timezone.now().timestamp() - worker.last_seen / 1_000_000
        return _("%(seconds).0f s ago") % {"seconds": max(age, 0.0)}
