"""What the engine and a store say to each other: new jobs, claims, and what became of them."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from ..exceptions import TaskCancelled
from ..places import place_of
from ..results import add_error, dumps
from ..retention import Rule
from ..statuses import ENDED, JobStatus

# A batch of finishes is bounded by count and by bytes of JSON.
MAX_BATCH = 500
MAX_BATCH_BYTES = 1024 * 1024


@dataclass(slots=True)
class NewJob:
    """A job to insert; ``args`` and ``kwargs`` are JSON. The fields are the INSERT's columns."""

    id: Any  # a UUID, or a database expression
    status: str
    backend_name: str
    queue_name: str
    priority: int
    task_path: str
    args: str
    kwargs: str
    run_after: datetime | None
    run_at: datetime
    enqueued_at: datetime
    schedule: str | None = None


@dataclass(slots=True, eq=False)
class Claim:
    """A job that a worker has taken, as the row was *before* but for lease and attempts.

    Told apart by identity: a job may be claimed again while a lost run of it goes on.
    """

    id: UUID
    lease: int  # this claim's token
    attempts: int  # this run counted
    task_path: str
    queue_name: str
    priority: int
    args: str  # JSON
    kwargs: str  # JSON
    run_after: datetime | None
    run_at: datetime
    enqueued_at: datetime
    started_at: datetime | None  # of the first run, if this is not the first
    last_attempted_at: datetime | None  # of the run before
    lost: int
    errors: str | None  # JSON
    schedule: str | None = None  # the name of the periodic task that made it
    worker_id: str | None = None
    # Of one that was read from the table again.
    started_lease: int | None = None
    backend_name: str | None = None

    @property
    def runs(self) -> int:
        """How often the job was started but for the runs that were lost; this one included."""
        return self.attempts - self.lost


CLAIM_COLUMNS = tuple(
    name for name in Claim.__slots__ if name not in ("worker_id", "started_lease", "backend_name")
)


@dataclass(slots=True)
class LockedJob:
    """A job as what is done by hand finds it; the fields are the SELECT's columns."""

    id: UUID
    status: str
    backend_name: str
    queue_name: str
    priority: int
    task_path: str
    schedule: str | None
    worker_id: str | None
    lease: int
    attempts: int
    errors: str | None  # JSON


@dataclass(slots=True, eq=False)
class Finish:
    """What becomes of a claim: written only if the job still has the claim's lease.

    ``writes`` names the columns that this ending changes, as attributes of this object; the
    statements are generated from it. ``counted``: set by the store once it was written.
    """

    id: UUID
    fence: int  # the lease that the row must have
    writes: tuple[str, ...]
    status: str
    started_at: datetime | None = None
    last_attempted_at: datetime | None = None
    finished_at: datetime | None = None  # when the run ended, if it began
    run_at: datetime | None = None
    return_value: str | None = None  # JSON
    errors: str | None = None  # JSON
    exception_class_path: str | None = None
    error_place: str | None = None
    worker_id: str | None = None
    lease: int = 0
    attempts: int = 0
    lost: int = 0
    delete_after: datetime | None = None
    counted: bool = False
    saved: bool = False  # the task's own transaction has written it
    # Not stored: what the announcement needs.
    claim: Claim | None = field(default=None, repr=False)
    exception: BaseException | None = field(default=None, repr=False)

    @classmethod
    def succeeded(
        cls, claim: Claim, return_value: str | None, *, started_at: datetime, finished_at: datetime
    ) -> "Finish":
        """The task returned. ``return_value``: JSON, or None for None."""
        return cls(
            claim.id,
            claim.lease,
            SUCCEEDED,
            JobStatus.SUCCESSFUL.value,
            claim.started_at or started_at,
            started_at,
            finished_at,
            return_value=return_value,
            claim=claim,
        )

    @classmethod
    def failed(
        cls,
        claim: Claim,
        exception: BaseException,
        *,
        worker_id: str,
        started_at: datetime | None,
        finished_at: datetime,
        status: JobStatus = JobStatus.FAILED,
    ) -> "Finish":
        """The task raised, or could not be called; or it was cancelled, if that is ``status``.

        ``started_at``: of the last run, if there was one.
        """
        return cls(
            claim.id,
            claim.lease,
            FAILED,
            status.value,
            claim.started_at or started_at,
            started_at,
            finished_at,
            **_error_columns(
                claim.errors,
                exception,
                attempt=claim.attempts,
                worker_id=worker_id,
                started_at=started_at,
                finished_at=finished_at,
            ),
            claim=claim,
            exception=exception,
        )

    def in_transaction(self) -> "Finish":
        """Return this success as the task's own transaction writes it.

        It moves the lease on: if nobody learns whether the commit took place, whatever is written
        later for this run counts only if it did not.
        """
        self.writes = (*self.writes, "lease")
        self.lease = self.fence + 1
        return self

    @classmethod
    def retried(
        cls,
        claim: Claim,
        exception: BaseException,
        *,
        run_at: datetime,
        worker_id: str,
        started_at: datetime,
        finished_at: datetime,
    ) -> "Finish":
        """The task raised and runs again at ``run_at``."""
        finish = cls.failed(
            claim,
            exception,
            worker_id=worker_id,
            started_at=started_at,
            finished_at=finished_at,
            status=JobStatus.SCHEDULED if run_at > finished_at else JobStatus.READY,
        )
        finish.writes = RETRIED
        finish.run_at = run_at
        finish.worker_id = None
        finish.lease = claim.lease + 1
        return finish

    @classmethod
    def snoozed(
        cls, claim: Claim, *, run_at: datetime, started_at: datetime, finished_at: datetime
    ) -> "Finish":
        """The task asked to run at ``run_at`` instead; this run does not count."""
        return cls(
            claim.id,
            claim.lease,
            SNOOZED,
            (JobStatus.SCHEDULED if run_at > finished_at else JobStatus.READY).value,
            claim.started_at or started_at,
            started_at,
            finished_at,
            run_at,
            lease=claim.lease + 1,
            attempts=claim.attempts - 1,
            claim=claim,
        )

    @classmethod
    def released(cls, claim: Claim, *, until: datetime | None = None) -> "Finish":
        """The job was not started: everything as before the claim but for the lease.

        ``until``: when it may be claimed again, if not at once.
        """
        return cls(
            claim.id,
            claim.lease,
            RELEASED if until is None else (*RELEASED, "run_at"),
            (JobStatus.READY if until is None else JobStatus.SCHEDULED).value,
            claim.started_at,
            claim.last_attempted_at,
            run_at=until,
            lease=claim.lease + 1,
            attempts=claim.attempts - 1,
            claim=claim,
        )

    @classmethod
    def paused(cls, claim: Claim) -> "Finish":
        """As ``released()``, of a job whose task is paused: nobody claims it until that is over."""
        finish = cls.released(claim)
        finish.status = JobStatus.PAUSED.value
        return finish

    @classmethod
    def unstarted(cls, claim: Claim) -> "Finish":
        """As ``released()``, of a claim that was read from the table again: no run began."""
        if claim.attempts == 1:
            claim.started_at = claim.last_attempted_at = None
        return cls.released(claim)

    @classmethod
    def rescued(
        cls, claim: Claim, exception: BaseException, *, again: bool, now: datetime
    ) -> "Finish":
        """The job's worker was lost. ``again``: it goes back to READY; otherwise it failed."""
        return cls(
            claim.id,
            claim.lease,
            RESCUED,
            (JobStatus.READY if again else JobStatus.FAILED).value,
            finished_at=None if again else now,
            lease=claim.lease + 1,
            lost=claim.lost + 1,
            **_error_columns(
                claim.errors,
                exception,
                attempt=claim.attempts,
                worker_id=claim.worker_id,
                started_at=claim.last_attempted_at,
                finished_at=now,
            ),
            claim=claim,
            exception=exception,
        )

    @classmethod
    def cancelled(cls, job: LockedJob, now: datetime) -> "Finish":
        """The job waited when it was cancelled."""
        error = TaskCancelled("Cancelled while it waited.")
        return cls(
            job.id,
            job.lease,
            CANCELLED,
            JobStatus.CANCELLED.value,
            finished_at=now,
            lease=job.lease + 1,
            **_error_columns(
                job.errors,
                error,
                attempt=job.attempts,
                worker_id=None,
                started_at=None,
                finished_at=now,
            ),
            exception=error,
        )

    def cancelled_instead(self, now: datetime) -> "Finish":
        """Return this, by which the job would run again, as the end of a job whose cancel was
        asked for meanwhile."""
        assert self.claim is not None
        error = TaskCancelled("Cancelled instead of another run.")
        error.__context__ = self.exception
        attempts = self.attempts if "attempts" in self.writes else self.claim.attempts
        return replace(
            self,
            writes=tuple(sorted({*self.writes, *CANCELLED} - {"run_at"})),
            status=JobStatus.CANCELLED.value,
            finished_at=now,
            run_at=None,
            **_error_columns(
                self.errors or self.claim.errors,
                error,
                attempt=attempts,
                worker_id=None,
                started_at=None,
                finished_at=now,
            ),
            exception=error,
        )

    def retain(self, rule: Rule) -> None:
        """Say when the job, which ends with this, is to be deleted, if ever."""
        time = rule.time(self.status)
        if time is not None:
            assert self.finished_at is not None
            self.delete_after = self.finished_at + time
            self.writes = _with_deletion(self.writes)

    def become(self, other: "Finish") -> None:
        """Say from now on what ``other`` says: that was written instead."""
        for name in Finish.__slots__:
            setattr(self, name, getattr(other, name))
        if self.claim is not None and "attempts" in self.writes:
            self.claim.attempts = self.attempts

    @property
    def is_end(self) -> bool:
        """Whether the job has ended with this."""
        return self.status in _ENDED

    @property
    def size(self) -> int:
        """About how many bytes of JSON this carries."""
        size = 0
        for text in (self.return_value, self.errors):
            if text is not None:
                size += len(text) if text.isascii() else len(text.encode())
        return size


# Plain texts: an Enum's members take longer to look up.
_ENDED = frozenset(status.value for status in ENDED)

# What each ending writes. When a run that is not the last ended is told by the job's errors.
_RUN = ("status", "started_at", "last_attempted_at", "finished_at")
SUCCEEDED = (*_RUN, "return_value")
_ERROR = ("errors", "exception_class_path", "error_place")
FAILED = (*_RUN, *_ERROR, "worker_id")
RETRIED = (
    *("status", "started_at", "last_attempted_at", "run_at", *_ERROR),
    *("worker_id", "lease"),
)
SNOOZED = (
    *("status", "started_at", "last_attempted_at", "run_at", "worker_id", "lease", "attempts"),
)
RELEASED = ("status", "started_at", "last_attempted_at", "worker_id", "lease", "attempts")
CANCELLED = ("status", "finished_at", *_ERROR, "lease")
RESCUED = ("status", "finished_at", *_ERROR, "worker_id", "lease", "lost")


@cache
def _with_deletion(writes: tuple[str, ...]) -> tuple[str, ...]:
    return writes if "delete_after" in writes else (*writes, "delete_after")


def _error_columns(errors: str | None, exception: BaseException, **entry: Any) -> dict[str, Any]:
    entries = add_error(json.loads(errors) if errors else None, exception, **entry)
    return {
        "errors": dumps(entries, "errors"),
        "exception_class_path": entries[-1]["exception_class_path"],
        "error_place": place_of(exception),
    }


@dataclass(slots=True)
class Exchange:
    """``finishes``: as they were sent, each told whether it counted; ``claims``: in order to run.

    ``complete``: whether all READY jobs could be claimed; otherwise those that lie before the
    known heads could not, and can be in about a second.
    """

    finishes: Sequence[Finish]
    claims: list[Claim]
    complete: bool = True

    @property
    def counted(self) -> set[UUID]:
        """The ids whose finish was written."""
        return {finish.id for finish in self.finishes if finish.counted}


def claim_order(claim: Claim) -> tuple[int, datetime, int]:
    """Sort key: higher priority first, then older due time."""
    return (-claim.priority, claim.run_at, claim.id.int)


def batches[T](
    items: Iterable[T], size: Callable[[T], int], *, most: int = MAX_BATCH
) -> list[list[T]]:
    """Return finishes or rows in batches bounded by count and bytes; at least one, perhaps empty.

    ``size``: returns the bytes of one. ``most``: how many are in a batch.
    """
    made: list[list[T]] = [[]]
    room = MAX_BATCH_BYTES
    for item in items:
        room -= size(item)
        if made[-1] and (room < 0 or len(made[-1]) >= most):
            made.append([])
            room = MAX_BATCH_BYTES - size(item)
        made[-1].append(item)
    return made


def by_ending(batch: Sequence[Finish]) -> dict[tuple[tuple[str, ...], str], list[Finish]]:
    """Return the finishes grouped by the columns they write and their status, each in order of id.

    One order for all keeps two batches that meet from waiting for each other.
    """
    groups: dict[tuple[tuple[str, ...], str], list[Finish]] = {}
    for finish in sorted(batch, key=_id_of):
        groups.setdefault((finish.writes, finish.status), []).append(finish)
    return groups


def _id_of(finish: Finish) -> int:
    return finish.id.int  # what a UUID compares, without a call for each comparison
