"""SQLite: short transactions that take the write lock at once."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.db import OperationalError

from .base import Store
from .database import TABLE, marks
from .messages import MAX_BATCH, Claim, Finish, LockedJob, by_ending
from .queues import Peek, Queues

# Seconds between two looks at whether the file has changed, for so long after work and later.
WATCH, WATCH_FOR, WATCH_IDLE = 0.005, 10.0, 0.02


class SQLiteStore(Store):
    """SQLite 3.37 and later, best with ``journal_mode=WAL``."""

    # The version of the data at the last look, at which queues it was, and what it saw.
    _seen: tuple[int, Queues, Peek] | None = None

    has_dead_entries = False

    _BEGIN = "BEGIN IMMEDIATE"

    # Our own pause instead of SQLite's busy handler, which starves a process that is out of luck.
    retry_pause: ClassVar[float] = 0.0002
    retry_for: ClassVar[float] = 20.0

    @classmethod
    def own_settings(cls, database: dict[str, Any]) -> dict[str, Any]:
        database = super().own_settings(database)
        # Not sooner, but with that: Django does not close a connection that it can't set up.
        options = database["OPTIONS"]
        init_command = f"{options.get('init_command', '')};PRAGMA busy_timeout=0"
        options.update(init_command=init_command, transaction_mode="IMMEDIATE")
        return database

    def settings_advice(self) -> list[tuple[str, str]]:
        advice = []
        where = f'DATABASES["{self.connection.alias}"]["OPTIONS"]'
        if self.row("PRAGMA journal_mode")[0] not in ("wal", "memory"):
            advice.append(
                (
                    "SQLite without WAL: reading and writing block each other.",
                    f'Set {where}["init_command"] = '
                    '"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;".',
                )
            )
        if self.connection.settings_dict["OPTIONS"].get("transaction_mode") != "IMMEDIATE":
            advice.append(
                (
                    "SQLite without IMMEDIATE transactions: a transaction that reads before it "
                    'writes fails with "database is locked" while a worker writes.',
                    f'Set {where}["transaction_mode"] = "IMMEDIATE".',
                )
            )
        return advice

    def _exchange(
        self, batch: list[Finish], want: int, queues: Queues, worker_id: str, now: datetime
    ) -> list[Claim]:
        kept: list[Finish] = []
        self._seen = None  # our own commits do not count as changes
        with self._transaction():
            for (writes, _), finishes in by_ending(batch).items():
                kept += self._finish(writes, finishes)
            claims = self._claim(want, queues, worker_id, now) if want else []
        for finish in kept:
            finish.counted = True
        return claims

    def _finish(self, writes: tuple[str, ...], finishes: list[Finish]) -> list[Finish]:
        """One UPDATE by primary key for each job: there is no round trip to save."""
        changes = ", ".join(f"{column} = ?" for column in writes)
        sql = f"UPDATE {TABLE} SET {changes} WHERE id = ? AND lease = ?"
        if not finishes[0].is_end:
            sql += " AND cancel_requested_at IS NULL"
        kept = []
        with self.connection.wrap_database_errors:
            execute = self.connection.connection.execute
            for finish in finishes:
                values = [getattr(finish, column) for column in writes]
                for index, value in enumerate(values):
                    if isinstance(value, datetime):
                        values[index] = self.to_time(value)
                if execute(sql, [*values, finish.id.hex, finish.fence]).rowcount:
                    kept.append(finish)
        return kept

    def peek(self, queues: Queues) -> Peek:
        """Look only if another connection has committed something: 4 us when nothing has."""
        version = self.row("PRAGMA data_version")[0]
        if self._seen is None or self._seen[:2] != (version, queues) or self._seen[2].ready:
            self._seen = (version, queues, super().peek(queues))
        return self._seen[2]

    def look_again_in(self, idle: float, interval: float, *, hears: bool) -> float:
        return min(WATCH if idle < WATCH_FOR else WATCH_IDLE, interval)

    def promote(self, now: datetime, limit: int = MAX_BATCH) -> int:
        """Served by durable_job_scheduled. Looks before it takes the write lock."""
        self._seen = None
        due = self.next_due()
        if due is None or due > now:
            return 0
        return self.changed(
            f"UPDATE {TABLE} SET status = 'READY' WHERE id IN (SELECT id FROM {TABLE} "
            "WHERE status = 'SCHEDULED' AND run_at <= %s ORDER BY run_at LIMIT %s)",
            [self.to_time(now), limit],
        )

    def prune(
        self,
        statuses: Sequence[str],
        before: datetime,
        *,
        backend_name: str,
        queue_names: Sequence[str] | None = None,
        limit: int = 5000,
    ) -> int:
        """Served by durable_job_ended."""
        queue = "" if queue_names is None else f"AND queue_name IN ({marks(len(queue_names))})"
        return self.changed(
            f"DELETE FROM {TABLE} WHERE id IN (SELECT id FROM {TABLE} "
            f"WHERE status IN ('SUCCESSFUL', 'FAILED', 'CANCELLED') "
            f"AND status IN ({marks(len(statuses))}) AND finished_at < %s "
            f"AND backend_name = %s {queue} ORDER BY finished_at LIMIT %s)",
            [*statuses, self.to_time(before), backend_name, *(queue_names or ()), limit],
        )

    # All others who write wait as long.
    prune_for: ClassVar[float] = 0.01

    def _prune_due(self, condition: str, params: list[Any]) -> tuple[int, datetime | None]:
        with self._transaction():
            rows = self.rows(
                f"DELETE FROM {TABLE} WHERE id IN (SELECT id FROM {TABLE} WHERE {condition} "
                "ORDER BY delete_after LIMIT %s) RETURNING delete_after",
                params,
            )
        return len(rows), self.from_time(max(rows)[0]) if rows else None

    _LOCK = ("", "")

    def lock(self, ids: Sequence[UUID], *, wait: bool = True) -> list[LockedJob]:
        self._seen = None
        # The write lock, before anything is read: a transaction that began by reading would fail
        # where another one has written since.
        self.changed(f"UPDATE {TABLE} SET lease = lease WHERE 0")
        return super().lock(ids, wait=wait)

    def database_time(self) -> float:
        return time.time()  # the database is a file on this host

    def from_time(self, value: Any) -> Any:
        # Django's own converter does the same, several times slower.
        return super().from_time(datetime.fromisoformat(value) if isinstance(value, str) else value)

    def is_busy(self, error: Exception) -> bool:
        code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
        return isinstance(error, OperationalError) and code in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        )

    def query_canceller(self) -> Callable[[], None]:
        interrupt: Callable[[], None] = self.connection.connection.interrupt
        return interrupt
