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
from ..statuses import ENDED, WAITING, JobStatus
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
    """One line of the timeline; ``number``: of the run, None for a wait that no run has followed.

    ``again``: somebody had the job run again, which had ended.
    """

    number: int | None
    kind: str
    begin: datetime | None
    end: datetime | None
    waited_from: datetime
    again: bool = False
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


class Runs:
    """The runs of a job, numbered in their order, as far as it knows of them.

    Attempts count from 1 again once somebody has a job run again that had ended. ``entries``: its
    errors, each with the number of its run and whether it is the first one since that; the number
    is None of what was no run, such as a cancel while it waited. ``before``: how many runs came
    before the last time that somebody did it. ``again``: whether the errors end there.
    """

    def __init__(self, job: Job) -> None:
        self.entries: list[tuple[dict[str, Any], int | None, bool]] = []
        self.before = self._last = 0
        self._cancelled = False
        for entry in entries_of(job):
            self.entries.append((entry, *self._add(entry)))
        follows = job.attempts + (job.status in WAITING)
        self.again = bool(self.entries) and job.status not in _AS_ERRORS and self._begins(follows)

    def _add(self, entry: dict[str, Any]) -> tuple[int | None, bool]:
        attempt, is_cancel = entry.get("attempt"), kind_of(entry) == "cancelled"
        if not isinstance(attempt, int) or (is_cancel and not entry.get("started_at")):
            self._cancelled |= is_cancel
            return None, False
        again = self._begins(attempt)
        self._last, self._cancelled = attempt, is_cancel
        return self.before + attempt, again

    def _begins(self, attempt: int) -> bool:
        """Return whether the count begins anew with this attempt."""
        if not self._cancelled and attempt > self._last:
            return False
        self.before, self._last = self.before + self._last, 0
        return True


# Ended, and the last of the errors says how.
_AS_ERRORS = (JobStatus.FAILED, JobStatus.CANCELLED)


def _attempts(job: Job, now: datetime) -> Iterator[Attempt]:
    """Yield the runs in their order, and the wait for the next one."""
    last, runs = job.enqueued_at, Runs(job)
    for entry, number, again in runs.entries:
        begin, end = time_in(entry.get("started_at")), time_in(entry.get("finished_at"))
        yield Attempt(
            *(number, kind_of(entry), begin, end, last, again),
            exception_class_path=entry.get("exception_class_path") or "",
        )
        last = end or last
    number, again = runs.before + job.attempts, runs.again
    if job.status == JobStatus.RUNNING:
        yield Attempt(number, "running", job.last_attempted_at or now, now, last, again)
    elif job.status == JobStatus.SUCCESSFUL:
        yield Attempt(number, "successful", job.last_attempted_at, job.finished_at, last, again)
    elif job.status not in ENDED:
        yield Attempt(None, job.status.lower(), None, now, last, again)
    elif job.status == JobStatus.CANCELLED and (not job.errors or last < _end(job)):
        yield Attempt(None, "cancelled", None, _end(job), last)


def _end(job: Job) -> datetime:
    return job.finished_at or job.enqueued_at


def _draw(attempt: Attempt, scale: _Scale, job: Job) -> None:
    waited_to = attempt.begin or attempt.end
    texts = []
    if waited_to is not None and waited_to > attempt.waited_from:
        waited = {"time": duration((waited_to - attempt.waited_from).total_seconds())}
        text = _("waited %(time)s")
        if attempt.again:  # for most of that time it had ended
            begun = _("retried by hand, began %(time)s after the run before")
            text = _("retried by hand") if attempt.begin is None else begun
        text %= waited
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
