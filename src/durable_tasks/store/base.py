"""The contract between the engine and a database, and what all databases share."""

import json
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from itertools import batched, islice, pairwise
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, IntegrityError, OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..exceptions import RefusedByDatabase
from ..ids import uuid_of
from ..models import Job
from ..retention import Retention, Rule
from ..statuses import ENDED, JobStatus
from .heads import MAX_HEADS, Head, Heads
from .messages import (
    CLAIM_COLUMNS,
    MAX_BATCH,
    Claim,
    Exchange,
    Finish,
    LockedJob,
    NewJob,
    Peek,
    Queues,
    batches,
    claim_order,
)

TABLE = Job._meta.db_table

# Where workers listen.
CHANNEL = "durable_tasks"
# Seconds: rings for a queue that follow so closely are left out.
THROTTLE = 0.025
# Seconds: the first pauses of a worker that has just become idle.
FIRST_LOOK = 0.005
# Seconds: for how long after work it looks often if it hears nothing, and how often.
BUSY_FOR, BUSY_LOOK = 5.0, 0.04
# Rows of one multi-row INSERT, and rows that are held at once.
INSERT_BATCH = 100
INSERT_CHUNK = 5000


# A condition on READY jobs, with its parameters.
type Part = tuple[str, tuple[Any, ...]]
# What a job has from its runs, but for errors.
_OF_A_RUN = (
    *("started_at", "last_attempted_at", "finished_at", "started_lease", "worker_id"),
    *("return_value", "cancel_requested_at", "delete_after"),
)
_NOT_ENDED = ",".join(f"'{status.value}'" for status in JobStatus if status not in ENDED)
# Higher than any priority.
_ABOVE_ALL = 32767


def marks(count: int) -> str:
    """Return ``count`` placeholders."""
    return ",".join(["%s"] * count)


class StoreNotSupported(ImproperlyConfigured):
    """There is no store for this database or driver."""


# The contract ---------------------------------------------------------------------------------


class Store(ABC):
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
        self.connection = connection
        self.own = own
        self.retention = retention
        self._in_transaction = False
        self._heads = Heads()

    @classmethod
    def own_settings(cls, database: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a database as the engine's own connection wants them."""
        return {
            **database,
            "OPTIONS": {**database.get("OPTIONS", {})},
            "CONN_MAX_AGE": None,  # it stays open until the engine closes it
            "ATOMIC_REQUESTS": False,
            "AUTOCOMMIT": True,
        }

    @classmethod  # noqa: B027  (most databases need none)
    def prepare_own(cls, connection: BaseDatabaseWrapper) -> None:
        """Do what the settings can't to a connection of the engine's own that is not open yet."""

    def own_note(self) -> str | None:
        """Return what a log should say about the engine's own connection, or None."""
        return None

    # What the checks ask

    def driver_problem(self) -> str | None:
        """Return why the connection's driver will not do, or None; asks no server."""
        return None

    def server_problem(self) -> str | None:
        """Return why the connection's server will not do, or None."""
        return None

    def settings_advice(self) -> list[tuple[str, str]]:
        """Return what would run better with another setting: pairs of a text and a hint."""
        return []

    # Insert

    def insert(self, rows: Iterable[NewJob]) -> list[UUID]:
        """Insert jobs, all or none, in the caller's transaction; return their ids, in order.

        Takes the rows in chunks. What they are made from may use the connection, and may raise:
        then nothing is inserted.
        """
        rows = iter(rows)
        chunk = list(islice(rows, INSERT_CHUNK))
        if len(chunk) <= 1 or (len(chunk) <= INSERT_BATCH and _have_ids(chunk)):
            self._insert_chunk(chunk)  # one statement needs no transaction
            return [row.id for row in chunk]
        ids = []
        with self._transaction():
            while chunk:
                self._insert_chunk(chunk)
                ids += [row.id for row in chunk]
                chunk = list(islice(rows, INSERT_CHUNK))
        return ids

    def _insert_chunk(self, rows: Sequence[NewJob]) -> None:
        if _have_ids(rows):
            self._insert_many(rows)
        else:
            self._insert_expressions(rows)

    def _insert_many(self, rows: Sequence[NewJob]) -> None:
        for start in range(0, len(rows), INSERT_BATCH):
            batch = rows[start : start + INSERT_BATCH]
            params = [value for row in batch for value in self._insert_params(row)]
            with self.connection.cursor() as cursor:
                cursor.execute(self._INSERT + ",".join([self._INSERT_ROW] * len(batch)), params)

    # Those without a default of the database are 0.
    _INSERT_COLUMNS = ", ".join([*NewJob.__slots__, "attempts", "lost", "lease"])
    _INSERT = f"INSERT INTO {TABLE} ({_INSERT_COLUMNS}) VALUES "
    _INSERT_ROW = f"({marks(len(NewJob.__slots__))},0,0,0)"

    def _insert_params(self, row: NewJob) -> tuple[Any, ...]:
        to_time = self.to_time
        return (
            self.to_id(row.id),
            row.status,
            row.backend_name,
            row.queue_name,
            row.priority,
            row.task_path,
            row.args,
            row.kwargs,
            to_time(row.run_after),
            to_time(row.run_at),
            to_time(row.enqueued_at),
            row.schedule,
        )

    def _insert_expressions(self, rows: Sequence[NewJob]) -> None:
        """One by one: the database makes the ids, and each row gets what it made."""
        for row in rows:
            values = {name: getattr(row, name) for name in NewJob.__slots__}
            values |= {"args": json.loads(row.args), "kwargs": json.loads(row.kwargs)}
            job = Job(**values)
            job.save(using=self.connection.alias, force_insert=True)
            row.id = job.id

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
        for finish in finishes:
            finish.counted = False
        *others, last = batches(finishes)
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

    # What MySQL and SQLite share: read the best jobs under lock, then take them

    def _claim(self, want: int, queues: Queues, worker_id: str, now: datetime) -> list[Claim]:
        """Claim inside a transaction: a SELECT for each queue, one UPDATE of what is taken."""
        return self._take(self._best(want, queues), worker_id, now)

    def _take(self, claims: list[Claim], worker_id: str, now: datetime) -> list[Claim]:
        """Make locked jobs a worker's own."""
        if claims:
            at = self.to_time(now)
            with self.connection.cursor() as cursor:
                cursor.execute(
                    f"UPDATE {TABLE} SET status = 'RUNNING', worker_id = %s, lease = lease + 1, "
                    "attempts = attempts + 1, started_at = COALESCE(started_at, %s), "
                    f"last_attempted_at = %s WHERE id IN ({marks(len(claims))})",
                    [worker_id, at, at, *(self.to_id(claim.id) for claim in claims)],
                )
            for claim in claims:
                claim.lease += 1
                claim.attempts += 1
        return claims

    def _best(self, want: int, queues: Queues) -> list[Claim]:
        """Return the best ``want`` READY jobs of all the queues together, locked.

        Each queue is read with equality, in the order of durable_job_ready, up to its share; or
        each known head's queue and priority, from there on.
        """
        parts = [self._from(head) for head in self._heads.known(queues)] or [
            (" AND queue_name = %s", (name,)) for name in self.queue_names(queues)
        ]
        shares = dict.fromkeys(parts, want)
        if len(parts) > 1:
            shares = self._shares(want, queues.backend_name, parts)
        found: list[Claim] = []
        for (condition, params), share in shares.items():
            sql = self._BEST.format(ready=self._READY, condition=condition)
            rows = self.rows(sql, [queues.backend_name, *params, share])
            found += map(self.to_claim, rows)
        found.sort(key=claim_order)
        return found

    # The table, read by durable_job_ready.
    _READY = TABLE

    _BEST = f"""SELECT {", ".join(CLAIM_COLUMNS)} FROM {{ready}}
        WHERE status = 'READY' AND backend_name = %s{{condition}}
        ORDER BY priority DESC, run_at, id LIMIT %s"""

    def _shares(self, want: int, backend_name: str, parts: list[Part]) -> dict[Part, int]:
        """Return how many of the best ``want`` jobs are in each part, looking without locks."""
        best = []
        for number, (condition, params) in enumerate(parts):
            rows = self.rows(
                f"SELECT priority, run_at FROM {self._READY} "
                f"WHERE status = 'READY' AND backend_name = %s{condition} "
                "ORDER BY priority DESC, run_at, id LIMIT %s",
                [backend_name, *params, want],
            )
            best += [(-priority, run_at, number) for priority, run_at in rows]
        best.sort()
        return dict(Counter(parts[number] for _, _, number in best[:want]))

    # Heads

    # Do dead entries stay in the ready index while a transaction elsewhere is open?
    has_dead_entries = True

    def look_everywhere(self) -> None:
        """Make the next claim look at all READY jobs, even if that is slow."""
        self._heads.forget()

    def _look_for_heads(self, queues: Queues) -> None:
        """Find out where the READY jobs begin, if claims are slow and it was not done just now.

        Served by durable_job_ready: a look-up for each priority in each queue. Without locks,
        it passes dead entries several times as fast as a claim does on MariaDB.
        """
        if not (self.has_dead_entries and self.own and self._heads.is_due(time.monotonic())):
            return
        select = f"SELECT priority, run_at, id FROM {TABLE} WHERE status = 'READY' "
        first = "ORDER BY priority DESC, run_at, id LIMIT 1"
        _, round_trip = self._timed("SELECT 1", [])
        found: list[Head] = []
        slowest = 0.0
        for name in self.queue_names(queues):
            row: Any = (_ABOVE_ALL,)
            while row and len(found) <= MAX_HEADS:
                row, seconds = self._timed(
                    f"{select} AND backend_name = %s AND queue_name = %s AND priority < %s {first}",
                    [queues.backend_name, name, row[0]],
                )
                slowest = max(slowest, seconds - round_trip)
                if row:
                    at = self.from_time(row[1])
                    assert at is not None
                    found.append(Head(name, row[0], at, self.from_id(row[2])))
        for head in self._heads.missing(queues, found):
            condition, params = self._from(head)
            _, seconds = self._timed(
                f"{select} AND backend_name = %s{condition} {first}",
                [queues.backend_name, *params],
            )
            if self._heads.keeps(seconds - round_trip):
                found.append(head)
        self._heads.looked(queues, found, slowest, time.monotonic())

    def _timed(self, sql: str, params: Sequence[Any]) -> tuple[Any, float]:
        began = time.monotonic()
        return self.row(sql, params), time.monotonic() - began

    def _from(self, head: Head) -> Part:
        """Return the condition for what is of the head's queue and priority and not before it."""
        at = self.to_time(head.run_at)
        return (
            " AND queue_name = %s AND priority = %s AND (run_at > %s OR run_at = %s AND id >= %s)",
            (head.queue_name, head.priority, at, at, self.to_id(head.id)),
        )

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

    # Peek, promote

    def peek(self, queues: Queues) -> Peek:
        """Look, without locks and in one round trip, whether there is anything to do.

        Served by durable_job_ready and durable_job_scheduled, one look-up each: a queue that is
        left out is a gap between two ranges, however much waits in it. From known heads, as claims.
        """
        self._look_for_heads(queues)
        parts = [self._from(head) for head in self._heads.known(queues)]
        conditions, params = _ranges(queues)
        if parts:
            conditions = [condition for condition, _ in parts]
            params = [value for _, each in parts for value in (queues.backend_name, *each)]
        ready = " OR ".join(
            f"EXISTS (SELECT 1 FROM {TABLE} "
            f"WHERE status = 'READY' AND backend_name = %s{condition})"
            for condition in conditions
        )
        row = self.row(
            f"SELECT {ready}, (SELECT MIN(run_at) FROM {TABLE} WHERE status = 'SCHEDULED')", params
        )
        return Peek(bool(row[0]), self.from_time(row[1]))

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

    @abstractmethod
    def promote(self, now: datetime, limit: int = MAX_BATCH) -> int:
        """Make up to ``limit`` scheduled jobs that are due READY; return how many."""

    def next_due(self) -> datetime | None:
        """Return when the next scheduled job is due, or None if there is none."""
        row = self.row(f"SELECT MIN(run_at) FROM {TABLE} WHERE status = 'SCHEDULED'")
        due: datetime | None = self.from_time(row[0])
        return due

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
        return self._hops("worker_id", "status = 'RUNNING'", [])

    # By hand, in the caller's transaction

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
        if ended:
            self.changed(
                f"UPDATE {self._BY_KEY} SET status = 'READY', lease = lease + 1, run_at = %s, "
                f"attempts = 0, lost = 0, {', '.join(f'{name} = NULL' for name in _OF_A_RUN)} "
                f"WHERE id IN ({marks(len(ended))})",
                [self.to_time(now), *(self.to_id(job.id) for job in ended)],
            )
        return ended

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

    # Prune

    @abstractmethod
    def prune(
        self,
        statuses: Sequence[str],
        before: datetime,
        *,
        backend_name: str,
        queue_names: Sequence[str] | None = None,
        limit: int = 5000,
    ) -> int:
        """Delete up to ``limit`` jobs of ``statuses`` that finished before; return how many."""

    def prune_due(
        self,
        now: datetime,
        limit: int,
        *,
        since: datetime | None = None,
        without: Collection[UUID] = (),
    ) -> tuple[int, datetime | None]:
        """Delete up to ``limit`` ended jobs whose ``delete_after`` has come, the longest due first.

        Returns how many, and the ``delete_after`` of the last one. ``since``: pass over those
        before, which the last batch has dealt with: what it deleted may still be in the index.
        ``without``: pass over these.

        Looks without locks before it writes. Waits for no lock but raises ``OperationalError``,
        and does not try again: there is no hurry. Raises ``IntegrityError``, and deletes none, if a
        row of another table refers to one of them. Served by durable_job_delete_after.
        """
        if self.longest_due(now, since=since, without=without) is None:
            return 0, None
        condition, params = self._due(now, since, without)
        return self._prune_due(condition, [*params, limit])

    def longest_due(
        self, now: datetime, *, since: datetime | None = None, without: Collection[UUID] = ()
    ) -> tuple[UUID, datetime] | None:
        """Return what ``prune_due`` would delete first, and its ``delete_after``; or None."""
        condition, params = self._due(now, since, without)
        rows = self.rows(
            f"SELECT id, delete_after FROM {self._DUE} WHERE {condition} "
            "ORDER BY delete_after LIMIT 1",
            params,
        )
        return (self.from_id(rows[0][0]), self.from_time(rows[0][1])) if rows else None

    def _due(
        self, now: datetime, since: datetime | None, without: Collection[UUID]
    ) -> tuple[str, list[Any]]:
        condition, params = "delete_after <= %s", [self.to_time(now)]
        if since is not None:
            condition += " AND delete_after >= %s"
            params.append(self.to_time(since))
        if without:
            condition += f" AND id NOT IN ({marks(len(without))})"
            params += map(self.to_id, without)
        # No job goes that is to run, whatever somebody wrote to its row. A list of the statuses of
        # ended jobs would invite durable_job_ended.
        return f"{condition} AND status NOT IN ({_NOT_ENDED})", params

    # Seconds that a batch may take, or the next one is smaller.
    prune_for: ClassVar[float] = 0.05

    # The table, read by durable_job_delete_after.
    _DUE = TABLE

    @abstractmethod
    def _prune_due(self, condition: str, params: list[Any]) -> tuple[int, datetime | None]:
        """Delete the first jobs under a condition; ``params``: the condition's and the limit."""

    # Time and values

    @abstractmethod
    def database_time(self) -> float:
        """Return the database's clock, in seconds since 1970."""

    def to_time(self, value: datetime | None) -> Any:
        """As Django's own adapter has it, but four times as fast."""
        if value is None:
            return None
        zone = self.connection.timezone  # None without USE_TZ
        return str(value if zone is None else value.astimezone(zone).replace(tzinfo=None))

    def from_time(self, value: Any) -> Any:
        zone = self.connection.timezone
        return value if value is None or zone is None else value.replace(tzinfo=zone)

    def to_id(self, value: UUID) -> Any:
        return value if self.connection.features.has_native_uuid_field else value.hex

    def from_id(self, value: Any) -> UUID:
        return value if isinstance(value, UUID) else uuid_of(int(value.replace("-", ""), 16))

    def to_claim(self, row: Sequence[Any]) -> Claim:
        """Return a row of ``CLAIM_COLUMNS``, and perhaps what follows them, as a claim."""
        claim = Claim(*row)
        from_time = self.from_time
        claim.id = self.from_id(claim.id)
        claim.run_after = claim.run_after and from_time(claim.run_after)
        claim.run_at = from_time(claim.run_at)
        claim.enqueued_at = from_time(claim.enqueued_at)
        if claim.started_at is not None:
            claim.started_at = from_time(claim.started_at)
            claim.last_attempted_at = from_time(claim.last_attempted_at)
        return claim

    # Faults

    def is_data_error(self, error: Exception) -> bool:
        """Return whether the database refused the values, rather than failed to work."""
        return isinstance(error, (DataError, IntegrityError))

    def is_busy(self, error: Exception) -> bool:
        """Return whether this is an ordinary conflict, such as a deadlock: trying again helps."""
        return False

    # Seconds: the shortest pause before a transaction that met a conflict is tried again, and for
    # how long it is tried.
    retry_pause: ClassVar[float] = 0.005
    retry_for: ClassVar[float] = 5.0

    def _retried[T](self, work: Callable[[], T]) -> T:
        """Run a whole transaction, again after a conflict, with a jittered and growing pause."""
        if not self.own or self._in_transaction:
            return work()
        end = time.monotonic() + self.retry_for
        tried = 0
        while True:
            try:
                return work()
            except OperationalError as error:
                if not self.is_busy(error) or time.monotonic() > end:
                    raise
            tried += 1
            time.sleep(self.retry_pause * random.uniform(1, min(1 + tried, 10)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One transaction on our own connection; the caller's, or a part of it, elsewhere."""
        if not self.own:
            with transaction.atomic(using=self.connection.alias):
                yield
            return
        with self.connection.cursor() as cursor:
            cursor.execute(self._BEGIN)
            self._in_transaction = True
            try:
                yield
                cursor.execute("COMMIT")
            except BaseException:
                try:
                    cursor.execute("ROLLBACK")
                except Exception:
                    self.connection.close()  # what ends the transaction as well
                raise
            finally:
                self._in_transaction = False

    _BEGIN = "BEGIN"

    def _savepoint(self) -> AbstractContextManager[Any]:
        """What lets the caller's transaction, if there is one, go on after an error."""
        if self.own or not self.connection.in_atomic_block:
            return nullcontext()
        return transaction.atomic(using=self.connection.alias)

    # Queries

    def _execute(self, cursor: Any, sql: str, params: Sequence[Any]) -> None:
        """Run one statement; the cursor has its result when this returns."""
        cursor.execute(sql, params)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        def work() -> list[Any]:
            with self.connection.cursor() as cursor:
                self._execute(cursor, sql, params)
                rows: list[Any] = cursor.fetchall()
                return rows

        return self._retried(work)

    def row(self, sql: str, params: Sequence[Any] = ()) -> Any:
        rows = self.rows(sql, params)
        return rows[0] if rows else None

    @abstractmethod
    def query_canceller(self) -> Callable[[], None]:
        """Return what ends the query that the connection, which is open, is waiting for.

        To be called by another thread; returns once the server knows. Raises what goes wrong.
        """

    def changed(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run one statement that changes rows; return how many."""

        def work() -> int:
            with self.connection.cursor() as cursor:
                self._execute(cursor, sql, params)
                count: int = cursor.rowcount
                return count

        return self._retried(work)

    def _hops(self, column: str, condition: str, params: list[Any]) -> list[str]:
        """Return the distinct values of an index's column by one look-up for each."""
        sql = f"SELECT MIN({column}) FROM {TABLE} WHERE {condition}"
        found: list[str] = []
        value = self.row(sql, params)[0]
        while value is not None:
            found.append(value)
            value = self.row(f"{sql} AND {column} > %s", [*params, value])[0]
        return found

    def queue_names(self, queues: Queues) -> list[str]:
        """Return the queues to look at, those that have a READY job if all are served."""
        if queues.names is not None:
            return list(queues.names)
        names = self._hops(
            "queue_name", "status = 'READY' AND backend_name = %s", [queues.backend_name]
        )
        return [name for name in names if queues.serve(name)]


def _ranges(queues: Queues) -> tuple[list[str], list[Any]]:
    """Return the conditions, each one range of an index, that select these queues' names."""
    backend = queues.backend_name
    if queues.names is not None:
        params = [value for name in queues.names for value in (backend, name)]
        return [" AND queue_name = %s"] * len(queues.names), params
    if not queues.excluded:
        return [""], [backend]
    excluded = sorted(queues.excluded)
    conditions = [" AND queue_name < %s"]
    params = [backend, excluded[0]]
    for left, right in pairwise(excluded):
        conditions.append(" AND queue_name > %s AND queue_name < %s")
        params += [backend, left, right]
    return [*conditions, " AND queue_name > %s"], [*params, backend, excluded[-1]]


def _have_ids(rows: Sequence[NewJob]) -> bool:
    """Return whether the database has to make none of the ids."""
    return all(isinstance(row.id, UUID) for row in rows)
