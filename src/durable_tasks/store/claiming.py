"""Which jobs are due, and how a worker comes to own them."""

import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from .database import TABLE, marks
from .heads import MAX_HEADS, Head, Heads
from .messages import CLAIM_COLUMNS, MAX_BATCH, Claim, claim_order
from .pausing import STAMP, Pausing
from .queues import Peek, Queues

# A condition on READY jobs, with its parameters.
type Part = tuple[str, tuple[Any, ...]]
# Higher than any priority.
_ABOVE_ALL = 32767


class Claiming(Pausing):
    """Looks for jobs that are READY or due, and claims them."""

    def __init__(self, connection: BaseDatabaseWrapper, *, own: bool = False) -> None:
        super().__init__(connection, own=own)
        self._heads = Heads()

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
        parts = self._parts(queues)
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

    def _parts(self, queues: Queues) -> list[Part]:
        """Return the conditions for each known head, or for each queue."""
        return [self._from(head) for head in self._heads.known(queues)] or [
            (" AND queue_name = %s", (name,)) for name in self.queue_names(queues)
        ]

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

    def queue_names(self, queues: Queues) -> list[str]:
        """Return the queues to look at, those that have a READY job if all are served."""
        if queues.names is not None:
            return list(queues.names)
        condition = "status = 'READY' AND backend_name = %s"
        names = self._hops("queue_name", condition, [queues.backend_name])
        return [name for name in names if queues.serve(name)]

    # Peek, promote

    def peek(self, queues: Queues) -> Peek:
        """Look, without locks and in one round trip, whether there is anything to do.

        Served by durable_job_ready and durable_job_scheduled, one look-up each: a queue that is
        left out is a gap between two ranges, however much waits in it. From known heads, as claims.
        The pauses are of the same look, so that to respect them costs an idle worker nothing.
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
            f"SELECT {ready or '1 = 0'}, ({self._first_due}), {STAMP}",
            [*params, *[queues.backend_name] * 2],
        )
        return Peek(bool(row[0]), self.from_time(row[1]), self.to_stamp(row[2:]))

    @abstractmethod
    def promote(self, now: datetime, limit: int = MAX_BATCH) -> int:
        """Make up to ``limit`` scheduled jobs that are due READY; return how many."""

    def next_due(self) -> datetime | None:
        """Return when the next scheduled job is due, or None if there is none."""
        row = self.row(self._first_due)
        due: datetime | None = self.from_time(row and row[0])
        return due

    @property
    def _first_due(self) -> str:
        return self._FIRST.format(column="run_at", condition="status = 'SCHEDULED'")

    def count_scheduled(self, queues: Queues, limit: int) -> tuple[int, bool]:
        """Count the scheduled jobs of these queues; look at the ``limit`` that are due next.

        Returns how many there are, and whether these are all. Served by durable_job_scheduled.
        """
        rows = self.rows(
            f"SELECT backend_name, queue_name FROM {TABLE} WHERE status = 'SCHEDULED' "
            "ORDER BY run_at LIMIT %s",
            [limit],
        )
        served = [name for backend, name in rows if backend == queues.backend_name]
        return sum(map(queues.serve, served)), len(rows) < limit


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
