"""Arithmetic on samples."""

from collections.abc import Sequence
from math import ceil


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that so many percent of them do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
