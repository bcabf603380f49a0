"""What is done to jobs by hand, in the caller's transaction, once their rows are locked.

A lease moves only where somebody may still hold the job, or held it last. Jobs that wait are in
nobody's hands: their rows are locked, so that a worker claims them before or after, as they are.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import batched
from typing import Any
from uuid import UUID

from ..retention import Rule
from ..statuses import ENDED, WAITING, JobStatus
from .database import TABLE, Database, marks
from .messages import MAX_BATCH, Claim, Finish, LockedJob
from .queues import Queues

# What a job has from its runs, but for errors.
_OF_A_RUN = (
    *("started_at", "last_attempted_at", "finished_at", "started_lease", "worker_id"),
    *("return_value", "cancel_requested_at", "delete_after"),
)


class Handling(Database):
    """Locks jobs and changes them."""

    def lock(self, ids: Sequence[UUID], *, wait: bool = True) -> list[LockedJob]:
        """Return those of these jobs that are there, in order of id, locked.

        ``wait``: for those that another transaction has locked; otherwise they are left out.
        Served by the primary key.
        """
        rows = self.rows(
            f"SELECT {', '.join(LockedJob.__slots__)} FROM {self._BY_KEY} "
            f"WHERE id IN ({marks(len(ids))}) ORDER BY id {self._LOCK[wait]}",
            [self.to_id(id) for id in ids],
        )
        return [LockedJob(self.from_id(row[0]), *row[1:]) for row in rows]

    # The table, read by its primary key; what locks, without waiting and with.
    _BY_KEY = TABLE
    _LOCK = ("FOR UPDATE SKIP LOCKED", "FOR UPDATE")

    def cancel(
        self,
        jobs: Iterable[LockedJob],
        now: datetime,
        rule_of: Callable[[LockedJob], Rule | None] = lambda job: None,
    ) -> list[LockedJob]:
        """Cancel locked jobs; return those that were waiting or running.

        A waiting job is CANCELLED at once, and ``rule_of`` says how long it stays; of a running one
        it is noted, for its worker to see.
        """
        open_jobs = [job for job in jobs if job.status not in ENDED]
        running = [self.to_id(job.id) for job in open_jobs if job.status == JobStatus.RUNNING]
        if running:
            self.changed(
                f"UPDATE {self._BY_KEY} SET cancel_requested_at = %s "
                f"WHERE id IN ({marks(len(running))}) AND cancel_requested_at IS NULL",
                [self.to_time(now), *running],
            )
        finishes = []
        for job in open_jobs:
            if job.status != JobStatus.RUNNING:
                finish = Finish.cancelled(job, now)
                if (rule := rule_of(job)) is not None:
                    finish.retain(rule)
                finishes.append(finish)
        if finishes:
            self._exchange(finishes, 0, Queues("", ()), "", now)
        return open_jobs

    def retry(self, jobs: Iterable[LockedJob], now: datetime) -> list[LockedJob]:
        """Make those of these locked jobs READY that have ended; return them.

        All begins anew, attempts and lost runs too; but the errors stay, and the lease grows.
        """
        ended = [job for job in jobs if job.status in ENDED]
        self._set(
            ended,
            "status = 'READY', lease = lease + 1, run_at = %s, attempts = 0, lost = 0, "
            + ", ".join(f"{name} = NULL" for name in _OF_A_RUN),
            self.to_time(now),
        )
        return ended

    def run_now(self, jobs: Iterable[LockedJob], now: datetime) -> list[LockedJob]:
        """Make those of these locked jobs READY that are SCHEDULED, due now; return them."""
        scheduled = [job for job in jobs if job.status == JobStatus.SCHEDULED]
        self._set(scheduled, "status = 'READY', run_at = %s", self.to_time(now))
        return scheduled

    def move(self, jobs: Iterable[LockedJob], queue_name: str) -> list[LockedJob]:
        """Put those of these locked jobs that wait into another queue; return them."""
        moved = [job for job in jobs if job.status in WAITING and job.queue_name != queue_name]
        self._set(moved, "queue_name = %s", queue_name)
        return moved

    def prioritize(self, jobs: Iterable[LockedJob], priority: int) -> list[LockedJob]:
        """Give those of these locked jobs that wait another priority; return them."""
        waiting = [job for job in jobs if job.status in WAITING and job.priority != priority]
        self._set(waiting, "priority = %s", priority)
        return waiting

    def mark(self, jobs: Iterable[LockedJob], delete_after: datetime) -> list[LockedJob]:
        """Say when those of these locked jobs that have ended are to be deleted; return them."""
        ended = [job for job in jobs if job.status in ENDED]
        self._set(ended, "delete_after = %s", self.to_time(delete_after))
        return ended

    def discard(self, jobs: Iterable[LockedJob]) -> list[LockedJob]:
        """Delete those of these locked jobs that do not run; return them.

        Raises ``IntegrityError``, now or at the commit, if a row of another table refers to one.
        """
        gone = [job for job in jobs if job.status != JobStatus.RUNNING]
        if gone:
            self.changed(
                f"DELETE FROM {TABLE} WHERE id IN ({marks(len(gone))})",
                [self.to_id(job.id) for job in gone],
            )
        return gone

    def _set(self, jobs: Sequence[LockedJob], changes: str, *params: Any) -> None:
        if jobs:
            self.changed(
                f"UPDATE {self._BY_KEY} SET {changes} WHERE id IN ({marks(len(jobs))})",
                [*params, *(self.to_id(job.id) for job in jobs)],
            )

    def cancels_among(self, ids: Sequence[UUID]) -> list[tuple[UUID, int]]:
        """Return id and lease of those of these jobs whose cancel was asked for.

        Served by the primary key: durable_job_running has an entry of each job that a worker ever
        had, dead ones too while a transaction elsewhere stays open.
        """
        found: list[tuple[UUID, int]] = []
        for some in batched(ids, MAX_BATCH):
            rows = self.rows(
                f"SELECT id, lease FROM {self._BY_KEY} "
                f"WHERE id IN ({marks(len(some))}) AND cancel_requested_at IS NOT NULL",
                [self.to_id(id) for id in some],
            )
            found += [(self.from_id(id), lease) for id, lease in rows]
        return found

    # Of the store

    @abstractmethod
    def _exchange(
        self, batch: list[Finish], want: int, queues: Queues, worker_id: str, now: datetime
    ) -> list[Claim]: ...
