"""Where the READY jobs of each queue and priority begin, known from one look to the next.

A job that is claimed leaves its entry in durable_job_ready behind, dead. While a transaction
elsewhere stays open the database may not clear dead entries away, and all of them lie before the
first live one: after 100,000 jobs, each claim reads 100,000 entries (15 to 20 ms on PostgreSQL;
on MariaDB, which also locks each, above 100). A claim that starts at the heads reads none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from .messages import Claim
from .queues import Queues

# Seconds between two looks for the heads: for so long, a job that lies before them may wait.
EVERY = 1.0
# Seconds of an exchange from which it is worth a look, and of a look at one queue and priority,
# without the round trip, from which there are so many dead entries that heads are used.
SLOW_EXCHANGE, SLOW_LOOK = 0.005, 0.002
# Seconds of a look-up from a head that finds nothing, from which so much was claimed after it that
# the head is of no use.
SLOW_HEAD = 0.002
# With more heads than that, looking at each would cost more than the dead entries.
MAX_HEADS = 32


@dataclass(frozen=True, slots=True)
class Head:
    """The first READY job of a queue and priority; it may be claimed since."""

    queue_name: str
    priority: int
    run_at: datetime
    id: UUID


class Heads:
    """Whether claims start at heads, and at which ones. Times are monotonic seconds.

    They are used only if two looks in a row were slow: one may have been an accident, and without
    dead entries no job should wait for a look.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Look at all READY jobs until two more looks were slow."""
        self._queues: Queues | None = None
        self._heads: dict[tuple[str, int], Head] = {}
        self._suspected = False
        self._slow = False  # the last look was
        self._used = False
        self._look_at = 0.0

    def known(self, queues: Queues) -> list[Head]:
        """Return the heads to start at, best priority first; none: look at all READY jobs."""
        if not self._used or queues != self._queues or len(self._heads) > MAX_HEADS:
            return []
        return sorted(self._heads.values(), key=lambda head: -head.priority)

    def is_due(self, now: float) -> bool:
        """Return whether to look for the heads now."""
        return now >= self._look_at and (self._suspected or self._slow)

    def missing(self, queues: Queues, found: Sequence[Head]) -> list[Head]:
        """Return the heads of what had jobs before and has none now.

        Its next jobs will come after its head, and need not wait for a look if that is kept.
        """
        if queues != self._queues or len(self._heads) + len(found) > MAX_HEADS:
            return []
        here = {(head.queue_name, head.priority) for head in found}
        return [head for key, head in self._heads.items() if key not in here]

    def keeps(self, seconds: float) -> bool:
        """Return whether a missing head stays, from which a look-up took so many seconds."""
        return seconds <= SLOW_HEAD

    def looked(self, queues: Queues, found: Sequence[Head], slowest: float, now: float) -> None:
        """Note what a look found, and the seconds that the slowest part of it took."""
        slow = slowest > SLOW_LOOK
        self._used = slow and self._slow
        self._slow = slow
        self._suspected = False
        self._look_at = now + EVERY
        self._queues = queues
        self._heads = {}
        self._move(found)

    def exchanged(self, queues: Queues, claims: Sequence[Claim], seconds: float) -> None:
        """Note how long an exchange took, and that what it claimed is dead by now."""
        if seconds > SLOW_EXCHANGE:
            self._suspected = True
        if self._slow and queues == self._queues:
            self._move(claims)

    def _move(self, jobs: Sequence[Head | Claim]) -> None:
        for job in reversed(jobs):  # in order: the first of a queue and priority is what remains
            head = Head(job.queue_name, job.priority, job.run_at, job.id)
            self._heads[job.queue_name, job.priority] = head
