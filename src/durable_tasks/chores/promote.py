"""Scheduled jobs that are due become ready."""

from dataclasses import dataclass
from datetime import datetime

from ..store import Store


@dataclass(frozen=True, slots=True)
class Promoted:
    """How many jobs became ready, and when the next one is due."""

    jobs: int
    next_due: datetime | None


def tick(store: Store, now: datetime) -> Promoted:
    """Promote every job that is due at ``now`` (database time)."""
    jobs = 0
    while True:
        next_due = store.next_due()
        if next_due is None or next_due > now:
            return Promoted(jobs, next_due)
        promoted = store.promote(now)
        jobs += promoted
        if not promoted:  # others are at it
            return Promoted(jobs, next_due)
