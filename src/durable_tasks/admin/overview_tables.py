"""The tables of the overview: rows of cells, each a text with what belongs to it."""

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from django.utils.translation import gettext as _

from ..history import Series, Totals, by_hour
from ..models import ErrorGroup
from ..state import LateSchedule, QueueState, WorkerState
from ..statuses import JobStatus
from .base import in_full
from .figures import NONE, ago, duration, percent, short
from .overview_links import Links

type Cell = dict[str, Any]
type Table = dict[str, Any]

# Rows of a table.
MOST = 10
MOST_GROUPS = 20
# Errors are counted by hour, so that the first hour may begin before the range.
RANGE_HOURS = {"1h": 2, "24h": 25, "7d": 169}
# The hours that a line shows, and those of one of its points.
SPARK = {"1h": (24, 1), "24h": (24, 1), "7d": (168, 6)}


def cell(text: str, *kinds: str, **more: Any) -> Cell:
    """Return a cell.

    ``kinds``: "number", to the right; "code"; "wide"; "acts"; "warn" or "bad". ``sub``: a second
    line; ``href``: where it leads; ``title``: more about it; ``pill``: a status and its text;
    ``spark``: the points of a line; ``acts``: links to what can be done.
    """
    classes = " ".join(f"dt-{kind}" for kind in kinds if kind)
    given = {"class": classes, **more}
    return {"text": text, **{name: value for name, value in given.items() if value}}


def table(key: str, title: str, columns: Iterable[str], rows: list[Any], **more: str) -> Table:
    """Return a table. ``rows``: of (key, cells). ``empty``: what is said without rows.

    A column whose cells are numbers is named to the right.
    """
    cells = rows[0][1] if rows else []
    numbers = ["dt-number" in each.get("class", "").split() for each in cells]
    return {
        "key": key,
        "title": title,
        "columns": [
            {"text": text, "number": number}
            for text, number in zip_longest(columns, numbers, fillvalue=False)
        ],
        "rows": [{"key": f"{key}-{name}", "cells": cells} for name, cells in rows],
        "more": "",
        "empty": "",
        **more,
    }


def errors(
    groups: list[ErrorGroup],
    failing: set[tuple[str, str, str]] | None,
    range_name: str,
    now: float,
    links: Links,
) -> Table:
    """Return the table of groups of errors, those with the most in the range first.

    ``failing``: as ``Look.failing_errors()`` has it. A group without FAILED jobs offers nothing to
    do to them, and leads to those that have raised its error and ended otherwise.
    """
    hours, step = SPARK[range_name]
    counted = [(sum(by_hour(group, now, RANGE_HOURS[range_name])), group) for group in groups]
    counted.sort(key=lambda pair: (-pair[0], -pair[1].last_seen.timestamp()))
    rows = []
    for count, group in counted[:MOST_GROUPS]:
        search = {
            "backend_name": group.backend_name,
            "exception_class_path": group.exception_class_path,
            "error_place": group.place,
        }
        if is_failing := failing is None or tuple(search.values()) in failing:
            search = {"status": JobStatus.FAILED.value, **search}
        since = now - group.last_seen.timestamp()
        cells = [
            cell(
                _last(group.exception_class_path),
                "code",
                sub=group.place,
                title=group.exception_class_path,
                href=links.jobs(**search),
            ),
            cell(group.message or NONE, "wide"),
            task(group.task_path, links),
            cell(short(count), "number", title=_("%d since it was first seen") % group.count),
            cell("", spark=spark(by_hour(group, now, hours), step)),
            cell(
                ago(since),
                sub=_("first %s") % ago(now - group.first_seen.timestamp()),
                title=f"{in_full(group.first_seen)} {NONE} {in_full(group.last_seen)}",
            ),
        ]
        if links.may_act and is_failing:
            cells.append(cell("", "acts", acts=links.acts(search)))
        elif links.may_act:
            cells.append(cell("", "acts", sub=_("no failed jobs")))
        rows.append((group.pk, cells))
    columns = [
        *(_("Error"), _("Message"), _("Last task"), _("Count")),
        *(_("By hour"), _("Last seen")),
        *([_("All failed jobs")] if links.may_act else []),
    ]
    return table(
        *("errors", _("Errors"), columns, rows),
        note=_(
            "Raised errors, by class and place, with those that were retried. They are counted by "
            "the hour, so that the first hour may begin before the chosen time."
        ),
        empty=_("No error in this time."),
        more=(
            _("and %d more") % (len(counted) - MOST_GROUPS) if len(counted) > MOST_GROUPS else ""
        ),
    )


def failing(found: Series, links: Links) -> Table:
    """Return the table of the tasks with the most failures and retries."""
    bad = [(path, sums) for path, sums in found.tasks.items() if sums.failed + sums.retried]
    bad.sort(key=lambda pair: (-pair[1].failed, -pair[1].retried, pair[0]))
    rows = [
        (
            path,
            [
                task(path, links),
                cell(
                    short(sums.failed),
                    "number",
                    href=links.jobs(status=JobStatus.FAILED.value, task_path=path),
                ),
                cell(short(sums.retried), "number"),
                cell(percent(sums.failure_rate), "number", _rate_level(sums)),
            ],
        )
        for path, sums in bad[:MOST]
    ]
    return table(
        *("failing", _("Most failing tasks")),
        [_("Task"), _("Failed"), _("Retried"), _("Failure rate")],
        rows,
        empty=_("Nothing failed in this time."),
    )


def slowest(found: Series, links: Links) -> Table:
    """Return the table of the tasks whose runs take longest, by p95."""
    timed = [(path, sums, sums.run_times()) for path, sums in found.tasks.items() if sums.runs]
    timed.sort(key=lambda each: (-(each[2][1] or 0), each[0]))
    rows = [
        (
            path,
            [
                task(path, links),
                cell(short(sums.attempts), "number"),
                *(cell(duration(seconds), "number") for seconds in times),
                cell(duration(sums.run_seconds), "number"),
            ],
        )
        for path, sums, times in timed[:MOST]
    ]
    return table(
        *("slowest", _("Slowest tasks")),
        [_("Task"), _("Runs"), "p50", "p95", "p99", _("Total time")],
        rows,
        empty=_("Nothing ran in this time."),
    )


def queues(states: list[QueueState], links: Links, *, several: bool) -> Table:
    """Return the table of queues, those with the most work first. ``several``: backends."""
    order = sorted(
        states, key=lambda each: (-each.ready.value, -each.waiting, each.backend_name, each.name)
    )
    rows = []
    for each in order[: 2 * MOST]:
        search = {"backend_name": each.backend_name, "queue_name": each.name}
        rows.append(
            (
                f"{each.backend_name}-{each.name}",
                [
                    cell(
                        each.name,
                        "code",
                        sub=each.backend_name if several else "",
                        href=links.here(
                            backend=each.backend_name if several else "", queue=each.name
                        ),
                        pill=("paused", str(JobStatus.PAUSED.label)) if each.is_paused else None,
                        title=_("Show this queue alone"),
                    ),
                    cell(
                        str(each.ready),
                        "number",
                        href=links.jobs(status=JobStatus.READY.value, **search),
                    ),
                    cell(
                        duration(each.waiting) if each.oldest_due else NONE,
                        "number",
                        "" if each.is_paused else waiting_level(each.waiting),
                        title=in_full(each.oldest_due),
                    ),
                    cell(str(each.scheduled), "number"),
                    cell(str(each.running), "number"),
                ],
            )
        )
    return table(
        *("queues", _("Queues")),
        [_("Queue"), _("Ready"), _("Oldest"), _("Scheduled"), _("Running")],
        rows,
        empty=_("No queue has jobs."),
        more=_("and %d more") % (len(order) - 2 * MOST) if len(order) > 2 * MOST else "",
    )


def late(schedules: list[LateSchedule], links: Links) -> Table:
    """Return the table of schedules that have not fired though they should have."""
    rows = [
        (
            each.row.pk,
            [
                cell(
                    each.row.name, href=links.change("periodictask", each.row.pk), sub=each.row.spec
                ),
                cell(
                    duration(each.late),
                    "number",
                    late_level(each.late),
                    title=in_full(each.row.next_run_at),
                ),
            ],
        )
        for each in schedules[:MOST]
    ]
    return table(
        *("late", _("Late schedules"), [_("Schedule"), _("Late for")], rows),
        empty=_("All schedules run on time."),
        more=_("and %d more") % (len(schedules) - MOST) if len(schedules) > MOST else "",
    )


def silent(states: list[WorkerState], links: Links) -> Table:
    """Return the table of workers that have not been heard of for too long."""
    rows = [
        (
            each.row.pk,
            [
                cell(
                    each.row.pk,
                    "code",
                    href=links.change("worker", each.row.pk),
                    sub=f"{each.row.host}, {each.row.pid}",
                ),
                cell(
                    _("Lost") if each.is_lost else _("Silent"),
                    "bad" if each.is_lost else "warn",
                ),
                cell(duration(each.age), "number"),
                cell(str(each.running), "number"),
            ],
        )
        for each in states
        if each.is_silent
    ]
    return table(
        *("silent", _("Silent workers")),
        [_("Worker"), _("State"), _("Not seen for"), _("Running")],
        rows[:MOST],
        empty=_("All workers have reported in time."),
    )


def task(path: str, links: Links) -> Cell:
    """Return the cell of a task: its name, and its module below."""
    return cell(
        _last(path), "code", sub=path.rpartition(".")[0], title=path, href=links.here(task=path)
    )


def spark(counts: list[int], step: int = 1) -> str:
    """Return the points of a line in a box of 96 x 20, through sums of ``step`` counts each."""
    sums = [sum(counts[at : at + step]) for at in range(0, len(counts), step)]
    top, width = max(*sums, 1), 96 / (len(sums) - 1)
    return " ".join(f"{at * width:.0f},{19 - 18 * each / top:.0f}" for at, each in enumerate(sums))


def waiting_level(seconds: float) -> str:
    """Return "warn" from a minute on, "bad" from five."""
    return "bad" if seconds > 300 else "warn" if seconds > 60 else ""


def late_level(seconds: float) -> str:
    """Return "bad" from five minutes on."""
    return "bad" if seconds > 300 else "warn"


def _rate_level(sums: Totals) -> str:
    return rate_level(sums.failure_rate, sums.successful + sums.failed)


def rate_level(rate: float | None, jobs: int) -> str:
    """Return "warn" from 5 % on, "bad" from 10 %; nothing for less than ten jobs."""
    if rate is None or jobs < 10:
        return ""
    return "bad" if rate >= 0.1 else "warn" if rate >= 0.05 else ""


def _last(path: str) -> str:
    return path.rpartition(".")[2]
