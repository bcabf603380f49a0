"""The list of jobs: tabs of statuses, filters, and rows; no table is counted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from django.db import connections
from django.db.models import CharField, Func
from django.http import HttpRequest
from django.utils.translation import gettext as _

from .. import clock
from ..models import ErrorGroup, Job, Pause, PeriodicTask, Statistic
from ..redaction import is_secret
from ..search import JobSearch, Page, SearchError
from ..state import Count, durable_backends
from ..statuses import ENDED, JobStatus
from ..store import store_for
from .base import Moment, jobs_database
from .figures import duration

PAGE_SIZE = 50
# How far back the filters' choices come from, in seconds; the period of the rows they come from.
CHOICES_FROM = 7 * 86400
CHOICES_PERIOD = 3600
MOST_CHOICES = 500
# Of these, the list itself tells more than a number.
_NOT_COUNTED = (JobStatus.SUCCESSFUL, JobStatus.CANCELLED)
PRESETS = ("15m", "1h", "24h", "7d")


@dataclass(frozen=True, slots=True)
class Row:
    """A job as the list shows it.

    ``worker_id``: that has it or, of one that failed or was cancelled, that had it last.
    ``is_held``: its queue is paused.
    """

    job: Job
    now: datetime
    worker_id: str
    is_held: bool

    @property
    def is_to_end(self) -> bool:
        """Whether it runs, and its cancel was asked for."""
        return self.job.status == JobStatus.RUNNING and self.job.cancel_requested_at is not None

    @property
    def module(self) -> str:
        return self.job.task_path.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.job.task_path.rpartition(".")[2] or self.job.task_path or "—"

    @property
    def error(self) -> str:
        return (self.job.exception_class_path or "").rpartition(".")[2]

    @property
    def enqueued(self) -> Moment | None:
        return Moment.of(self.job.enqueued_at, self.now)

    @property
    def due(self) -> Moment | None:
        return Moment.of(self.job.run_at, self.now)

    @property
    def started(self) -> Moment | None:
        return Moment.of(self.job.last_attempted_at, self.now)

    @property
    def run_time(self) -> str:
        seconds = run_seconds(self.job, self.now)
        return "" if seconds is None else duration(seconds)


def rows_of(jobs: Sequence[Job], now: datetime, using: str) -> list[Row]:
    """Return jobs as the list shows them, at a query more for each kind of them that needs one."""
    held, last = set[tuple[str, str]](), dict[Any, str | None]()
    if any(job.status == JobStatus.READY for job in jobs):
        pauses = Pause.objects.using(using).exclude(queue_name="")
        held = set(pauses.values_list("backend_name", "queue_name"))
    if ids := [job.id for job in jobs if job.status in _WORKER_IN_ERRORS]:
        found = Job.objects.using(using).filter(id__in=ids).annotate(last=LastWorker("errors"))
        last = dict(found.values_list("id", "last"))
    return [
        Row(
            *(job, now, str(job.worker_id or last.get(job.id) or "")),
            is_held=job.status == JobStatus.READY and (job.backend_name, job.queue_name) in held,
        )
        for job in jobs
    ]


_WORKER_IN_ERRORS = (JobStatus.FAILED, JobStatus.CANCELLED)


class LastWorker(Func):
    """The worker of the last of a job's errors; asked for alone, since tracebacks are long."""

    output_field = CharField()
    template = "JSON_EXTRACT(%(expressions)s, '$[#-1].worker_id')"

    def as_postgresql(self, compiler: Any, connection: Any) -> Any:
        template = "(%(expressions)s -> -1 ->> 'worker_id')"
        return self.as_sql(compiler, connection, template=template)

    def as_mysql(self, compiler: Any, connection: Any) -> Any:
        # The last element has a sign of its own on MySQL and on late versions of MariaDB only.
        path = "CONCAT('$[', GREATEST(JSON_LENGTH(%(expressions)s), 1) - 1, '].worker_id')"
        value = f"JSON_UNQUOTE(JSON_EXTRACT(%(expressions)s, {path}))"
        return self.as_sql(compiler, connection, template=f"NULLIF({value}, 'null')")


@dataclass(frozen=True, slots=True)
class Select:
    """A filter; ``options``: value and label."""

    name: str
    label: str
    options: list[tuple[str, str]]
    value: str


def run_seconds(job: Job, now: datetime) -> float | None:
    """Return how long the last run took, or takes until now; None if there is none."""
    if job.last_attempted_at is None:
        return None
    if job.status == JobStatus.RUNNING:
        end: datetime | None = now
    else:
        end = job.finished_at
    return None if end is None else max((end - job.last_attempted_at).total_seconds(), 0.0)


def asked(request: HttpRequest) -> tuple[JobSearch, str]:
    """Return the search in the request's query, and what is wrong with it; then it is empty."""
    try:
        search = JobSearch.from_query(request.GET)
        refuse_secrets(search)
    except SearchError as error:
        return JobSearch(), str(error)
    return search, ""


def refuse_secrets(search: JobSearch) -> None:
    """Raise ``SearchError`` for values of names that pages do not show: they could be guessed."""
    patterns = {
        pattern
        for backend in durable_backends().values()
        for pattern in backend.durable_options.redact
    }
    for path, value in search.arguments:
        for name in (*path.split("."), *_names_in(value)):
            if is_secret(name, sorted(patterns)):
                raise SearchError(
                    _("“%s” is a name whose values are not shown, nor searched for.") % name
                )


def _names_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from map(str, value)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _names_in(item)


def context(request: HttpRequest, base_url: str) -> dict[str, Any]:
    """Return what the template of the list shows."""
    using = jobs_database()
    with store_for(connections[using]).pinned_plans():
        return _context(request, base_url, using)


def _context(request: HttpRequest, base_url: str, using: str) -> dict[str, Any]:
    search, error = asked(request)
    page = Page([])
    if not error:
        try:
            page = search.page(using, request.GET.get("after"), PAGE_SIZE)
        except SearchError as wrong:
            error = str(wrong)
    now = clock.now()
    query = search.as_query()
    tabs = list(_tabs(search, using, base_url))
    return {
        "search": search,
        "search_error": error,
        "box": request.GET.get("q", "") if error else search.text_of_box(),
        "tabs": tabs,
        "all_count": _all_count(search, request, page, tabs),
        "selects": _selects(search, using),
        "presets": [
            (preset, _link(base_url, replace(search, since=None), since=preset))
            for preset in PRESETS
        ],
        "since": request.GET.get("since", ""),
        "range_is_on": bool(search.until or search.since)
        and request.GET.get("since") not in PRESETS,
        "since_local": _local(search.since),
        "until_local": _local(search.until),
        "chips": list(_chips(search, base_url)),
        "rows": rows_of(page.jobs, now, using),
        "page": page,
        "looked": Count(page.looked) if page.looked else None,
        "looked_to": Moment.of(page.looked_to, now),
        "next_url": page.after and _link(base_url, search, after=page.after),
        "first_url": _link(base_url, search) if request.GET.get("after") else "",
        "clear_url": base_url if query else "",
        "query": query,
        "order": _order_in_words(search),
        "cl": SimpleNamespace(opts=Job._meta, formset=None),
        "actions_on_top": True,
    }


def _link(base_url: str, search: JobSearch, **more: str) -> str:
    query = "&".join(filter(None, (search.as_query(), urlencode(more))))
    return f"{base_url}?{query}" if query else base_url


def _local(time: datetime | None) -> str:
    """Return a time as a field of the browser has it."""
    moment = Moment.of(time)
    return f"{moment.local:%Y-%m-%dT%H:%M}" if moment else ""


def _tabs(search: JobSearch, using: str, base_url: str) -> Iterator[dict[str, Any]]:
    """Yield the statuses; counted only while nothing else is asked for."""
    plain = replace(search, status="") == JobSearch()
    yield {"label": _("All"), "url": _link(base_url, replace(search, status="")), "name": ""}
    for status in JobStatus:
        yield {
            "label": status.label,
            "url": _link(base_url, replace(search, status=status.value)),
            "name": status.value,
            "count": JobSearch(status=status.value).count(using)
            if plain and status not in _NOT_COUNTED
            else None,
        }


def _all_count(
    search: JobSearch, request: HttpRequest, page: Page, tabs: list[dict[str, Any]]
) -> Count | None:
    """Return how many match, if that is known without a look."""
    if page.after is None and not request.GET.get("after"):
        return Count(len(page.jobs))
    return next((tab.get("count") for tab in tabs if tab["name"] == search.status), None)


def _selects(search: JobSearch, using: str) -> list[Select]:
    """Return the filters, whose choices come from what workers counted, not from jobs."""
    backends = durable_backends()
    pairs = _counted(using, backends)
    queues = {name for name, path in pairs}.union(*_declared(backends))
    classes = (
        ErrorGroup.objects.using(using)
        .order_by("exception_class_path")
        .values_list("exception_class_path", flat=True)
        .distinct()[:MOST_CHOICES]
    )
    schedules = (
        PeriodicTask.objects.using(using)
        .order_by("name")
        .values_list("name", flat=True)
        .distinct()[:MOST_CHOICES]
    )
    found = [
        _select("queue_name", _("Queue"), queues, search),
        _select("task_path", _("Task"), {path for name, path in pairs if path}, search),
        _select("exception_class_path", _("Error"), classes, search),
        _select("schedule", _("Schedule"), schedules, search),
    ]
    if len(backends) > 1:
        found.insert(0, _select("backend_name", _("Backend"), backends, search))
    return found


def known_queues(using: str, backends: Mapping[str, Any]) -> set[str]:
    """Return the queues that these backends declare and those in which jobs were counted lately."""
    return {name for name, path in _counted(using, backends)}.union(*_declared(backends))


def _declared(backends: Mapping[str, Any]) -> list[set[str]]:
    return [set(backend.queues) for backend in backends.values()]


def _counted(using: str, backends: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return queue and task of what workers counted lately; a task may be empty."""
    since = int(clock.now().timestamp()) - CHOICES_FROM
    found = (
        Statistic.objects.using(using)
        .filter(backend_name__in=list(backends), period=CHOICES_PERIOD, begins__gte=since)
        .values_list("queue_name", "task_path")
        .distinct()
    )
    return list(found[: 10 * MOST_CHOICES])


def _select(name: str, label: str, values: Iterable[str], search: JobSearch) -> Select:
    value = getattr(search, name)
    options = sorted({*values, value} - {""})[:MOST_CHOICES]
    return Select(name, label, [(each, each) for each in options], value)


def _chips(search: JobSearch, base_url: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, label, value and the link to remove it of what has no field of its own."""
    labels = {"worker_id": _("Worker"), "error_place": _("Raised in")}
    if len(durable_backends()) <= 1:
        labels["backend_name"] = _("Backend")
    for name, label in labels.items():
        value = getattr(search, name)
        if value not in ("", None) or (name == "error_place" and value == ""):
            default: Any = None if name == "error_place" else ""
            yield name, label, value, _link(base_url, replace(search, **{name: default}))


def _order_in_words(search: JobSearch) -> str:
    if search.id or not search.status:
        return _("newest first")
    if search.status in ENDED:
        return _("last ended first")
    return {
        JobStatus.READY.value: _("by queue, in the order in which they will run"),
        JobStatus.SCHEDULED.value: _("due first"),
        JobStatus.RUNNING.value: _("by worker"),
        JobStatus.PAUSED.value: _("by task"),
    }[search.status]
