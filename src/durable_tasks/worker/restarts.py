"""When a supervisor starts a worker again: rules without processes."""

import signal
from contextlib import suppress

from .stopping import DISMISSED, GAVE_UP, RENEW, STUCK

# Seconds until the next start, for a worker that ends again and again soon after its start.
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Seconds after which an end is not "soon after the start" any more.
STEADY = 60.0
# So many starts in a row that never got to work are enough.
MAX_FAILED_STARTS = 5


class Restarts:
    """When the next worker starts in one worker's place. ``now``: seconds, of any clock."""

    def __init__(self) -> None:
        self.failed_starts = 0  # in a row, that never got to work
        self.has_worked = False
        self._started_at = 0.0
        self._soon = 0  # ends in a row, each soon after its start

    def started(self, now: float) -> None:
        self._started_at = now

    def ended(self, now: float, *, worked: bool, renew: bool = False) -> float:
        """Return the seconds until the next start. ``renew``: it ended because it was to."""
        self.has_worked = self.has_worked or worked
        self.failed_starts = 0 if worked else self.failed_starts + 1
        if worked and (renew or now - self._started_at >= STEADY):
            self._soon = 0
            return 0.0
        self._soon += 1
        return PAUSES[min(self._soon, len(PAUSES)) - 1]

    def failure(self, error: str, *, others_work: bool) -> tuple[str, int] | None:
        """Return why there is no use in another start, and the exit code, or None.

        ``error``: what the last worker said before it ended, if it said something.
        A place in which a worker has worked before is not given up while others work: the
        database may be away, and comes back.
        """
        if error and not self.has_worked:
            return error, 1  # wrong settings, or no tables: it will say so each time
        if self.failed_starts >= MAX_FAILED_STARTS and not others_work:
            text = error or "see what it printed"
            return (
                f"Gave up: {self.failed_starts} starts in a row came to nothing ({text}).",
                GAVE_UP,
            )
        return None


def how_it_ended(code: int) -> str:
    """Return what an exit code, as ``subprocess`` gives it, stands for."""
    if code == RENEW:
        return "has reached its limit"
    if code == DISMISSED:
        return "was asked to stop"
    if code == STUCK:
        return "had a task that did not end when its time was over or its job cancelled"
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"
