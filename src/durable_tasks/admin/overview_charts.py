"""The charts of the overview: what is drawn, as plain numbers."""

from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext as _

from ..history import Point, Series, Totals
from .figures import duration, short

# Drawn from the top down: failures stand on the ground, where a few of them are seen.
OUTCOMES = ("successful", "cancelled", "retried", "lost", "failed")


def charts(found: Series, *, by_task: bool) -> list[dict[str, Any]]:
    """Return the charts; ``values`` are by point, None for a gap.

    ``by_task``: of one task, for which nobody counts what waits.
    """
    sums = found.totals()
    drawn = [
        _outcomes(found, sums),
        _times(
            "waits",
            _("Wait before the start"),
            _("From being due to the start. p95: 95 of 100 runs did not wait longer."),
            found,
            Totals.wait_times,
            sums,
        ),
        _times(
            "runs",
            _("Run time"),
            _("From the start to the end. p95: 95 of 100 runs did not take longer."),
            found,
            Totals.run_times,
            sums,
        ),
    ]
    return drawn if by_task else [drawn[0], _depth(found), *drawn[1:]]


def _outcomes(found: Series, sums: Totals) -> dict[str, Any]:
    labels = {
        "failed": _("Failed"),
        "lost": _("Lost"),
        "retried": _("Retried"),
        "cancelled": _("Cancelled"),
        "successful": _("Successful"),
    }
    return {
        "key": "outcomes",
        "kind": "stack",
        "unit": "count",
        "title": _("Runs per minute"),
        "note": _(
            "Runs that ended, by how. A retried run raised an error and is followed by another; "
            "the worker of a lost one is gone. A lost run that was the last of its job counts as "
            "failed, too."
        ),
        "series": [
            {
                "key": name,
                "label": labels[name],
                "text": short(getattr(sums, name)),
                "values": [
                    None if point is None else _round(getattr(point.totals, name) * 60 / covered)
                    for point, covered in zip(found.points, found.covered, strict=True)
                ],
            }
            for name in OUTCOMES
            if getattr(sums, name) or name in ("successful", "failed")
        ],
    }


def _depth(found: Series) -> dict[str, Any]:
    labels = {"ready": _("Ready"), "scheduled": _("Scheduled"), "running": _("Running (right)")}
    drawn = []
    for name, label in labels.items():
        values = [None if point is None else _depth_of(point, name) for point in found.points]
        known = [value for value in values if value is not None]
        drawn.append(
            {
                "key": name,
                "label": label,
                "text": short(known[-1] if known else None),
                "values": values,
            }
        )
    return {
        "key": "depth",
        "kind": "depth",
        "unit": "count",
        "title": _("Jobs that wait and run"),
        "note": _(
            "The most at once in each period, looked at once a minute. "
            "Ready jobs are counted up to 100,000 a queue, scheduled ones up to 10,000."
        ),
        "series": drawn,
    }


def _times(
    key: str,
    title: str,
    note: str,
    found: Series,
    times: Callable[[Totals], list[float | None]],
    sums: Totals,
) -> dict[str, Any]:
    points = [times(Totals() if point is None else point.totals) for point in found.points]
    return {
        "key": key,
        "kind": "times",
        "unit": "seconds",
        "title": title,
        "note": note,
        "series": [
            {
                "key": name,
                "label": name,
                "text": text,
                "values": [_round(value) for value in values],
            }
            for name, text, values in zip(
                ("p50", "p95", "p99"),
                map(duration, times(sums)),
                zip(*points, strict=True),
                strict=True,
            )
        ],
    }


def _depth_of(point: Point, name: str) -> int | None:
    value: int | None = getattr(point, name)
    return value


def _round(number: float | None) -> float | None:
    """Return three figures: more would only make the answer longer."""
    return None if number is None else float(f"{number:.3g}")
