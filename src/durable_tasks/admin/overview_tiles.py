"""The tiles of the overview and its notices: how things are, and what is wrong."""

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import clock
from ..history import Totals
from ..state import LateSchedule, PauseState, QueueState, WorkerState
from ..statuses import JobStatus
from .base import Moment
from .figures import ago, duration, percent, rough, short
from .overview_links import Links
from .overview_tables import late_level, rate_level, waiting_level

type Tile = dict[str, Any]

# Minutes whose average is the throughput.
MINUTES = 5


def _tile(key: str, label: str, value: str, title: str, note: str = "", **more: str) -> Tile:
    return {
        "key": key,
        "label": label,
        "value": value,
        "title": title,
        "note": note,
        "unit": "",
        "level": "",
        "href": "",
        **more,
    }


def waiting(states: list[QueueState], links: Links) -> Tile:
    """Return the tile of the jobs that are due, and of the one that is due longest."""
    ready = sum(each.ready.value for each in states)
    more = "+" if any(each.ready.is_more for each in states) else ""
    oldest = max((each.waiting for each in states if not each.is_paused), default=0.0)
    return _tile(
        "waiting",
        _("Ready"),
        short(ready) + more,
        _(
            "Jobs that are due and wait for a worker, and for how long the oldest has waited. "
            "The oldest of paused queues is left out."
        ),
        _("oldest %s") % rough(oldest) if oldest else "",
        level=waiting_level(oldest),
        href=links.jobs(status=JobStatus.READY.value),
    )


def running(states: list[QueueState], workers: list[WorkerState], links: Links) -> Tile:
    """Return the tile of what runs, out of what could run at once."""
    count = sum(each.running.value for each in states)
    more = "+" if any(each.running.is_more for each in states) else ""
    capacity = sum(each.capacity for each in workers if not each.is_lost)
    return _tile(
        "running",
        _("Running"),
        short(count) + more,
        _("Jobs that workers have claimed, out of how many all workers can run at once."),
        _("of %s at once") % short(capacity),
        href=links.jobs(status=JobStatus.RUNNING.value),
    )


def throughput(recent: Totals) -> Tile:
    """Return the tile of how many jobs end a minute."""
    return _tile(
        "throughput",
        _("Throughput"),
        short(recent.ended / MINUTES),
        _("Jobs that ended, a minute, on average over the last %d minutes.") % MINUTES,
        _("last %d minutes") % MINUTES,
        unit=_("/min"),
    )


def failures(sums: Totals, links: Links) -> Tile:
    """Return the tile of the jobs that failed in the range."""
    rate = sums.failure_rate
    return _tile(
        "failures",
        _("Failed"),
        short(sums.failed),
        _("Jobs that failed for good in the chosen time, and their share of those that ended."),
        "" if rate is None else _("%s of all") % percent(rate),
        level=rate_level(rate, sums.successful + sums.failed),
        href=links.jobs(status=JobStatus.FAILED.value),
    )


def wait(sums: Totals) -> Tile:
    """Return the tile of how long jobs waited."""
    p50, p95, p99 = sums.wait_times()
    return _tile(
        "wait",
        _("Wait, p95"),
        duration(p95),
        _("95 of 100 runs in the chosen time started within this time after they were due."),
        _middle(p50, p99),
        level=waiting_level(p95 or 0.0),
    )


def run(sums: Totals) -> Tile:
    """Return the tile of how long runs took."""
    p50, p95, p99 = sums.run_times()
    return _tile(
        "run",
        _("Run time, p95"),
        duration(p95),
        _("95 of 100 runs in the chosen time took no longer than this."),
        _middle(p50, p99),
    )


def _middle(p50: float | None, p99: float | None) -> str:
    if p50 is None:
        return ""
    return _("p50 %(p50)s, p99 %(p99)s") % {"p50": duration(p50), "p99": duration(p99)}


def workers(states: list[WorkerState], links: Links) -> Tile:
    """Return the tile of the workers that live, and of those that are silent."""
    alive = sum(not each.is_silent for each in states)
    silent, level = len(states) - alive, ""
    if not alive or any(each.is_lost for each in states):
        level = "bad"
    elif silent:
        level = "warn"
    if silent:
        note = ngettext("%d silent", "%d silent", silent) % silent
    elif states:
        note = _("seen %s") % ago(max(each.age for each in states))
    else:
        note = _("none is running")
    return _tile(
        "workers",
        _("Workers"),
        short(alive),
        _("Workers that report in time. A silent one missed its heartbeats; its jobs run again."),
        note,
        level=level,
        href=links.page("worker"),
    )


def schedules(late: list[LateSchedule], links: Links) -> Tile:
    """Return the tile of the schedules that are late."""
    return _tile(
        "schedules",
        _("Late schedules"),
        short(len(late)),
        _("Periodic tasks that are switched on and should have run more than a minute ago."),
        _("by up to %s") % rough(late[0].late) if late else _("all on time"),
        level=late_level(late[0].late) if late else "",
        href=links.page("periodictask"),
    )


def notices(
    workers: list[WorkerState], pauses: list[PauseState], *, counted: bool, links: Links
) -> list[dict[str, str]]:
    """Return what has to be seen before all else. ``counted``: do workers count at all?"""
    found = []
    if all(each.is_lost for each in workers):
        text = _("No worker is running, so that no job starts. Start one:")
        found.append({"level": "bad", "text": text, "code": "python manage.py db_worker"})
    found += [
        {"level": "paused", "text": _paused(each), "href": links.page("pause")} for each in pauses
    ]
    if not counted:
        text = _("Workers count nothing, so that charts stay empty. To change this, remove")
        found.append({"level": "info", "text": text, "code": 'OPTIONS["statistics"]'})
    return [{"key": str(at), "href": "", "code": "", **each} for at, each in enumerate(found)]


def _paused(pause: PauseState) -> str:
    row = pause.row
    values = {
        "name": row.task_path or row.queue_name,
        "since": Moment(row.paused_at, clock.now()).short,
        "by": row.paused_by,
        "held": pause.held,
    }
    if row.task_path:
        text = _("The task %(name)s is paused since %(since)s")
    else:
        text = _("The queue %(name)s is paused since %(since)s")
    if row.paused_by:
        text += _(", by %(by)s")
    if pause.held is not None and pause.held.value:
        text += _("; jobs held back: %(held)s")
    return text % values + "."
