"""The contract between the engine and a database, and what all databases share.

Five subjects have files of their own: how jobs come in, how they are claimed, what holds them back,
how they leave, and what is done by hand.
"""

import time
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import DataError, IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper

from ..exceptions import RefusedByDatabase
from ..retention import Retention
from ..statuses import JobStatus
from .database import TABLE
from .depths import Depths
from .handling import Handling
from .inserting import Inserting
from .messages import CLAIM_COLUMNS, MAX_BATCH, Claim, Exchange, Finish, batches
from .pruning import Deleting
from .queues import Queues

# Where workers listen.
CHANNEL = "durable_tasks"
# Seconds: rings for a queue that follow so closely are left out.
THROTTLE = 0.025
# Seconds: the first pauses of a worker that has just become idle.
FIRST_LOOK = 0.005
# Seconds: for how long after work it looks often if it hears nothing, and how often.
BUSY_FOR, BUSY_LOOK = 5.0, 0.04


class Store(Handling, Inserting, Depths, Deleting):
    """What the engine asks of a database, on one connection."""

    # Can a row's value be longer than the database takes in one statement? Bytes, or None.
    max_value_size: int | None = None

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        *,
        own: bool = False,
        retention: Retention | None = None,
    ) -> None:
        super().__init__(connection, own=own)
        self.retention = retention

    # Claim, finish, exchange

    def exchange(
        self,
        finishes: Sequence[Finish],
        want: int,
        *,
        queues: Queues,
        worker_id: str,
        now: datetime,
    ) -> Exchange:
        """Save what ended and claim up to ``want`` jobs of ``queues``, in one transaction.

        A finish counts only if the job still has its lease. A finish that the database refuses as
        data becomes a failure with the reason; the others are saved. ``now``: database time.

        Raises Django's ``DatabaseError`` if the database can't be reached or does not answer in
        time: then nothing is known of what was sent, and sending it again is safe.
        """
        if queues.names == ():
            want = 0  # all that the worker serves is paused
        for finish in finishes:
            finish.counted = False
        *others, last = batches(finishes, lambda finish: finish.size)
        for batch in others:
            self._save(batch, 0, queues, worker_id, now)
        if want:
            self._look_for_heads(queues)
        began = time.monotonic()
        exchange = Exchange(finishes, self._save(last, want, queues, worker_id, now))
        if want:
            exchange.complete = not self._heads.known(queues)
            self._heads.exchanged(queues, exchange.claims, time.monotonic() - began)
        return exchange

    def finish(self, finishes: Sequence[Finish], *, now: datetime) -> set[UUID]:
        """Save what ended, as ``exchange()`` does, and return the ids that counted."""
        return self.exchange(finishes, 0, queues=Queues("", ()), worker_id="", now=now).counted

    def _save(
        self, batch: list[Finish], want: int, queues: Queues, worker_id: str, now: datetime
    ) -> list[Claim]:
        if not batch and not want:
            return []
        try:
            self.check_size(batch)
            with self._savepoint():
                claims = self._retried(lambda: self._write(batch, want, queues, worker_id, now))
            self._cancel_instead(batch, now)
            return claims
        except (DataError, IntegrityError, ValueError, OverflowError) as error:
            if not batch:
                raise
            reason: Exception = error
        except Exception as error:
            if not batch or not self.is_data_error(error):
                raise
            reason = error
        # It may have been the claim: no finish is blamed for that.
        if want:
            self._save(batch, 0, queues, worker_id, now)
            return self._save([], want, queues, worker_id, now)
        # Halve until the refused finish is alone; then it fails for that reason.
        if len(batch) > 1:
            half = len(batch) // 2
            self._save(batch[:half], 0, queues, worker_id, now)
            self._save(batch[half:], 0, queues, worker_id, now)
            return []
        finish = batch[0]
        if isinstance(finish.exception, RefusedByDatabase) or finish.claim is None:
            raise reason
        refused = RefusedByDatabase(
            f"The database refused the job's ending ({finish.status}): "
            f"{type(reason).__name__}: {str(reason)[:500]}"
        )
        instead = Finish.failed(
            finish.claim,
            refused,
            worker_id=worker_id or finish.claim.worker_id or "",
            started_at=finish.last_attempted_at or now,
            finished_at=finish.finished_at or now,
        )
        finish.become(instead)
        return self._save([finish], 0, queues, worker_id, now)

    def _cancel_instead(self, batch: list[Finish], now: datetime) -> None:
        """End the jobs whose cancel was asked for, so that they were not saved to run again.

        Until then they stay RUNNING, and whoever rescues them comes to this as well.
        """
        refused = [finish for finish in batch if not (finish.counted or finish.is_end)]
        if not refused:
            return
        ends = [finish.cancelled_instead(now) for finish in refused]
        self._retried(lambda: self._write(ends, 0, Queues("", ()), "", now))
        for finish, end in zip(refused, ends, strict=True):
            if end.counted:  # otherwise another worker has the job
                finish.become(end)

    def check_size(self, batch: Sequence[Finish]) -> None:
        """Raise ``DataError`` if a finish is longer than the server takes."""
        limit = self.max_value_size
        if limit is None:
            return
        for finish in batch:
            if finish.size > limit:
                raise DataError(f"{finish.size} bytes; this database takes {limit} at most.")

    def _write(
        self, batch: list[Finish], want: int, queues: Queues, worker_id: str, now: datetime
    ) -> list[Claim]:
        """Exchange once; jobs that end with it are told when they are to be deleted."""
        retention = self.retention
        if retention is not None:
            for finish in batch:
                claim = finish.claim
                if claim is None or (rule := retention.of(claim.task_path, claim.schedule)) is None:
                    continue
                # Another backend's job, which was rescued, is left to stay.
                if finish.is_end and claim.backend_name in (None, retention.backend_name):
                    finish.retain(rule)
        return self._exchange(batch, want, queues, worker_id, now)

    @abstractmethod
    def _exchange(
        self, batch: list[Finish], want: int, queues: Queues, worker_id: str, now: datetime
    ) -> list[Claim]:
        """One transaction: save ``batch`` and mark what counted, claim up to ``want``.

        What would make a job run again does not count if its cancel was asked for.
        """

    def take(self, id: UUID, *, worker_id: str, now: datetime) -> Claim | None:
        """Claim this job if it is READY; otherwise return None. Served by the primary key."""
        with self._transaction():
            ready = [job for job in self.lock([id]) if job.status == JobStatus.READY]
            if not ready:
                return None
            [row] = self.rows(
                f"SELECT {', '.join(CLAIM_COLUMNS)} FROM {TABLE} WHERE id = %s", [self.to_id(id)]
            )
            [claim] = self._take([self.to_claim(row)], worker_id, now)
        return claim

    # One job at a time, on the connection of the thread that runs it

    def mark_started(self, claim: Claim) -> bool:
        """Write that this run begins; return whether the job is still the claim's."""
        return bool(
            self.changed(
                f"UPDATE {TABLE} SET started_lease = lease WHERE id = %s AND lease = %s "
                "AND status = 'RUNNING'",
                [self.to_id(claim.id), claim.lease],
            )
        )

    def complete(self, finish: Finish, now: datetime) -> bool:
        """Write one ending in the caller's transaction; return whether it counted.

        Raises what the database says, without a second try: the transaction is not ours.
        """
        self._write([finish], 0, Queues("", ()), "", now)
        return finish.counted

    # Notify, look again

    # Can a connection wait for notifications from others?
    notifies = False

    def notify(self, payload: str, channel: str = CHANNEL) -> None:
        """Send a notification, which takes effect at the end of the transaction."""
        raise NotImplementedError(f"{self.connection.vendor} has no notifications")

    def look_again_in(self, idle: float, interval: float, *, hears: bool) -> float:
        """Return the seconds until an idle worker's next look.

        ``idle``: seconds since it last had work. ``interval``: the longest pause. ``hears``:
        whether notifications arrive; without them it looks often for a while.
        Short at first, so that jobs whose ring was left out start as soon, and then ever longer: 5
        ms up to ``THROTTLE``, then twice as long each time.
        """
        longest = interval if hears or idle >= BUSY_FOR else min(BUSY_LOOK, interval)
        return min(FIRST_LOOK if idle < THROTTLE else idle, longest)

    # Rescue

    def held_by(
        self, worker_id: str, *, backend_name: str | None = None, limit: int = MAX_BATCH
    ) -> list[Claim]:
        """Return up to ``limit`` RUNNING jobs of a worker, as claims; of one backend, or of all."""
        backend = "" if backend_name is None else "AND backend_name = %s"
        rows = self.rows(
            f"SELECT {', '.join(CLAIM_COLUMNS)}, worker_id, started_lease, backend_name "
            f"FROM {TABLE} WHERE status = 'RUNNING' AND worker_id = %s {backend} LIMIT %s",
            [worker_id, *([] if backend_name is None else [backend_name]), limit],
        )
        return [self.to_claim(row) for row in rows]

    def tokens_of(self, worker_id: str) -> list[tuple[UUID, int]]:
        """Return id and lease of each RUNNING job of a worker."""
        rows = self.rows(
            f"SELECT id, lease FROM {TABLE} WHERE status = 'RUNNING' AND worker_id = %s",
            [worker_id],
        )
        return [(self.from_id(id), lease) for id, lease in rows]

    def owners(self) -> list[str]:
        """Return the ids of workers that own RUNNING jobs.

        Hops along durable_job_running, one look-up a worker, however many jobs each one has.
        """
        return list(self._hops("worker_id", "status = 'RUNNING'", []))
