"""A pool as the loop sees it: what it holds, and how much more it should have."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..store import Claim
from ..store.messages import MAX_BATCH
from .pools import Pool

# Seconds of work that may wait in this process, so that a round trip never leaves a slot idle.
RESERVE = 0.15
# How much one run counts in the usual run time: among a hundred short ones, some long ones should
# not be forgotten.
WEIGHT = 0.02


@dataclass(slots=True, eq=False)
class Lane:
    """A pool as the loop sees it."""

    pool: Pool
    prefetch: int | None = None  # claims beyond the free slots; None: as many as fit RESERVE
    held: int = 0  # submitted and not ended
    share: float = 0.0  # of the recent claims, how many were for this pool
    seconds: float | None = None  # a claim's usual run time
    runs: int = 0  # how many it is the average of
    ended_at: float = 0.0  # when one ended last, or the pool was idle (monotonic)
    waiting_since: float | None = None  # since when claims wait and none has ended (monotonic)

    @property
    def is_free(self) -> bool:
        """Whether a slot is free."""
        return self.held < self.pool.slots

    @property
    def waits(self) -> bool:
        """Whether claims wait for a slot."""
        return self.held > self.pool.slots

    def room(self, now: float) -> int:
        """Return how many more claims fit: free slots and a reserve."""
        if self.prefetch is not None:
            return min(self.pool.slots + self.prefetch, MAX_BATCH) - self.held
        pace = self.seconds
        if pace is not None and self.held >= self.pool.slots:
            # All slots are taken and nothing ends: this is no time for a reserve.
            pace = max(pace, (now - self.ended_at) * self.pool.slots)
        reserve = 0 if pace is None else int(self.pool.slots * RESERVE / max(pace, 1e-6))
        reserve = min(reserve, self.runs)  # a few short ones say little about the next hundred
        return min(self.pool.slots + reserve, MAX_BATCH) - self.held

    def submit(self, claims: list[Claim], now: float) -> None:
        """Hand claims to the pool."""
        if not self.held:
            self.ended_at = now
        self.held += len(claims)
        if self.waits and self.waiting_since is None:
            self.waiting_since = now
        self.pool.submit(claims)

    def end(self, now: float, times: Sequence[float | None]) -> None:
        """Note how many seconds each claim that ended took; None for one that had not begun."""
        self.held -= len(times)
        self.ended_at = now
        self.waiting_since = now if self.waits else None
        if known := [seconds for seconds in times if seconds is not None]:
            self.runs += len(known)
            usual = self.seconds or 0.0
            weight = min(1.0, len(known) * max(WEIGHT, 1 / self.runs))
            self.seconds = usual + weight * (sum(known) / len(known) - usual)

    def take_back(self) -> list[Claim]:
        """Take what has not started out of the pool."""
        claims = self.pool.take_back()
        self.held -= len(claims)
        self.waiting_since = None
        return claims
