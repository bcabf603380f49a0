"""Acting on jobs by hand: on one, on the selected, and on all that match a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from django.contrib import messages
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import bulk, clock
from ..models import Job
from ..search import JobSearch, SearchError
from ..state import durable_backends
from ..statuses import ENDED, JobStatus
from .base import jobs_database, n_jobs
from .job_list import known_queues, refuse_secrets

if TYPE_CHECKING:
    from .jobs import JobAdmin

# Selected jobs that get a log entry each; copies to which a message leads.
MOST_ENTRIES = 100
MOST_LINKS = 3
# What tells whether a job was changed.
_STATE = (
    *("id", "status", "lease", "queue_name", "priority", "run_at"),
    *("delete_after", "cancel_requested_at"),
)


type _States = dict[UUID, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for. ``search``: all that match it; None for the jobs of ``ids``."""

    name: str
    search: JobSearch | None
    ids: list[UUID]
    argument: str | None
    job_id: str
    query: str

    @property
    def action(self) -> "bulk.Action":
        return bulk.ACTIONS[self.name]


# The statuses in which an action changes something; the others are for any job.
_WAITING = (JobStatus.READY, JobStatus.SCHEDULED, JobStatus.PAUSED)
_SENSIBLE = {
    "run": (JobStatus.SCHEDULED,),
    "retry": (JobStatus.FAILED, JobStatus.CANCELLED),
    "cancel": (*_WAITING, JobStatus.RUNNING),
    "move": _WAITING,
    "prioritize": _WAITING,
    "mark": ENDED,
    "delete": (*_WAITING, *ENDED),
}


def allowed(
    model_admin: "JobAdmin", request: HttpRequest, job: Job | None = None
) -> list[dict[str, Any]]:
    """Return name and label of the actions that the user may do, to a job as it is or to any."""
    return [
        {"name": name, "label": action.label}
        for name, action in bulk.ACTIONS.items()
        if model_admin.has_job_permission(request, action.permission)
        and (job is None or _is_sensible(name, job))
    ]


def _is_sensible(name: str, job: Job) -> bool:
    """Return whether an action changes something of a job."""
    if name == "cancel" and job.cancel_requested_at is not None:
        return False
    if name == "mark" and job.delete_after is not None and job.delete_after <= clock.now():
        return False
    return job.status in _SENSIBLE.get(name, (job.status,))


def view(model_admin: "JobAdmin", request: HttpRequest) -> HttpResponse:
    """Do what is asked for, or ask first: GET only ever asks."""
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    data = request.POST if request.method == "POST" else request.GET
    try:
        wanted = _wanted(data, is_link=request.method != "POST")
    except SearchError as error:
        return _back(model_admin, request, data.get("search", ""), str(error))
    if not model_admin.has_job_permission(request, wanted.action.permission):
        raise PermissionDenied
    if wanted.search is None and not wanted.ids:
        return _back(model_admin, request, wanted.query, _("No job is selected."))
    asks_first = wanted.search is not None or wanted.name == "delete" or wanted.action.argument
    if request.method != "POST" or (asks_first and data.get("confirmed") != "yes"):
        return _ask(model_admin, request, wanted)
    try:
        if wanted.search is None:
            return _act_on_selected(model_admin, request, wanted)
        return _act_on_all(model_admin, request, wanted)
    except ValueError as error:  # of the argument
        return _ask(model_admin, request, wanted, str(error))


def _wanted(data: QueryDict, *, is_link: bool) -> Wanted:
    """Return what is asked for. Raises ``SearchError`` with what is wrong."""
    name = data.get("action", "")
    if name not in bulk.ACTIONS:
        raise SearchError(
            _("Choose an action.") if not name else _("“%s” is no action.") % name[:100]
        )
    query = data.urlencode() if is_link else data.get("search", "")
    search = None
    if is_link or data.get("scope") == "all":
        search = JobSearch.from_query(QueryDict(query))
        refuse_secrets(search)
        query = search.as_query()
    return Wanted(
        *(name, search, [] if search else _ids(data.getlist("_selected_action"))),
        argument=data.get("argument"),
        job_id=data.get("job", ""),
        query=query,
    )


def _ids(texts: Sequence[str]) -> list[UUID]:
    found = []
    for text in texts:
        try:
            found.append(UUID(text))
        except ValueError as error:
            raise SearchError(_("“%s” is no id of a job.") % text[:100]) from error
    return list(dict.fromkeys(found))


# Asking -----------------------------------------------------------------------------------------


def _ask(
    model_admin: "JobAdmin", request: HttpRequest, wanted: Wanted, error: str = ""
) -> HttpResponse:
    using = jobs_database()
    if wanted.search is None:
        jobs = Job.objects.using(using).filter(id__in=wanted.ids)
        number = jobs.count()
        only = jobs.only("task_path").first() if number == 1 else None
        what = str(only) if only else n_jobs(number, number)
    else:
        count = wanted.search.count(using)
        what = _("All jobs that match, %(count)s as of now. Jobs enqueued later are left out.") % {
            "count": _("%s found so far") % count if count.is_more else count
        }
    return TemplateResponse(
        request,
        "admin/durable_tasks/job/act.html",
        {
            **model_admin.admin_site.each_context(request),
            "title": _("Are you sure?"),
            "opts": Job._meta,
            "cl": SimpleNamespace(opts=Job._meta, formset=None),
            "actions_on_top": True,
            "media": model_admin.media,
            "act_url": _url(model_admin, "act"),
            "action": {
                "name": wanted.name,
                "label": wanted.action.label,
                "argument": wanted.action.argument,
            },
            "scope": "selected" if wanted.search is None else "all",
            "what": what,
            "words": wanted.search and (in_words(wanted.search) or [(_("Search"), _("all jobs"))]),
            "query": wanted.query,
            "ids": wanted.ids,
            "job_id": wanted.job_id,
            "argument": wanted.argument,
            "errors": error,
            "back_url": _came_from(model_admin, request) or _back_url(model_admin, wanted),
            **_queues(using, wanted),
        },
    )


def _queues(using: str, wanted: Wanted) -> dict[str, Any]:
    """Return the queues to choose from, and whether any other may be written."""
    if wanted.action.argument != "queue":
        return {}
    backends = durable_backends()
    if wanted.search is None:
        names = Job.objects.using(using).filter(id__in=wanted.ids).values_list("backend_name")
        backends = {name: backends[name] for [name] in names.distinct() if name in backends}
    elif wanted.search.backend_name in backends:
        backends = {wanted.search.backend_name: backends[wanted.search.backend_name]}
    return {
        "queues": sorted(known_queues(using, backends)),
        "any_queue": any(not backend.queues for backend in backends.values()),
    }


def in_words(search: JobSearch) -> list[tuple[str, str]]:
    """Return the fields of a search as people read them: label and value."""
    labels = {
        "status": _("Status"),
        "backend_name": _("Backend"),
        "queue_name": _("Queue"),
        "task_path": _("Task"),
        "exception_class_path": _("Error"),
        "error_place": _("Raised in"),
        "schedule": _("Schedule"),
        "worker_id": _("Worker"),
        "since": _("Enqueued from"),
        "until": _("Enqueued to"),
    }
    found = [
        (label, str(value) or _("nowhere"))
        for name, label in labels.items()
        if (value := getattr(search, name)) not in ("", None)
        or (name == "error_place" and value == "")
    ]
    if search.status:
        found[0] = (_("Status"), str(JobStatus(search.status).label))
    if text := search.text_of_box():
        found.append((_("Search"), text))
    return found


# Acting -----------------------------------------------------------------------------------------


def _act_on_selected(model_admin: "JobAdmin", request: HttpRequest, wanted: Wanted) -> HttpResponse:
    using = jobs_database()
    jobs = Job.objects.using(using).filter(id__in=wanted.ids)
    _refuse_to_repeat(model_admin, request, wanted, jobs)
    rows = {job.id: job for job in jobs.only(*_STATE, "task_path")}
    before = _states(jobs)
    made: list[UUID] = []
    is_copy = wanted.name == "copy"
    changed = jobs.copy(made) if is_copy else wanted.action.word(jobs, wanted.argument)
    after = _states(jobs)
    kept = len(wanted.ids) - changed
    text = _done(wanted, changed, after)
    if kept > 0:
        text = _("%(done)s; %(kept)s") % {
            "done": text,
            "kept": ngettext(
                "%d was left as it was: its status does not allow it",
                "%d were left as they were: their status does not allow it",
                kept,
            )
            % kept,
        }
    level = messages.SUCCESS if changed else messages.WARNING
    if made:
        links = [(_url(model_admin, "change", id), id) for id in made[:MOST_LINKS]]
        links_to = format_html_join(", ", '<a href="{}">{}</a>', links)
        text = format_html("{}: {}{}", text, links_to, ", …" if made[MOST_LINKS:] else "")
    model_admin.message_user(request, format_html("{}.", text), level)
    touched = [rows[id] for id, state in before.items() if after.get(id) != state]
    if changed:
        _log(request, touched or list(rows.values()), wanted)
    return HttpResponseRedirect(_back_url(model_admin, wanted, gone=not after))


def _done(wanted: Wanted, changed: int, after: "_States") -> str:
    """Return what was done, as a sentence without its full stop."""
    asked = sum(state[1] == JobStatus.RUNNING for state in after.values())
    if wanted.name != "cancel" or not asked:
        return wanted.action.done(changed)
    # Those are not cancelled yet: their workers are told.
    text = ngettext("%d running job was asked to end", "%d running jobs were asked to end", asked)
    waited = [wanted.action.done(changed - asked)] if changed > asked else []
    return ", ".join([*waited, text % asked])


def _refuse_to_repeat(
    model_admin: "JobAdmin", request: HttpRequest, wanted: Wanted, jobs: Any
) -> None:
    """Raise ``PermissionDenied`` if a job would do to all that match what the user may not do."""
    if wanted.name not in bulk.REPEATS:
        return
    for kwargs in jobs.filter(task_path=bulk.act.module_path).values_list("kwargs", flat=True):
        action = bulk.ACTIONS.get(str(kwargs.get("action")))
        if action and not model_admin.has_job_permission(request, action.permission):
            raise PermissionDenied


def _states(jobs: Any) -> _States:
    return {row[0]: row for row in jobs.values_list(*_STATE)}


def _act_on_all(model_admin: "JobAdmin", request: HttpRequest, wanted: Wanted) -> HttpResponse:
    search: Any = wanted.search
    user = request.user.get_username()
    id = bulk.start(search, wanted.name, wanted.argument, user, jobs_database())
    words = ", ".join(f"{label}: {value}" for label, value in in_words(search))
    entry = f"{_message(wanted)}: {words or _('all jobs')}"
    _log_one(request, id, _("All jobs that match"), entry)
    text = _("A job acts on all that match. This is its page, which shows how far it is.")
    model_admin.message_user(request, text, messages.SUCCESS)
    return HttpResponseRedirect(_url(model_admin, "change", id))


def _message(wanted: Wanted) -> str:
    """Return what the log says."""
    label = str(wanted.action.label)
    return f"{label}: {wanted.argument}" if wanted.action.argument else label


def _log(request: HttpRequest, jobs: Sequence[Job], wanted: Wanted) -> None:
    flag = DELETION if wanted.name == "delete" else CHANGE
    if len(jobs) > MOST_ENTRIES:
        _log_one(request, None, n_jobs(len(jobs), len(jobs)), _message(wanted), flag)
        return
    content_type = ContentType.objects.get_for_model(Job)
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=request.user.pk or 0,
            content_type=content_type,
            object_id=str(job.pk),
            object_repr=str(job)[:200],
            action_flag=flag,
            change_message=_message(wanted),
        )
        for job in jobs
    )


def _log_one(
    request: HttpRequest, id: UUID | None, what: str, message: str, flag: int = CHANGE
) -> None:
    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type=ContentType.objects.get_for_model(Job),
        object_id=None if id is None else str(id),
        object_repr=what[:200],
        action_flag=flag,
        change_message=message,
    )


# Ways back --------------------------------------------------------------------------------------


def _url(model_admin: "JobAdmin", page: str, *args: Any) -> str:
    name = f"admin:durable_tasks_job_{page}"
    return reverse(name, args=args, current_app=model_admin.admin_site.name)


def _back_url(model_admin: "JobAdmin", wanted: Wanted, *, gone: bool = False) -> str:
    """Return the page that the request came from: a job's, or the list."""
    if wanted.job_id and wanted.ids and not gone:
        return _url(model_admin, "change", wanted.ids[0])
    return _list_url(model_admin, wanted.query)


def _came_from(model_admin: "JobAdmin", request: HttpRequest) -> str:
    """Return the page of ours whose link this request followed; "" if there is none."""
    try:
        origin = urlsplit(request.headers.get("Referer", "") if request.method == "GET" else "")
    except ValueError:
        return ""
    ours = reverse(
        "admin:app_list", args=[Job._meta.app_label], current_app=model_admin.admin_site.name
    )
    is_ours = origin.netloc == request.get_host() and origin.path.startswith(ours)
    if not is_ours or origin.path == request.path:
        return ""
    return urlunsplit(("", "", origin.path, origin.query, ""))


def _list_url(model_admin: "JobAdmin", query: str) -> str:
    """Return the list; only what is a search comes back from a form."""
    url = _url(model_admin, "changelist")
    try:
        query = JobSearch.from_query(QueryDict(query)).as_query()
    except SearchError:
        query = ""
    return f"{url}?{query}" if query else url


def _back(model_admin: "JobAdmin", request: HttpRequest, query: str, message: str) -> HttpResponse:
    model_admin.message_user(request, message, messages.WARNING)
    return HttpResponseRedirect(_list_url(model_admin, query))
