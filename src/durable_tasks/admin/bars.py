"""The last runs of a periodic task as small bars: height is the run time, colour the status."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..models import Job, PeriodicTask
from ..statuses import JobStatus
from .base import in_full, jobs_database
from .figures import NONE, duration
from .machine import pill

# Pixels: of a bar, between two, and of the picture; the least height of a run.
WIDTH, GAP, HEIGHT, LEAST = 6, 2, 24, 4
# Runs that a list shows.
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a periodic task; ``status`` is empty if its job is gone."""

    id: str
    status: str = ""
    due: datetime | None = None
    began: datetime | None = None
    seconds: float | None = None

    @property
    def label(self) -> str:
        return str(JobStatus(self.status).label) if self.status in set(JobStatus) else self.status

    @property
    def pill(self) -> SafeString:
        return pill(self.status.lower() or "gone", self.label or _("deleted"))

    @property
    def took(self) -> str:
        return duration(self.seconds)

    @property
    def title(self) -> str:
        parts = (
            self.label or _("deleted"),
            in_full(self.due),
            "" if self.seconds is None else duration(self.seconds),
        )
        return " · ".join(part for part in parts if part)


def runs_of(rows: Iterable[PeriodicTask], most: int) -> dict[int, list[Run]]:
    """Return by row id the last runs, the latest last: one query, by the jobs' ids."""
    wanted = {row.pk: _ids(row.last_job_ids)[-most:] for row in rows}
    ids = {id for each in wanted.values() for id in each}
    columns = ("id", "status", "run_at", "last_attempted_at", "finished_at")
    jobs = Job.objects.using(jobs_database()).filter(id__in=ids).values_list(*columns)
    found = {str(id): _run(str(id), *rest) for id, *rest in jobs} if ids else {}
    return {pk: [found.get(id, Run(id)) for id in each] for pk, each in wanted.items()}


def _ids(given: Any) -> list[str]:
    """Return the ids of jobs in what a row has; what is none is left out."""
    found = []
    for id in given if isinstance(given, list) else ():
        with suppress(ValueError):
            found.append(str(UUID(str(id))))
    return found


def _run(
    id: str, status: str, due: datetime, began: datetime | None, ended: datetime | None
) -> Run:
    seconds = (ended - began).total_seconds() if began and ended else None
    return Run(id, status, due, began, seconds)


def bars(runs: Sequence[Run]) -> SafeString:
    """Return the picture."""
    if not runs:
        return format_html('<span class="dt-quiet">{}</span>', NONE)
    longest = max((run.seconds or 0.0 for run in runs), default=0.0) or 1.0

    def bar(place: int, run: Run) -> tuple[Any, ...]:
        height = LEAST + round((HEIGHT - LEAST) * (run.seconds or 0.0) / longest)
        kind = run.status.lower() or "gone"
        return (place * (WIDTH + GAP), HEIGHT - height, WIDTH, height, kind, run.title)

    drawn = format_html_join(
        "",
        '<rect x="{}" y="{}" width="{}" height="{}" rx="1" class="dt-bar dt-dot--{}">'
        "<title>{}</title></rect>",
        (bar(place, run) for place, run in enumerate(runs)),
    )
    failed = sum(run.status == JobStatus.FAILED for run in runs)
    said = ngettext("The last run", "The last %d runs", len(runs))
    said = said % len(runs) if "%d" in said else said
    if failed:
        said += ", " + ngettext("%d failed", "%d failed", failed) % failed
    width = max(len(runs), SHOWN) * (WIDTH + GAP)
    return format_html(
        '<svg class="dt-bars" role="img" aria-label="{}" width="{}" height="{}">{}</svg>',
        *(said, width, HEIGHT, drawn),
    )
