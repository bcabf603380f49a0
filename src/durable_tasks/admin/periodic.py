"""The admin of periodic tasks: when they run and ran; to switch, to run, and to make them."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import admin, messages
from django.db import Error as DatabaseFault
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..chores.schedule import LAST_JOBS, Timetable
from ..models import PeriodicTask
from ..redaction import redacted
from ..state import LATE_AFTER, Look, durable_backends
from ..timetable import next_time
from .bars import SHOWN, Run, bars, runs_of
from .base import ago, as_json, secrets_of, when
from .figures import NONE, rough
from .in_words import in_words
from .machine import MachineAdmin, dotted, pill
from .periodic_form import CATCH_UP, OVERLAP, PeriodicTaskForm, schedulable

# Times that the page of a periodic task shows.
NEXT_TIMES = 5


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(MachineAdmin):
    acts = {
        "enable": "change_periodictask",
        "disable": "change_periodictask",
        "run": "run_periodictask",
    }
    form = PeriodicTaskForm
    list_display = ("title", "state", "schedule", "next_run", "last_runs")
    search_fields = ("name", "task_path")
    search_help_text = gettext_lazy("Name or task")
    ordering = ("backend_name", "name")
    list_per_page = 50
    actions = ("enable", "disable", "run_now")
    change_form_template = "admin/durable_tasks/periodictask/change_form.html"

    # Permissions: what the settings say can't be edited, but switched off

    def has_add_permission(self, request: HttpRequest) -> bool:
        return admin.ModelAdmin.has_add_permission(self, request) and bool(schedulable())

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may = admin.ModelAdmin.has_change_permission(self, request, obj)
        return may and (obj is None or (_is_ours(obj) and obj.backend_name in schedulable()))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may = admin.ModelAdmin.has_delete_permission(self, request, obj)
        return may and (obj is None or _is_ours(obj))

    def has_run_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "run")

    def get_list_filter(self, request: HttpRequest) -> Any:
        # Its place is dear: the list needs the width.
        return ("backend_name",) if len(durable_backends()) > 1 else ()

    # Columns

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        may_add = admin.ModelAdmin.has_add_permission(self, request)
        context = {"nothing_schedulable": may_add and not schedulable(), **(extra_context or {})}
        return super().changelist_view(request, context)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changes = super().get_changelist_instance(request)
        changes.result_list = _with_runs(changes.result_list, SHOWN)
        return changes

    @admin.display(description=gettext_lazy("name"), ordering="name")
    def title(self, row: PeriodicTask) -> SafeString:
        if row.task_path == row.name:
            return dotted(row.name)
        return format_html(
            '{}<br><span class="dt-under">{}</span>', row.name, dotted(row.task_path)
        )

    @admin.display(description=gettext_lazy("schedule"), ordering="spec")
    def schedule(self, row: PeriodicTask) -> SafeString:
        words = in_words(row.spec)
        if words == row.spec:
            return format_html('<span class="dt-code">{}</span>', row.spec)
        return format_html('{}<br><span class="dt-code dt-quiet">{}</span>', words, row.spec)

    @admin.display(description=gettext_lazy("state"))
    def state(self, row: Any) -> SafeString:
        made = _("made in the admin") if _is_ours(row) else _("made in the settings")
        said = [self.how(row), format_html('<span class="dt-quiet dt-small">{}</span>', made)]
        if _lateness(row) > LATE_AFTER and (problem := _next_times(row)[1]):
            said.append(format_html('<span class="dt-small">{}</span>', problem))
        return format_html_join(SafeString("<br>"), "{}", ([each] for each in said))

    def how(self, row: Any) -> SafeString:
        """Return how it is."""
        if not row.enabled:
            return pill("paused", _("disabled"))
        if row.next_run_at is None:
            return pill("cancelled", _("over"))
        if (late := _lateness(row)) > LATE_AFTER:
            return pill("failed", _("late by %(length)s") % {"length": rough(late)})
        return pill("successful", _("enabled"))

    @admin.display(description=gettext_lazy("next run"), ordering="next_run_at")
    def next_run(self, row: Any) -> SafeString:
        there = _there(row.next_run_at, row.time_zone)
        return format_html(
            '<div class="dt-moment">{}</div>{}', when(row.next_run_at, row.dt_now), there
        )

    def last_run(self, row: Any) -> SafeString:
        if row.last_run_at is None:
            return format_html('<span class="dt-quiet dt-nowrap">{}</span>', _("never"))
        text = ago(row.last_run_at, row.dt_now)
        if row.last_job_id is None:
            return text
        run = row.dt_runs[-1] if row.dt_runs else Run("")
        if not run.status:  # its job is gone
            return text
        return format_html('<a href="{}">{}</a>', self.job_url(run.id), text)

    @admin.display(description=gettext_lazy("last runs"), ordering="last_run_at")
    def last_runs(self, row: Any) -> SafeString:
        return format_html("{}{}", bars(row.dt_runs) if row.dt_runs else "", self.last_run(row))

    def job_url(self, id: Any) -> str:
        return reverse(f"{self.admin_site.name}:durable_tasks_job_change", args=[id])

    # One periodic task

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            kwargs["form"] = ModelForm  # nothing can be typed in
        return super().get_form(request, obj, change, **kwargs)

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        original = context.get("original")
        if original is not None:
            # As it is: the form may have changed the copy that it was given.
            found = self.get_queryset(request).get(pk=original.pk)
            [row] = _with_runs([found], LAST_JOBS)
            context.update(self._page(request, row))
        return super().render_change_form(request, context, *args, **kwargs)

    def _page(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        switch = "disable" if row.enabled else "enable"
        buttons = self.buttons(request, row, "run", switch)
        times, problem = _next_times(row)
        job_list = reverse(f"{self.admin_site.name}:durable_tasks_job_changelist")
        catch_up, overlap = dict(CATCH_UP), dict(OVERLAP)
        secrets = secrets_of(row.backend_name)
        runs = [
            (run, when(run.due, row.dt_now), when(run.began, row.dt_now), self.job_url(run.id))
            for run in reversed(row.dt_runs)
        ]
        return {
            "row": row,
            "state": self.how(row),
            "path": dotted(row.task_path),
            "buttons": buttons,
            "times": times,
            "problem": problem,
            "runs": runs if request.user.has_perm("durable_tasks.view_job") else [],
            "bars": bars(row.dt_runs),
            "all_jobs": f"{job_list}?{urlencode({'schedule': row.name})}",
            "from_settings": not _is_ours(row),
            "facts": [
                (_("Schedule"), self.schedule(row)),
                (_("Time zone"), row.time_zone or NONE),
                (_("Queue"), row.queue_name),
                (_("Priority"), str(row.priority)),
                (_("After times at which no worker ran"), catch_up.get(row.catch_up, row.catch_up)),
                (_("If the run before has not ended"), overlap.get(row.overlap, row.overlap)),
                (_("Backend"), row.backend_name),
            ],
            "calls": [
                (_("Arguments"), as_json(redacted(row.args, secrets))),
                (_("Keyword arguments"), as_json(redacted(row.kwargs, secrets))),
            ]
            if row.args is not None
            else [],
        }

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.save(using=self.get_queryset(request).db)
            return
        # Not what a worker may write at this very moment, such as when it ran last.
        columns = {*form.Meta.fields, "definition"} | ({"next_run_at"} if form.moves else set())
        obj.save(using=self.get_queryset(request).db, update_fields=columns)

    # Acts

    def act(self, request: HttpRequest, obj: PeriodicTask, act: str) -> str:
        if act == "run":
            self._run(request, obj)
        else:
            self._switch(request, [obj], enabled=act == "enable")
        return self.page_of(obj)

    @admin.action(description=gettext_lazy("Enable the selected periodic tasks"))
    def enable(self, request: HttpRequest, rows: "QuerySet[PeriodicTask]") -> None:
        self._switch(request, rows, enabled=True)

    @admin.action(description=gettext_lazy("Disable the selected periodic tasks"))
    def disable(self, request: HttpRequest, rows: "QuerySet[PeriodicTask]") -> None:
        self._switch(request, rows, enabled=False)

    enable.allowed_permissions = disable.allowed_permissions = ("change",)  # type: ignore[attr-defined]

    @admin.action(
        description=gettext_lazy("Run the selected periodic tasks now"), permissions=["run"]
    )
    def run_now(self, request: HttpRequest, rows: "QuerySet[PeriodicTask]") -> None:
        for row in rows:
            self._run(request, row)

    def _switch(self, request: HttpRequest, rows: Any, *, enabled: bool) -> None:
        note = "Enabled." if enabled else "Disabled."
        count = 0
        for row in rows:
            here = self.get_queryset(request).filter(pk=row.pk)
            if here.exclude(enabled=enabled).update(enabled=enabled):
                self.log_change(request, row, note)
                count += 1
        text = (
            ngettext("%d periodic task is enabled.", "%d periodic tasks are enabled.", count)
            if enabled
            else ngettext("%d periodic task is disabled.", "%d periodic tasks are disabled.", count)
        )
        self.message_user(request, text % count)

    def _run(self, request: HttpRequest, row: PeriodicTask) -> None:
        names = {"name": row.name}
        try:
            timetable, now = _timetable(row), Look().at
            id = timetable.run_now(row, now)
        except DatabaseFault:
            raise
        except Exception as error:
            names["error"] = str(error)
            text = _("%(name)s can't be run: %(error)s") % names
            self.message_user(request, text, messages.ERROR)
            return
        if id is None:
            text = _("%(name)s was not run: its last run has not ended yet.") % names
            self.message_user(request, text, messages.WARNING)
            return
        self.log_change(request, row, f"Run now, as job {id}.")
        text = format_html(
            '{} <a href="{}">{}</a>', _("%(name)s runs:") % names, self.job_url(id), id
        )
        self.message_user(request, text)


def _is_ours(row: PeriodicTask) -> bool:
    return row.source == PeriodicTask.DATABASE


def _with_runs(rows: Any, most: int) -> list[Any]:
    """Return these rows, each with its last runs and the database's time."""
    found, now = list(rows), Look().at
    runs = runs_of(found, most)
    for row in found:
        row.dt_runs, row.dt_now = runs[row.pk], now
    return found


def _timetable(row: PeriodicTask) -> Timetable:
    """Return the timetable of a row's backend. Raises ``LookupError`` if it is not ours."""
    backend = durable_backends().get(row.backend_name)
    if backend is None:
        raise LookupError(f"The backend {row.backend_name!r} is not in TASKS.")
    return Timetable.of(row.backend_name, backend.durable_options)


def _lateness(row: Any) -> float:
    """Return the seconds since a row should have run; below 0 before that, 0 if it is not to."""
    if not row.enabled or row.next_run_at is None:
        return 0.0
    late: float = (row.dt_now - row.next_run_at).total_seconds()
    return late


def _next_times(row: Any) -> tuple[list[tuple[SafeString, SafeString]], str]:
    """Return the next times of a row that its worker will know, and what keeps it from them."""
    try:
        schedule = _timetable(row).entry_for(row).when
        times: list[datetime] = []
        after = row.next_run_at
        while after is not None and len(times) < NEXT_TIMES:
            times.append(after)
            after = next_time(schedule, after)
    except Exception as error:  # the project's code, or its settings
        return [], str(error)
    return [(when(time, row.dt_now), _there(time, row.time_zone)) for time in times], ""


def _there(at: datetime | None, zone: str) -> SafeString:
    """Return what the clock shows in the schedule's zone, if that is not the viewer's."""
    if at is None or not zone or timezone.is_naive(at):
        return SafeString()
    try:
        there = at.astimezone(ZoneInfo(zone))
    except (KeyError, ValueError, OSError):
        return SafeString()
    if there.utcoffset() == timezone.localtime(at).utcoffset():
        return SafeString()
    return format_html(
        '<span class="dt-quiet dt-there">{}, {}</span>', date_format(there, "j M, H:i"), zone
    )
