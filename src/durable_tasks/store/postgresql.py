"""PostgreSQL: finish and claim in one statement, one round trip, one commit."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from django.db import OperationalError

from .base import TABLE, Store
from .messages import (
    CLAIM_COLUMNS,
    MAX_BATCH,
    Claim,
    Exchange,
    Finish,
    NewJob,
    Queues,
    by_writes,
    claim_order,
)

# The type of each column that a finish may write, for the arrays that carry a batch.
_TYPES = {
    "id": "uuid",
    "fence": "int4",
    "status": "text",
    "started_at": "timestamptz",
    "last_attempted_at": "timestamptz",
    "finished_at": "timestamptz",
    "return_value": "jsonb",
    "errors": "jsonb",
    "exception_class_path": "text",
    "worker_id": "text",
    "lease": "int4",
    "attempts": "int4",
    "lost": "int2",
}

_TIMES = ("run_after", "run_at", "enqueued_at", "started_at", "last_attempted_at")
_CLAIM_TYPES = {
    **dict.fromkeys(("args", "kwargs", "errors"), "jsonb"),
    **dict.fromkeys(("lease", "attempts"), "int4"),
    **dict.fromkeys(("priority", "lost"), "int2"),
    **dict.fromkeys(_TIMES, "timestamptz"),
}

# Rows in a chunk from which COPY is used.
COPY_FROM = 1000

# Pinned for the life of the connection. With stale statistics, which a busy queue always has, the
# planner otherwise prefers a bitmap scan with a sort, which reads every dead index entry again.
_PLANS = "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off"


@cache
def _finish_sql(writes: tuple[str, ...], name: str) -> str:
    """Return the CTE ``name`` that saves a batch of finishes which write these columns.

    The primary key serves it. The fence is (id, lease) and nothing about worker or status: those
    would lure the planner onto durable_job_running.
    """
    columns = ("id", "fence", *writes)
    arrays = ", ".join(f"%s::{_TYPES[column]}[]" for column in columns)
    changes = ", ".join(f"{column} = x.{column}" for column in writes)
    return (
        f"{name} AS (UPDATE {TABLE} AS t SET {changes} "
        f"FROM unnest({arrays}) AS x({', '.join(columns)}) "
        f"WHERE t.id = x.id AND t.lease = x.fence RETURNING t.id)"
    )


# What every claim ends in; ``c`` has the ids of the jobs to take and what the claim overwrites.
# MATERIALIZED is a fence: without it the planner may run ``c`` twice and claim too many.
_TAKE = f"""
u AS (
    UPDATE {TABLE} AS t
    SET status = 'RUNNING', worker_id = %s, lease = t.lease + 1, attempts = t.attempts + 1,
        started_at = COALESCE(t.started_at, %s), last_attempted_at = %s
    FROM c WHERE t.id = c.id
    RETURNING {
    ", ".join(
        f"{'c' if name in ('started_at', 'last_attempted_at') else 't'}.{name}"
        for name in CLAIM_COLUMNS
    )
}
)"""
_ORDER = "ORDER BY priority DESC, run_at, id"

# One queue. Served by durable_job_ready in its own order: no sort, no row beyond the limit.
_CLAIM_ONE = f"""c AS MATERIALIZED (
    SELECT id, started_at, last_attempted_at FROM {TABLE}
    WHERE status = 'READY' AND backend_name = %s AND queue_name = %s
    {_ORDER} LIMIT %s FOR UPDATE SKIP LOCKED
), {_TAKE}"""

# Several queues, by quota: see which queues the best jobs are in, without locks, then lock that
# many in each. The inner LIMIT is what keeps the planner on the index; the outer is the quota.
_CLAIM_SEVERAL = f"""q AS ({{queues}}), peek AS MATERIALIZED (
    SELECT q.queue_name FROM q CROSS JOIN LATERAL (
        SELECT priority, run_at, id FROM {TABLE}
        WHERE status = 'READY' AND backend_name = %s AND queue_name = q.queue_name
        {_ORDER} LIMIT %s
    ) AS top {_ORDER} LIMIT %s
), quota AS MATERIALIZED (
    SELECT queue_name, count(*) AS jobs FROM peek GROUP BY queue_name
), c AS MATERIALIZED (
    SELECT taken.* FROM quota CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT id, started_at, last_attempted_at FROM {TABLE}
            WHERE status = 'READY' AND backend_name = %s AND queue_name = quota.queue_name
            {_ORDER} LIMIT %s FOR UPDATE SKIP LOCKED
        ) AS best LIMIT quota.jobs
    ) AS taken
), {_TAKE}"""
_NAMED_QUEUES = "SELECT unnest(%s::text[]) AS queue_name"
# A loose index scan: one look-up for each queue that has a READY job.
_ALL_QUEUES = f"""
    WITH RECURSIVE hop AS (
        SELECT min(queue_name) AS queue_name FROM {TABLE}
        WHERE status = 'READY' AND backend_name = %s
        UNION ALL
        SELECT (SELECT min(queue_name) FROM {TABLE} WHERE status = 'READY'
                AND backend_name = %s AND queue_name > hop.queue_name)
        FROM hop WHERE hop.queue_name IS NOT NULL
    )
    SELECT queue_name FROM hop WHERE queue_name <> ALL(%s::text[])"""

# A row that says "this id counted": a claim's columns with nothing in them but the id.
_COUNTED = ", ".join(f"NULL::{_CLAIM_TYPES.get(name, 'text')}" for name in CLAIM_COLUMNS[1:])


class PostgreSQLStore(Store):
    """PostgreSQL 14 and later, through psycopg 3."""

    @classmethod
    def own_settings(cls, database: dict[str, Any]) -> dict[str, Any]:
        database = super().own_settings(database)
        options = database["OPTIONS"]
        options.pop("pool", None)
        options["options"] = f"{options.get('options', '')} {_PLANS}".strip()
        # The statements are few but vary in length; a generic plan would forget the pinning.
        options["prepare_threshold"] = None
        options["server_side_binding"] = True
        return database

    def driver_problem(self) -> str | None:
        from django.db.backends.postgresql.psycopg_any import is_psycopg3

        return None if is_psycopg3 else "psycopg 2 is not supported: install psycopg 3."

    def _insert_params(self, row: NewJob) -> tuple[Any, ...]:
        # As text: the driver takes twice as long for objects.
        at = str(row.enqueued_at)
        return (
            str(row.id),
            row.status,
            row.backend_name,
            row.queue_name,
            row.priority,
            row.task_path,
            row.args,
            row.kwargs,
            row.run_after and str(row.run_after),
            at if row.run_at is row.enqueued_at else str(row.run_at),
            at,
        )

    def _insert_many(self, rows: Sequence[NewJob]) -> None:
        """COPY: three to four times as fast as INSERT for the caller."""
        if len(rows) < COPY_FROM or self.row("SELECT row_security_active(%s::text)", [TABLE])[0]:
            super()._insert_many(rows)  # PostgreSQL refuses to COPY under row-level security
            return
        with (
            self.connection.wrap_database_errors,
            self.connection.cursor() as cursor,
            cursor.copy(f"COPY {TABLE} ({self._INSERT_COLUMNS}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row((*self._insert_params(row), 0, 0, 0))

    def _exchange(
        self, batch: list[Finish], want: int, queues: Queues, worker_id: str, now: datetime
    ) -> Exchange:
        parts: list[str] = []
        params: list[Any] = []
        selects: list[str] = []
        for number, (writes, finishes) in enumerate(by_writes(batch).items()):
            parts.append(_finish_sql(writes, f"f{number}"))
            for column in ("id", "fence", *writes):
                params.append(_array([getattr(finish, column) for finish in finishes]))
            selects.append(f"SELECT id, {_COUNTED} FROM f{number}")
        if want:
            claim, claim_params = self._claim_sql(want, queues)
            parts.append(claim)
            params += [*claim_params, worker_id, now, now]
            selects.append(f"SELECT {', '.join(CLAIM_COLUMNS)} FROM u")
        counted = set()
        claims: list[Claim] = []
        for row in self.rows(f"WITH {', '.join(parts)} {' UNION ALL '.join(selects)}", params):
            if row[1] is None:
                counted.add(row[0])
            else:
                claims.append(Claim(*row))
        claims.sort(key=claim_order)
        return Exchange(counted, claims)

    def _claim_sql(self, want: int, queues: Queues) -> tuple[str, list[Any]]:
        backend = queues.backend_name
        if queues.names is not None and len(queues.names) == 1:
            return _CLAIM_ONE, [backend, queues.names[0], want]
        if queues.names is not None:
            sql = _NAMED_QUEUES
            params: list[Any] = [list(queues.names)]
        else:
            sql, params = _ALL_QUEUES, [backend, backend, list(queues.excluded)]
        return _CLAIM_SEVERAL.format(queues=sql), [*params, backend, want, want, backend, want]

    def promote(self, now: datetime, limit: int = MAX_BATCH) -> int:
        """Served by durable_job_scheduled; its rows are taken with SKIP LOCKED, in its order."""
        return self.changed(
            f"""WITH due AS MATERIALIZED (
                    SELECT id FROM {TABLE} WHERE status = 'SCHEDULED' AND run_at <= %s
                    ORDER BY run_at LIMIT %s FOR UPDATE SKIP LOCKED
                ) UPDATE {TABLE} AS t SET status = 'READY' FROM due WHERE t.id = due.id""",
            [now, limit],
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
        """By ctid: the rows are found through durable_job_ended and deleted without a second
        look-up."""
        queue = "" if queue_names is None else "AND queue_name = ANY(%s)"
        return self.changed(
            f"""DELETE FROM {TABLE} WHERE ctid = ANY(ARRAY(
                    SELECT ctid FROM {TABLE}
                    WHERE status IN ('SUCCESSFUL', 'FAILED', 'CANCELLED') AND status = ANY(%s)
                    AND finished_at < %s AND backend_name = %s {queue}
                    ORDER BY finished_at LIMIT %s FOR UPDATE SKIP LOCKED
                ))""",
            [
                list(statuses),
                before,
                backend_name,
                *([] if queue_names is None else [list(queue_names)]),
                limit,
            ],
        )

    notifies = True

    def notify(self, payload: str) -> None:
        self.rows("SELECT pg_notify('durable_tasks', %s)", [payload])

    def database_time(self) -> float:
        return float(self.row("SELECT EXTRACT(EPOCH FROM clock_timestamp())")[0])

    def is_data_error(self, error: Exception) -> bool:
        # 22: data exception, 23: integrity, 54: program limit exceeded.
        return super().is_data_error(error) or _sqlstate(error)[:2] in ("22", "23", "54")

    def is_busy(self, error: Exception) -> bool:
        return isinstance(error, OperationalError) and _sqlstate(error) in ("40P01", "40001")


def _array(values: list[Any]) -> str:
    """Return the values as the text of a PostgreSQL array.

    Section 8.15.6 of its manual: NULL, or anything in double quotes with backslashes before
    backslashes and quotes. Three times faster than the driver's own, which is in Python as well.
    """
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    text = str(value)
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _sqlstate(error: Exception) -> str:
    return getattr(error.__cause__, "sqlstate", None) or ""
