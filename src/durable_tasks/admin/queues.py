"""The admin of queues: how deep they are and who serves them; to pause queues and tasks."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from .. import history, pauses
from ..models import Pause
from ..state import Count, Look, PauseState, QueueState, WorkerState
from .base import ago
from .figures import NONE, rough
from .machine import MachineAdmin, dotted

# Seconds for which throughput is counted.
HOUR = 3600
# Jobs that wait so long in a queue that nobody serves, in seconds, are an alarm.
ALARM = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    """One queue as the page has it; ``links``: to the lists of its jobs, by status."""

    state: QueueState
    hour: Count
    workers: int
    waiting: str
    since: SafeString | str
    links: dict[str, str]

    @property
    def is_alarming(self) -> bool:
        """Whether jobs wait that nobody will run."""
        return not self.workers and self.state.waiting > ALARM


@admin.register(Pause)
class QueueAdmin(MachineAdmin):
    """Its list is that of the queues, whether or not they are paused."""

    def get_urls(self) -> list[URLPattern]:
        view, name = self.admin_site.admin_view, "durable_tasks_pause_{}"
        return [
            path("", view(self.changelist_view), name=name.format("changelist")),
            path("pause/", view(self.pause_view), name=name.format("pause")),
            path("resume/", view(self.resume_view), name=name.format("resume")),
        ]

    def may(self, request: HttpRequest, act: str) -> bool:
        return bool(request.user.has_perm(f"durable_tasks.{act}_pause"))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, "view")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        look = Look()
        tasks = [state for state in look.paused() if state.row.task_path]
        may_pause, may_resume = self.may(request, "add"), self.may(request, "delete")
        context = {
            **self.admin_site.each_context(request),
            "title": _("Queues"),
            "opts": self.opts,
            "media": self.media,
            "backends": self._rows_by_backend(look),
            "tasks": [
                (state, dotted(state.row.task_path), ago(state.row.paused_at, look.at))
                for state in tasks
            ],
            "known": _known_tasks(look, tasks) if may_pause else {},
            "may_pause": may_pause,
            "may_resume": may_resume,
            "pause_url": self._url("pause"),
            "resume_url": self._url("resume"),
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/durable_tasks/pause/change_list.html", context)

    def _url(self, page: str) -> str:
        return reverse(f"{self.admin_site.name}:durable_tasks_pause_{page}")

    def _rows_by_backend(self, look: Look) -> dict[str, list[Row]]:
        ended = history.ended_by_queue(HOUR, using=look.using, now=look.seconds)
        workers: dict[str, list[WorkerState]] = defaultdict(list)
        for worker in look.workers():
            if not worker.is_lost and worker.row.wish is None:
                workers[worker.row.backend_name].append(worker)
        found: dict[str, list[Row]] = {alias: [] for alias in look.backends}
        for state in look.queues():
            serving = sum(each.serves(state.name) for each in workers[state.backend_name])
            hour = ended.get((state.backend_name, state.name), 0)
            found[state.backend_name].append(self._row(look, state, hour, serving))
        return found

    def _row(self, look: Look, state: QueueState, hour: int, serving: int) -> Row:
        jobs = reverse(f"{self.admin_site.name}:durable_tasks_job_changelist")
        queue = {"backend_name": state.backend_name, "queue_name": state.name}
        links = {
            status: f"{jobs}?{urlencode({**queue, 'status': status})}"
            for status in ("READY", "SCHEDULED", "RUNNING", "PAUSED")
        }
        return Row(
            state,
            Count(hour),
            serving,
            waiting=NONE if state.oldest_due is None else rough(state.waiting),
            since="" if state.paused_at is None else ago(state.paused_at, look.at),
            links=links,
        )

    # To pause and to resume: one form each, for a queue or a task

    def pause_view(self, request: HttpRequest) -> HttpResponse:
        return self._change(request, "add")

    def resume_view(self, request: HttpRequest) -> HttpResponse:
        return self._change(request, "delete")

    def _change(self, request: HttpRequest, act: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.may(request, act) and self.has_view_permission(request)):
            raise PermissionDenied
        backend_name = request.POST.get("backend", "")
        queue_name, task_path = request.POST.get("queue", ""), request.POST.get("task", "")
        by = request.user.get_username()
        try:
            if bool(queue_name) == bool(task_path):
                raise ValueError(_("Name a queue or a task."))
            if act == "delete":
                done = pauses.resume(
                    backend_name, queue_name=queue_name, task_path=task_path, by=by
                )
            elif queue_name:
                done = pauses.pause_queue(backend_name, queue_name, by=by)
            else:
                done = pauses.pause_task(backend_name, task_path, by=by)
        except ValueError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self._say(request, act, backend_name, queue_name, task_path, done=done)
        return HttpResponseRedirect(self._url("changelist"))

    def _say(
        self,
        request: HttpRequest,
        act: str,
        backend_name: str,
        queue_name: str,
        task_path: str,
        *,
        done: bool,
    ) -> None:
        name = {"name": queue_name or task_path}
        if not done:
            text = _("Paused already: %(name)s.") if act == "add" else _("Not paused: %(name)s.")
            self.message_user(request, text % name, messages.WARNING)
            return
        text = (
            _("Paused: %(name)s. What runs goes on; no more of its jobs are started.")
            if act == "add"
            else _("Resumed: %(name)s.")
        )
        pause = Pause(pk=0, backend_name=backend_name, queue_name=queue_name, task_path=task_path)
        self.log_change(request, pause, "Paused." if act == "add" else "Resumed.")
        self.message_user(request, text % name)


def _known_tasks(look: Look, paused: list[PauseState]) -> dict[str, list[str]]:
    """Return by backend the tasks to choose from: that ran in the last week, or may be scheduled.

    Those that are paused are left out.
    """
    known = {
        alias: history.task_paths("7d", alias, using=look.using, now=look.seconds)
        | set(each.durable_options.schedulable)
        for alias, each in look.backends.items()
    }
    for state in paused:
        known[state.row.backend_name].discard(state.row.task_path)
    return {alias: sorted(paths) for alias, paths in known.items() if paths}
