"""Histograms of times that can be added up: 4 buckets for each doubling, from a microsecond on.

A histogram is a dictionary of bucket -> count, which JSON makes text keys of; any two can be added.
A percentile is the middle of its bucket, at most 12.5 % off. The buckets are those of HdrHistogram
with two significant bits (Gil Tene, https://hdrhistogram.org), counted from 1 microsecond.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import frexp, ldexp
from typing import Any

# Seconds: what is shorter is in bucket 0.
SHORTEST = 1e-6
# The last bucket that there is: longer than anything, and still a number.
_LAST = 1000


def bucket(seconds: float) -> int:
    """Return the bucket that a time belongs to; 0 for none or less."""
    if seconds <= SHORTEST:
        return 0
    mantissa, exponent = frexp(seconds / SHORTEST)  # 0.5 <= mantissa < 1
    return (exponent << 2) + int(mantissa * 8) - 8


def middle(number: int) -> float:
    """Return the seconds in the middle of a bucket."""
    if number <= 0:
        return 0.0
    exponent, quarter = divmod(min(number, _LAST), 4)
    return ldexp((quarter + 4.5) / 8, exponent + 1) * SHORTEST


def add(histograms: Iterable[Mapping[str, int] | Mapping[int, int]]) -> dict[int, int]:
    """Return the sum of histograms, with whole numbers as keys."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for key, count in histogram.items():
            number = int(key)
            total[number] = total.get(number, 0) + count
    return total


def whole(value: Any) -> dict[int, int]:
    """Return a histogram as JSON has it with whole numbers as keys; without what is none."""
    found = {}
    for key, count in value.items() if isinstance(value, Mapping) else ():
        text = str(key)
        if isinstance(count, int) and text.isascii() and text.isdecimal() and len(text) < 18:
            found[int(text)] = count
    return found


def percentiles(histogram: Mapping[int, int], ranks: Sequence[float]) -> list[float | None]:
    """Return the time, in seconds, that the share ``rank`` (0 to 1) of all do not exceed.

    ``ranks``: in any order. None for each if the histogram is empty.
    """
    total = sum(histogram.values())
    if not total:
        return [None] * len(ranks)
    found: list[float | None] = []
    for rank in ranks:
        left = rank * total
        for number in sorted(histogram):
            left -= histogram[number]
            if left <= 0:
                break
        found.append(middle(number))
    return found
