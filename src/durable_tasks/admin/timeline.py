"""The attempts of a job as bars to scale, each with the time before it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from ..exceptions import TaskCancelled, WorkerLost
from ..models import Job
from ..statuses import ENDED, JobStatus
from .base import Moment
from .figures import duration

# Per cent of the width that the shortest bar takes, so that it can be seen.
LEAST = 0.5
LOST = f"{WorkerLost.__module__}.{WorkerLost.__qualname__}"
CANCELLED = f"{TaskCancelled.__module__}.{TaskCancelled.__qualname__}"


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time. ``kind``: ends a CSS class; ``x``, ``width``: in per cent."""

    kind: str
    text: str
    x: str
    width: str


@dataclass(slots=True)
class Attempt:
    """One line of the timeline; ``number``: None for a wait that no run has followed yet."""

    number: int | None
    kind: str
    begin: datetime | None
    end: datetime | None
    waited_from: datetime
    worker_id: str = ""
    exception_class_path: str = ""
    bars: list[Bar] = field(default_factory=list)
    text: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    attempts: list[Attempt]
    begin: Moment
    end: Moment
    length: str


def timeline_of(job: Job, now: datetime) -> Timeline:
    """Return the timeline of a job, up to its end, or to ``now`` while it has not ended."""
    attempts = list(_attempts(job, now))
    ends = [each.end for each in attempts if each.end]
    end = max([*ends, job.enqueued_at])
    begin = min([job.enqueued_at, *(each.begin for each in attempts if each.begin)])
    total = max((end - begin).total_seconds(), 1e-6)
    scale = _Scale(begin, total)
    for attempt in attempts:
        _draw(attempt, scale, job)
    return Timeline(attempts, Moment(begin, now), Moment(end, now), duration(total))


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: datetime
    total: float

    def bar(self, kind: str, text: str, begin: datetime, end: datetime) -> Bar:
        x = 100 * (begin - self.begin).total_seconds() / self.total
        width = 100 * max((end - begin).total_seconds(), 0) / self.total
        width = max(width, LEAST)
        # Not beyond the right edge.
        return Bar(kind, text, f"{min(max(x, 0), 100 - width):.3f}%", f"{width:.3f}%")


def entries_of(job: Job) -> list[dict[str, Any]]:
    """Return the errors of a job; what is none, such as from a row that was changed by hand, is
    left out."""
    errors = job.errors if isinstance(job.errors, list) else []
    return [entry for entry in errors if isinstance(entry, dict)]


def _attempts(job: Job, now: datetime) -> Iterator[Attempt]:
    """Yield the runs in their order, and the wait for the next one."""
    last = job.enqueued_at
    for entry in entries_of(job):
        begin, end = time_in(entry.get("started_at")), time_in(entry.get("finished_at"))
        kind = kind_of(entry)
        yield Attempt(
            *(entry.get("attempt"), kind, begin, end, last, entry.get("worker_id") or ""),
            exception_class_path=entry.get("exception_class_path") or "",
        )
        last = end or last
    if job.status == JobStatus.RUNNING:
        begin = job.last_attempted_at or now
        yield Attempt(job.attempts, "running", begin, now, last, job.worker_id or "")
    elif job.status == JobStatus.SUCCESSFUL:
        begin = job.last_attempted_at
        yield Attempt(job.attempts, "successful", begin, job.finished_at, last, job.worker_id or "")
    elif job.status not in ENDED:
        yield Attempt(None, job.status.lower(), None, now, last)
    elif job.status == JobStatus.CANCELLED and (not job.errors or last < _end(job)):
        yield Attempt(None, "cancelled", None, _end(job), last)


def _end(job: Job) -> datetime:
    return job.finished_at or job.enqueued_at


def _draw(attempt: Attempt, scale: _Scale, job: Job) -> None:
    waited_to = attempt.begin or attempt.end
    texts = []
    if waited_to is not None and waited_to > attempt.waited_from:
        waited = duration((waited_to - attempt.waited_from).total_seconds())
        text = _("waited %(time)s") % {"time": waited}
        texts.append(text)
        attempt.bars.append(scale.bar("waited", text, attempt.waited_from, waited_to))
    if attempt.begin is not None and attempt.end is not None:
        ran = {"time": duration((attempt.end - attempt.begin).total_seconds())}
        text = _("runs for %(time)s") if attempt.kind == "running" else _("ran %(time)s")
        texts.append(text % ran)
        attempt.bars.append(scale.bar(attempt.kind, texts[-1], attempt.begin, attempt.end))
    texts.append(_ENDINGS.get(attempt.kind, str)())
    attempt.text = ", ".join(filter(None, texts))


_ENDINGS = {
    "successful": lambda: _("successful"),
    "failed": lambda: _("failed"),
    "lost": lambda: _("its worker was lost"),
    "cancelled": lambda: _("cancelled"),
    "ready": lambda: _("waits for a worker"),
    "scheduled": lambda: _("waits until it is due"),
    "paused": lambda: _("its task is paused"),
}


def kind_of(entry: dict[str, Any]) -> str:
    """Return how a run ended of which the job's errors tell."""
    path = entry.get("exception_class_path")
    if not path:
        return "ran"  # only its worker is known
    return {LOST: "lost", CANCELLED: "cancelled"}.get(path, "failed")


def time_in(text: str | None) -> datetime | None:
    """Return the time that an entry of the errors has as text, as Django's settings want it."""
    try:
        time = parse_datetime(text) if text else None
    except (ValueError, TypeError):
        return None
    if time is not None and timezone.is_naive(time) == settings.USE_TZ:
        return timezone.make_aware(time) if settings.USE_TZ else timezone.make_naive(time)
    return time
