"""Figures as people read them: 1.2k, 340 ms, 3 min ago."""

from collections.abc import Callable
from functools import wraps

from django.utils.formats import number_format
from django.utils.translation import gettext as _

NONE = "\N{EN DASH}"


def _unbroken[**P](words: Callable[P, str]) -> Callable[P, str]:
    """Keep a number and its unit on one line."""

    @wraps(words)
    def unbroken(*args: P.args, **kwargs: P.kwargs) -> str:
        return words(*args, **kwargs).replace(" ", "\N{NO-BREAK SPACE}")

    return unbroken


def short(number: float | None) -> str:
    """Return a number in at most four figures: 7, 1.2k, 34k, 5.6M."""
    if number is None:
        return NONE
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            return _figures(number / size) + sign
    return _figures(number)


@_unbroken
def percent(share: float | None) -> str:
    """Return a share, 0 to 1, in percent; what is more than none is never shown as 0."""
    if share is None:
        return NONE
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{_figures(share * 100)} %"


@_unbroken
def duration(seconds: float | None) -> str:
    """Return a time in its greatest unit, or two: 340 ms, 4.2 s, 5 min 20 s, 3 h, 2 d."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        if 0 < seconds < 0.0001:
            return _("< 0.1 ms")
        return _("%s ms") % _figures(seconds * 1000)
    if seconds < 59.5:
        return _("%s s") % _figures(seconds)
    whole = round(seconds)
    if whole < 600:
        return _two(_("%s min"), _("%s s"), whole, 60)
    if whole < 3600:
        return _("%s min") % (whole // 60)
    if whole < 36_000:
        return _two(_("%s h"), _("%s min"), whole // 60, 60)
    if whole < 2 * 86_400:
        return _("%s h") % (whole // 3600)
    return _("%s d") % (whole // 86_400)


@_unbroken
def rough(seconds: float) -> str:
    """Return a time in its greatest unit, rounded down: 34 s, 2 min, 3 h, 4 d."""
    whole = max(0, int(seconds))
    for size, upto, unit in (
        (1, 60, _("%s s")),
        (60, 3600, _("%s min")),
        (3600, 2 * 86_400, _("%s h")),
    ):
        if whole < upto:
            return unit % (whole // size)
    return _("%s d") % (whole // 86_400)


def ago(seconds: float) -> str:
    """Return roughly how long ago something was."""
    return _("%s ago") % rough(seconds)


def _two(great: str, small: str, number: int, size: int) -> str:
    whole, rest = divmod(number, size)
    return f"{great % whole} {small % rest}" if rest else great % whole


def _figures(number: float) -> str:
    # One decimal where the number would be a single figure; never more than anybody reads.
    rounded = round(number, 1)
    if rounded >= 10 or rounded == int(rounded):
        return number_format(round(number), use_l10n=True)
    return number_format(rounded, decimal_pos=1, use_l10n=True)
