"""MySQL and MariaDB: lock, then update, in one short transaction."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from django.db import OperationalError

from .base import Store
from .database import TABLE, marks
from .messages import MAX_BATCH, Claim, Finish, by_ending
from .queues import Queues

# Columns without a default, with a value that an INSERT accepts for each.
_FILLERS = {
    "backend_name": "''",
    "queue_name": "''",
    "priority": "0",
    "task_path": "''",
    "args": "'[]'",
    "kwargs": "'{}'",
    "run_at": "'2000-01-01'",
    "enqueued_at": "'2000-01-01'",
    "status": "''",
    "attempts": "0",
    "lost": "0",
    "lease": "0",
}


@cache
def _finish_sql(writes: tuple[str, ...]) -> tuple[str, str, str]:
    """Return the statement that saves finishes which write these columns: its head, its part for
    each row, and its tail.

    It never inserts: each row is there and locked by this transaction. Written as an upsert it
    takes many rows at once by primary key, whatever the collation of the connection; as a join
    with a derived table it is a third slower.
    """
    fillers = {name: value for name, value in _FILLERS.items() if name not in writes}
    columns = ", ".join(("id", *writes, *fillers))
    values = ",".join((marks(1 + len(writes)), *fillers.values()))
    changes = ", ".join(f"{name} = VALUES({name})" for name in writes)
    return (
        f"INSERT INTO {TABLE} ({columns}) VALUES ",
        f"({values})",
        f" ON DUPLICATE KEY UPDATE {changes}",
    )


# What the driver calls operational errors: 1366 is text that the column or the connection can't
# carry; the others are MySQL's for JSON that is invalid or too deep.
_DATA_ERRORS = (1366, 3140, 3141, 3144, 3157)


class MySQLStore(Store):
    """MySQL 8.0.11 and later, MariaDB 10.6 and later, through mysqlclient."""

    _BEGIN = "START TRANSACTION"

    # Always one queue with equality: several at once would be a sort that locks every READY row.
    _BEST = f"{Store._BEST} FOR UPDATE SKIP LOCKED"
    # From a head, MariaDB would otherwise look up the equal columns alone, and lock its way through
    # all that lies before the head.
    _READY = f"{TABLE} FORCE INDEX (durable_job_ready)"
    # A scan of a small table would lock all of it.
    _BY_KEY = f"{TABLE} FORCE INDEX (PRIMARY)"

    @classmethod
    def own_settings(cls, database: dict[str, Any]) -> dict[str, Any]:
        database = super().own_settings(database)
        # The gap locks of REPEATABLE READ make claims and inserts wait for each other.
        database["OPTIONS"]["isolation_level"] = "read committed"
        return database

    def server_problem(self) -> str | None:
        if not self.connection.features.has_select_for_update_skip_locked:
            return "SKIP LOCKED is needed: MariaDB 10.6 or MySQL 8.0.1 at least."
        return None

    def _exchange(
        self, batch: list[Finish], want: int, queues: Queues, worker_id: str, now: datetime
    ) -> list[Claim]:
        kept: list[Finish] = []
        self._measure_packet(batch)
        with self._transaction():
            if batch:
                kept = self._finish(batch)
            claims = self._claim(want, queues, worker_id, now) if want else []
        for finish in kept:
            finish.counted = True
        return claims

    def _finish(self, batch: list[Finish]) -> list[Finish]:
        """Lock the rows by primary key, see which still have their lease, and write those."""
        ids = sorted(self.to_id(finish.id) for finish in batch)
        # Whether a cancel was asked for is of interest only to what would make a job run again.
        again = any(not finish.is_end for finish in batch)
        rows = {
            self.from_id(id): rest
            for id, *rest in self.rows(
                f"SELECT id, lease, {'cancel_requested_at' if again else 'NULL'} "
                f"FROM {self._BY_KEY} "
                f"WHERE id IN ({marks(len(ids))}) FOR UPDATE",
                ids,
            )
        }
        kept = []
        for finish in batch:
            lease, cancelled = rows.get(finish.id, (None, None))
            if lease == finish.fence and (finish.is_end or cancelled is None):
                kept.append(finish)
        with self.connection.cursor() as cursor:
            for (writes, _), finishes in by_ending(kept).items():
                head, row, tail = _finish_sql(writes)
                params = []
                for finish in finishes:
                    params.append(self.to_id(finish.id))
                    params += [self._value(getattr(finish, column)) for column in writes]
                cursor.execute(head + ",".join([row] * len(finishes)) + tail, params)
        return kept

    def _value(self, value: Any) -> Any:
        return self.to_time(value) if isinstance(value, datetime) else value

    def _measure_packet(self, batch: list[Finish]) -> None:
        # A statement above the server's limit ends the connection instead of being refused, and
        # quoting may double a value: so ask before the first large one is sent.
        if self.max_value_size is None and any(finish.size > 500_000 for finish in batch):
            self.max_value_size = self.row("SELECT @@max_allowed_packet")[0] // 2 - 256 * 1024
            self.check_size(batch)

    def promote(self, now: datetime, limit: int = MAX_BATCH) -> int:
        """Served by durable_job_scheduled; due rows are taken with SKIP LOCKED."""

        def work() -> int:
            with self._transaction():
                ids = self.rows(
                    f"SELECT id FROM {TABLE} WHERE status = 'SCHEDULED' AND run_at <= %s "
                    "ORDER BY run_at LIMIT %s FOR UPDATE SKIP LOCKED",
                    [self.to_time(now), limit],
                )
                return self._by_id(f"UPDATE {TABLE} SET status = 'READY'", ids)

        return self._retried(work)

    def _to_resume(
        self, backend_name: str, task_paths: Collection[str], after: Any, limit: int
    ) -> tuple[list[UUID], Any]:
        """Read on along durable_job_scheduled: no index knows the tasks of PAUSED jobs."""
        since, last = after or (None, None)
        go_on = "" if since is None else "AND (run_at > %s OR (run_at = %s AND id > %s)) "
        rows = self.rows(
            f"SELECT id, run_at, task_path, backend_name FROM {self._PAUSED} "
            f"WHERE status = 'PAUSED' {go_on}ORDER BY run_at, id LIMIT %s",
            [*([] if since is None else [since, since, last]), limit],
        )
        ids = [
            self.from_id(id)
            for id, _, path, backend in rows
            if backend == backend_name and path not in task_paths
        ]
        return ids, (rows[-1][1], rows[-1][0]) if len(rows) == limit else None

    _PAUSED = f"{TABLE} FORCE INDEX (durable_job_scheduled)"

    def prune(
        self,
        statuses: Sequence[str],
        before: datetime,
        *,
        backend_name: str,
        queue_names: Sequence[str] | None = None,
        limit: int = 5000,
    ) -> int:
        """Served by durable_job_ended, a status at a time; rows are taken with SKIP LOCKED."""
        queue = "" if queue_names is None else f"AND queue_name IN ({marks(len(queue_names))})"
        done = 0
        for status in statuses:

            def work(status: str = status, limit: int = limit - done) -> int:
                with self._transaction():
                    ids = self.rows(
                        f"SELECT id FROM {TABLE} WHERE status = %s AND finished_at < %s "
                        f"AND backend_name = %s {queue} "
                        "ORDER BY finished_at LIMIT %s FOR UPDATE SKIP LOCKED",
                        [status, self.to_time(before), backend_name, *(queue_names or ()), limit],
                    )
                    return self._by_id(f"DELETE FROM {TABLE}", ids)

            done += self._retried(work)
            if done >= limit:
                break
        return done

    _DUE = f"{TABLE} FORCE INDEX (durable_job_delete_after)"

    def _prune_due(self, condition: str, params: list[Any]) -> tuple[int, datetime | None]:
        # Skipping locked rows is not enough: a migration may have locked the table for long.
        self.changed("SET SESSION lock_wait_timeout = 1")
        try:
            with self._transaction():
                rows = self.rows(
                    f"SELECT id, delete_after FROM {self._DUE} WHERE {condition} "
                    "ORDER BY delete_after LIMIT %s FOR UPDATE SKIP LOCKED",
                    params,
                )
                deleted = self._by_id(f"DELETE FROM {TABLE}", rows)
        finally:
            self.changed("SET SESSION lock_wait_timeout = DEFAULT")
        return deleted, self.from_time(rows[-1][1]) if rows else None

    def _by_id(self, sql: str, rows: list[Any]) -> int:
        if not rows:
            return 0
        return self.changed(f"{sql} WHERE id IN ({marks(len(rows))})", [row[0] for row in rows])

    def database_time(self) -> float:
        # Not UNIX_TIMESTAMP(NOW()): that goes through the session's time zone and its extra hour.
        sql = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
        return float(self.row(sql)[0]) / 1_000_000

    def is_data_error(self, error: Exception) -> bool:
        return super().is_data_error(error) or (
            isinstance(error, OperationalError) and error.args[0] in _DATA_ERRORS
        )

    def is_busy(self, error: Exception) -> bool:
        # 1213: deadlock, 1205: lock wait timeout.
        return isinstance(error, OperationalError) and error.args[0] in (1213, 1205)

    def query_canceller(self) -> Callable[[], None]:
        thread_id = self.connection.connection.thread_id()  # other threads can't ask for it

        def cancel() -> None:
            other = self.connection.copy()
            try:
                with other.cursor() as cursor:
                    cursor.execute("KILL QUERY %s", [thread_id])
            finally:
                other.close()

        return cancel
