"""The admin of workers: who is there and what they do; to drain and to stop them."""

from datetime import datetime
from types import SimpleNamespace
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..models import Job, Wish, Worker
from ..state import Count, Look, WorkerState
from ..wishes import ask
from .base import ago, jobs_database
from .figures import NONE, rough
from .machine import MachineAdmin, dotted, pill

# Jobs that the page of a worker shows.
MOST_JOBS = 100
MIB = 1024 * 1024


@admin.register(Worker)
class WorkerAdmin(MachineAdmin):
    acts = {"drain": "drain_worker", "go_on": "drain_worker", "stop": "stop_worker"}
    list_display = (
        *("name", "state", "seen", "serves", "slots", "running", "memory_used", "version"),
        "started",
    )
    search_fields = ("id", "host")
    search_help_text = gettext_lazy("Worker id or host")
    ordering = ("backend_name", "id")
    actions = ("drain", "go_on", "stop")
    change_form_template = "admin/durable_tasks/worker/change_form.html"

    def get_list_filter(self, request: HttpRequest) -> Any:
        return ("backend_name",) if len(Look().backends) > 1 else ()

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changes = super().get_changelist_instance(request)
        changes.result_list = _with_states(changes.result_list)
        return changes

    # Columns

    @admin.display(description=gettext_lazy("worker"), ordering="id")
    def name(self, worker: Worker) -> SafeString:
        process = self.process(worker)
        return format_html('{}<br><span class="dt-under">{}</span>', worker.id, process)

    @admin.display(description=gettext_lazy("state"))
    def state(self, worker: Worker) -> SafeString:
        return pill(*describe(_state(worker)))

    @admin.display(description=gettext_lazy("last seen"), ordering="last_seen")
    def seen(self, worker: Worker) -> SafeString:
        age = _("%s ago") % rough(_state(worker).age)
        return format_html('<span class="dt-nowrap">{}</span>', age)

    @admin.display(description=gettext_lazy("queues"))
    def serves(self, worker: Worker) -> str:
        return _("all") if worker.queues == "all" else str(worker.queues)

    @admin.display(description=gettext_lazy("slots"))
    def slots(self, worker: Worker) -> SafeString:
        threads = ngettext("%d thread", "%d threads", worker.threads) % worker.threads
        coroutines = ngettext("%d coroutine", "%d coroutines", worker.coroutines)
        return format_html(
            '<span class="dt-nowrap">{}</span> <span class="dt-quiet dt-nowrap">+ {}</span>',
            *(threads, coroutines % worker.coroutines),
        )

    @admin.display(description=gettext_lazy("running"))
    def running(self, worker: Worker) -> SafeString:
        count = _state(worker).running
        kind = "dt-number" if count.value else "dt-number dt-quiet"
        return format_html('<span class="{}">{}</span>', kind, count)

    @admin.display(description=gettext_lazy("memory"), ordering="memory")
    def memory_used(self, worker: Worker) -> SafeString:
        size = NONE if worker.memory is None else f"{worker.memory // MIB:,}\N{NO-BREAK SPACE}MiB"
        return format_html('<span class="dt-nowrap">{}</span>', size)

    def process(self, worker: Worker) -> SafeString:
        return format_html(
            '<span title="{}">{}</span> · {}',
            *(worker.host, worker.host.partition(":")[0], worker.pid),
        )

    @admin.display(description=gettext_lazy("started"), ordering="started_at")
    def started(self, worker: Worker) -> SafeString:
        return ago(worker.started_at, _now(worker))

    # One worker

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        [worker] = _with_states([context["original"]])
        jobs = _jobs_of(worker) if request.user.has_perm("durable_tasks.view_job") else None
        acts: tuple[str, ...] = ()
        if worker.wish != Wish.STOP:
            acts = ("go_on" if worker.wish else "drain", "stop")
        job_list = reverse(f"{self.admin_site.name}:durable_tasks_job_changelist")
        facts = [
            (_("Last seen"), self.seen(worker)),
            (_("Started"), self.started(worker)),
            (_("Queues"), self.serves(worker)),
            (_("Slots"), self.slots(worker)),
            (_("Memory"), self.memory_used(worker)),
            (_("Version"), worker.version or NONE),
            (_("Backend"), worker.backend_name),
        ]
        context.update(
            state=self.state(worker),
            process=self.process(worker),
            running=_state(worker).running,
            is_lost=_state(worker).is_lost,
            facts=facts,
            jobs=jobs,
            buttons=self.buttons(request, worker, *acts),
            all_jobs=f"{job_list}?{urlencode({'worker_id': worker.id})}",
        )
        return super().render_change_form(request, context, *args, **kwargs)

    # Wishes

    def act(self, request: HttpRequest, obj: Worker, act: str) -> str:
        self._ask(request, [obj], act)
        return self.list_url() if act == "stop" else self.page_of(obj)

    def has_drain_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "drain")

    def has_stop_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "stop")

    @admin.action(
        description=gettext_lazy("Drain the selected workers: they claim nothing more and stay"),
        permissions=["drain"],
    )
    def drain(self, request: HttpRequest, workers: "QuerySet[Worker]") -> None:
        self._ask(request, workers, "drain")

    @admin.action(
        description=gettext_lazy("Let the selected workers go on that are drained"),
        permissions=["drain"],
    )
    def go_on(self, request: HttpRequest, workers: "QuerySet[Worker]") -> None:
        self._ask(request, workers, "go_on")

    @admin.action(
        description=gettext_lazy("Stop the selected workers once what they run has ended"),
        permissions=["stop"],
    )
    def stop(self, request: HttpRequest, workers: "QuerySet[Worker]") -> HttpResponse | None:
        if request.POST.get("confirmed") == "yes":
            self._ask(request, workers, "stop")
            return None
        ids = [worker.id for worker in workers]
        return TemplateResponse(
            request,
            "admin/durable_tasks/job/act.html",
            {
                **self.admin_site.each_context(request),
                "title": _("Are you sure?"),
                "opts": self.opts,
                "cl": SimpleNamespace(opts=self.opts, formset=None),
                "actions_on_top": True,
                "media": self.media,
                "act_url": request.get_full_path(),
                "back_url": request.get_full_path(),
                "action": {"name": "stop", "label": _("Stop")},
                "what": _(
                    "They finish what runs, give back the rest, and end. A supervisor starts no "
                    "others in their place."
                ),
                "words": [(_("Workers"), ", ".join(ids))],
                "ids": ids,
            },
        )

    def _ask(self, request: HttpRequest, workers: Any, act: str) -> None:
        wish = None if act == "go_on" else Wish(act)
        by_id = {worker.id: worker for worker in workers}
        asked = ask(by_id, wish, jobs_database())
        note = {
            "drain": "Asked to drain.",
            "go_on": "Asked to go on.",
            "stop": "Asked to stop.",
        }[act]
        for id in asked:
            self.log_change(request, by_id[id], note)
        count = len(asked)
        if not count:
            self.message_user(request, _("No worker was asked."), messages.WARNING)
            return
        text = {
            "drain": ngettext(
                "%d worker was asked to drain.", "%d workers were asked to drain.", count
            ),
            "go_on": ngettext(
                "%d worker was asked to go on.", "%d workers were asked to go on.", count
            ),
            "stop": ngettext(
                "%d worker was asked to stop.", "%d workers were asked to stop.", count
            ),
        }[act]
        within = _("It is done at the next heartbeat, within some seconds.")
        self.message_user(request, f"{text % count} {within}")


def describe(state: WorkerState) -> tuple[str, str]:
    """Return the colour, as that of a status, and the words for how a worker is."""
    busy = bool(state.running.value)
    if state.is_lost:
        return "failed", _("lost")
    if state.is_silent:
        return "cancelled", _("silent for %(length)s") % {"length": rough(state.age)}
    if state.row.wish == Wish.STOP:
        return "cancelled", _("stopping")
    if state.row.wish == Wish.DRAIN:
        return "paused", _("draining") if busy else _("drained")
    return ("running", _("working")) if busy else ("successful", _("idle"))


def _with_states(workers: Any) -> list[Worker]:
    """Return these workers, each with what ``_state`` tells of it."""
    look = Look()
    states = {state.row.id: state for state in look.workers()}
    found = list(workers)
    for worker in found:
        # Of a backend that these settings don't have: nobody says when it counts as lost.
        age = max(0.0, look.seconds - worker.last_seen / 1_000_000)
        unknown = WorkerState(worker, age, is_silent=age > 15, is_lost=False, running=Count(0))
        worker.dt_state = states.get(worker.id, unknown)
        worker.dt_now = look.at
    return found


def _state(worker: Any) -> WorkerState:
    state: WorkerState = worker.dt_state
    return state


def _now(worker: Any) -> datetime:
    now: datetime = worker.dt_now
    return now


def _jobs_of(worker: Worker) -> list[tuple[Job, SafeString, SafeString]]:
    """Return what a worker runs, the longest first; served by durable_job_running."""
    jobs = Job.objects.using(jobs_database()).running().filter(worker_id=worker.id)
    found = list(
        jobs.only("id", "task_path", "queue_name", "last_attempted_at", "attempts")[:MOST_JOBS]
    )
    now = _now(worker)
    found.sort(key=lambda job: job.last_attempted_at or now)
    return [(job, dotted(job.task_path), ago(job.last_attempted_at, now)) for job in found]
