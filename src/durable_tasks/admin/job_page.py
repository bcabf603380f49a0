"""The page of one job: what it is, its attempts, its values and its errors."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.admin.utils import quote
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from .. import clock
from ..models import Job, PeriodicTask, Worker
from ..redaction import redacted, redacted_text
from ..search import JobSearch, SearchError
from ..statuses import ENDED, JobStatus
from .base import Moment, secrets_of
from .figures import duration
from .job_list import Row, rows_of
from .timeline import Runs, entries_of, kind_of, time_in, timeline_of
from .tracebacks import Block, blocks

# A value with more lines or characters is folded.
MOST_LINES = 24
MOST_CHARACTERS = 2000
# The task behind actions on all that match.
BULK_TASK = "durable_tasks.bulk.act"


@dataclass(frozen=True, slots=True)
class Value:
    """A value of JSON as text; ``size``: words for how long it is, if it is to be folded."""

    label: str
    text: str
    size: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that raised, or whose worker was lost; ``number``: None of what was no run."""

    number: int | None
    kind: str
    exception_class_path: str
    message: str
    worker_id: str
    at: Moment | None
    blocks: list[Block]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an action on all that match is."""

    looked: int
    changed: int
    total: int | None
    by: str
    url: str

    @property
    def text(self) -> str:
        """What it has done so far, with thousands set apart."""
        return _("%(changed)s changed, %(looked)s looked at") % {
            "changed": f"{self.changed:,}",
            "looked": f"{self.looked:,}",
        }


def context(request: HttpRequest, job: Job, admin_name: str) -> dict[str, Any]:
    """Return what the template of the page shows. ``admin_name``: of the admin site."""
    now = clock.now()
    redact = secrets_of(job.backend_name)
    list_url = reverse("admin:durable_tasks_job_changelist", current_app=admin_name)
    [row] = rows_of([job], now, job._state.db or "default")
    return {
        "job": job,
        "row": row,
        "timeline": timeline_of(job, now),
        "times": [(label, Moment.of(at, now)) for label, at in _times(job) if at],
        "values": list(_values(job, redact)),
        "failures": _failures(job, redact, now),
        "attempts": _attempts(job),
        "progress": _progress(job, list_url),
        "links": list(_links(job, list_url)),
        "neighbours": _neighbours(job, admin_name),
        "worker_url": _worker_url(request, row, admin_name),
        "schedule_url": _schedule_url(request, job, admin_name),
        "began": _began(job),
        "changes": job.status not in ENDED,
        "state": f"{job.status} {job.lease} {job.attempts} {job.cancel_requested_at} {row.is_held}",
    }


def _times(job: Job) -> Iterator[tuple[str, datetime | None]]:
    yield _("Enqueued"), job.enqueued_at
    yield _("Asked to run after"), job.run_after
    yield _("Due"), job.run_at
    # A retry by hand begins anew; the first error stays.
    starts = [job.started_at, *(time_in(entry.get("started_at")) for entry in entries_of(job)[:1])]
    yield _("First started"), min((at for at in starts if at), default=None)
    yield _("Last started"), job.last_attempted_at
    yield _("Cancel requested"), job.cancel_requested_at
    yield _("Finished"), job.finished_at
    yield _("To be deleted after"), job.delete_after


def _began(job: Job) -> str:
    """Return how long after it was due the last run began, once that is known.

    While it runs, only the time of its claim is; and once it waits again, it is due at another.
    """
    if job.status not in (JobStatus.SUCCESSFUL, JobStatus.FAILED) or not job.last_attempted_at:
        return ""
    seconds = max((job.last_attempted_at - job.run_at).total_seconds(), 0)
    return _("%(time)s after it was due") % {"time": duration(seconds)}


def _attempts(job: Job) -> str:
    """Return how often it was tried; after a retry by hand, since then and in all."""
    runs = Runs(job)
    before, since = runs.before, job.attempts
    if not before:
        return str(since)
    return _("%(since)s since it was retried by hand, %(all)s in all") % {
        "since": since,
        "all": before + since,
    }


def _values(job: Job, redact: tuple[str, ...]) -> Iterator[Value]:
    yield _value(_("Arguments"), job.args, redact)
    yield _value(_("Keyword arguments"), job.kwargs, redact)
    if job.metadata is not None:
        yield _value(_("Metadata"), job.metadata, redact)
    if job.status == JobStatus.SUCCESSFUL or job.return_value is not None:
        yield _value(_("Return value"), job.return_value, redact)


def _value(label: str, value: Any, redact: tuple[str, ...]) -> Value:
    text = json.dumps(redacted(value, redact), indent=2, ensure_ascii=False)
    lines = text.count("\n") + 1
    size = ""
    if lines > MOST_LINES or len(text) > MOST_CHARACTERS:
        size = _("%(lines)s lines, %(characters)s characters") % {
            "lines": f"{lines:,}",
            "characters": f"{len(text):,}",
        }
    return Value(label, text, size)


def _failures(job: Job, redact: tuple[str, ...], now: datetime) -> list[Failure]:
    """Return the errors of the runs, the newest first."""
    return [
        Failure(
            number=number,
            kind=kind_of(entry),
            exception_class_path=str(entry["exception_class_path"]),
            message=_last_line(text),
            worker_id=entry.get("worker_id") or "",
            at=Moment.of(time_in(entry.get("finished_at")), now),
            blocks=list(blocks(text)),
        )
        for entry, number, _again in reversed(Runs(job).entries)
        if entry.get("exception_class_path")
        for text in [redacted_text(str(entry.get("traceback") or ""), redact)]
    ]


def _last_line(traceback: str) -> str:
    """Return what the exception says: the first line at the margin behind the last frame."""
    lines = traceback.rstrip().splitlines()
    for line in reversed(lines):
        if line and not line[0].isspace():
            return line.partition(": ")[2]
    return ""


def _progress(job: Job, list_url: str) -> Progress | None:
    given = job.metadata.get("bulk") if isinstance(job.metadata, dict) else None
    if job.task_path != BULK_TASK or not isinstance(given, dict):
        return None
    try:
        query = JobSearch.from_json(given.get("search") or {}).as_query()
    except SearchError:
        query = ""
    total = given.get("total")
    return Progress(
        looked=_number(given.get("looked")),
        changed=_number(given.get("changed")),
        total=total if isinstance(total, int) and total > 0 else None,
        by=str(given.get("by") or ""),
        url=f"{list_url}?{query}",
    )


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _links(job: Job, list_url: str) -> Iterator[tuple[str, str]]:
    """Yield label and address of lists of jobs like this one."""
    searches = [(_("Jobs of this task"), JobSearch(task_path=job.task_path))]
    if job.exception_class_path:
        same = JobSearch(exception_class_path=job.exception_class_path, error_place=job.error_place)
        searches.append((_("Jobs with this error"), same))
    if job.schedule:
        searches.append((_("Jobs of this schedule"), JobSearch(schedule=job.schedule)))
    for label, search in searches:
        yield label, f"{list_url}?{search.as_query()}"


def _neighbours(job: Job, admin_name: str) -> dict[str, str]:
    """Return the pages of the jobs enqueued just before and just after this one."""
    ids = Job.objects.using(job._state.db).values_list("id", flat=True)
    found: dict[str, UUID | None] = {
        "previous": ids.filter(id__lt=job.id).order_by("-id").first(),
        "next": ids.filter(id__gt=job.id).order_by("id").first(),
    }
    return {
        name: reverse("admin:durable_tasks_job_change", args=[id], current_app=admin_name)
        for name, id in found.items()
        if id is not None
    }


def _worker_url(request: HttpRequest, row: Row, admin_name: str) -> str:
    """Return the page of the job's worker, while that is alive and may be seen."""
    workers, id = Worker.objects.using(row.job._state.db), row.worker_id
    if (
        not id
        or not request.user.has_perm("durable_tasks.view_worker")
        or not workers.filter(id=id).exists()
    ):
        return ""
    return reverse("admin:durable_tasks_worker_change", args=[quote(id)], current_app=admin_name)


def _schedule_url(request: HttpRequest, job: Job, admin_name: str) -> str:
    if not job.schedule or not request.user.has_perm("durable_tasks.view_periodictask"):
        return ""
    found = (
        PeriodicTask.objects.using(job._state.db)
        .filter(backend_name=job.backend_name, name=job.schedule)
        .values_list("id", flat=True)
        .first()
    )
    if found is None:
        return ""
    return reverse("admin:durable_tasks_periodictask_change", args=[found], current_app=admin_name)
