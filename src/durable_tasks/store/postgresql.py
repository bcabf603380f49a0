"""PostgreSQL: finish and claim in one statement, one round trip, one commit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from .advice import autovacuum_advice, hears, is_pooled
from .base import CHANNEL, Store
from .binary import COPY_END, COPY_HEAD, array, copy_row, register
from .claiming import Part
from .database import TABLE
from .heads import Head
from .messages import CLAIM_COLUMNS, MAX_BATCH, Claim, Finish, NewJob, by_ending, claim_order
from .queues import Queues

# The type of each column that a finish may write, for the arrays that carry a batch.
_TYPES = {
    "id": "uuid",
    "fence": "int4",
    "started_at": "timestamptz",
    "last_attempted_at": "timestamptz",
    "finished_at": "timestamptz",
    "run_at": "timestamptz",
    "return_value": "jsonb",
    "errors": "jsonb",
    "exception_class_path": "text",
    "error_place": "text",
    "worker_id": "text",
    "lease": "int4",
    "attempts": "int4",
    "lost": "int2",
    "delete_after": "timestamptz",
}

_TIMES = ("run_after", "run_at", "enqueued_at", "started_at", "last_attempted_at")
_CLAIM_TYPES = {
    "id": "uuid",
    **dict.fromkeys(("lease", "attempts"), "int4"),
    **dict.fromkeys(("priority", "lost"), "int2"),
    **dict.fromkeys(_TIMES, "timestamptz"),
}

# Seconds that it may take to cancel a query.
CANCEL_TIMEOUT = 5.0
# Rows in a chunk from which COPY is used.
COPY_FROM = 1000
# Rows that are handed to the driver at a time.
COPY_ROWS = 200

# Off on the engine's own connections. With stale statistics, which a busy queue always has, the
# planner otherwise prefers a bitmap scan with a sort, which reads every dead index entry again.
_OFF = ("enable_seqscan", "enable_bitmapscan", "jit")
# For the life of the connection, where the server is asked directly.
_PLANS = " ".join(f"-c {name}=off" for name in _OFF)
# For a transaction, where a pooler is in between.
_PIN = f"SELECT {', '.join(f"set_config('{name}', 'off', true)" for name in _OFF)}"
# The database where a block of ``pinned_plans()`` has done so.
_pinned_in: ContextVar[str | None] = ContextVar("pinned_in", default=None)
# Whether they are off for good; what somebody's SET left behind on a pooler's connection is not.
_ARE_PINNED = f"""SELECT count(*) = {len(_OFF)} FROM pg_settings
    WHERE name IN ({", ".join(f"'{name}'" for name in _OFF)})
    AND setting = 'off' AND source <> 'session'"""


@cache
def _finish_sql(writes: tuple[str, ...], name: str, is_end: bool) -> str:
    """Return the CTE ``name`` that saves a batch of finishes which write these columns.

    The primary key serves it. The fence is (id, lease) and nothing about worker or status: those
    would lure the planner onto durable_job_running.
    """
    columns = _columns(writes)
    arrays = ", ".join(f"%s::{_TYPES[column]}[]" for column in columns)
    changes = ", ".join(f"{column} = x.{column}" for column in columns[2:])
    return (
        f"{name} AS (UPDATE {TABLE} AS t SET status = %s, {changes} "
        f"FROM unnest({arrays}) WITH ORDINALITY AS x({', '.join(columns)}, place) "
        f"WHERE t.id = x.id AND t.lease = x.fence "
        f"{'' if is_end else 'AND t.cancel_requested_at IS NULL '}RETURNING x.place)"
    )


def _columns(writes: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a batch of finishes has an array of: all but the status, which they share."""
    return ("id", "fence", *(column for column in writes if column != "status"))


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
# many in each. The inner LIMIT is what keeps the planner on the index; the outer is the quota. The
# last one cuts nothing: without it the planner expects many times the rows, and then reads the
# whole primary key to join them.
_CLAIM_SEVERAL = f"""q AS ({{queues}}), peek AS MATERIALIZED (
    SELECT q.* FROM q CROSS JOIN LATERAL (
        SELECT priority, run_at, id FROM {TABLE}
        WHERE status = 'READY' AND backend_name = %s AND {{match}}
        {_ORDER} LIMIT %s
    ) AS top {_ORDER} LIMIT %s
), quota AS MATERIALIZED (
    SELECT {{columns}}, count(*) AS jobs FROM peek GROUP BY {{columns}}
), c AS MATERIALIZED (
    SELECT taken.* FROM quota AS q CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT id, started_at, last_attempted_at FROM {TABLE}
            WHERE status = 'READY' AND backend_name = %s AND {{match}}
            {_ORDER} LIMIT %s FOR UPDATE SKIP LOCKED
        ) AS best LIMIT q.jobs
    ) AS taken LIMIT %s
), {_TAKE}"""
_BY_QUEUE = {"match": "queue_name = q.queue_name", "columns": "queue_name"}
# The same from known heads, each of a queue and priority: what lies before them is not read.
_CLAIM_FROM_HEADS = _CLAIM_SEVERAL.format(
    queues="SELECT * FROM unnest(%s::text[], %s::int2[], %s::timestamptz[], %s::uuid[]) "
    "AS head(queue_name, at_priority, since, since_id)",
    match="queue_name = q.queue_name AND priority = q.at_priority "
    "AND (run_at, id) >= (q.since, q.since_id)",
    columns="queue_name, at_priority, since, since_id",
)
_HEAD_TYPES = {"queue_name": "text", "priority": "int2", "run_at": "timestamptz", "id": "uuid"}
_NAMED_QUEUES = "SELECT unnest(%s::text[]) AS queue_name"
# A loose index scan: one look-up for each queue that has a READY job. No min(): see _FIRST.
_ALL_QUEUES = f"""
    WITH RECURSIVE hop AS (
        (SELECT queue_name FROM {TABLE} WHERE status = 'READY'
         AND backend_name = %s ORDER BY queue_name LIMIT 1)
        UNION ALL
        SELECT (SELECT queue_name FROM {TABLE} WHERE status = 'READY'
                AND backend_name = %s AND queue_name > hop.queue_name ORDER BY queue_name LIMIT 1)
        FROM hop WHERE hop.queue_name IS NOT NULL
    )
    SELECT queue_name FROM hop WHERE queue_name <> ALL(%s::text[])"""

# What comes back: a row for each claim, and one for each group of finishes with the places of those
# that counted, where a claim has nothing.
_CLAIMED = ", ".join(
    f"{name}::text" if name in ("args", "kwargs", "errors") else name for name in CLAIM_COLUMNS
)
_CLAIMED = f"SELECT {_CLAIMED}, NULL::bigint[] FROM u"
_NO_CLAIM = ", ".join(f"NULL::{_CLAIM_TYPES.get(name, 'text')}" for name in CLAIM_COLUMNS)


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

    @property
    def _zone(self) -> ZoneInfo | None:
        """What times without a zone are in, if settings have them so."""
        return None if settings.USE_TZ else ZoneInfo(self.connection.timezone_name)

    @classmethod
    def prepare_own(cls, connection: BaseDatabaseWrapper) -> None:
        """Let it open without our start-up options where these are refused."""
        connect = connection.get_new_connection

        def connect_anyway(params: dict[str, Any]) -> Any:
            try:
                return connect(params)
            except Exception as error:
                # PgBouncer: "unsupported startup parameter: options", and others much the same.
                if "options" not in str(error):
                    raise
            theirs = params["options"].removesuffix(_PLANS).strip()
            return connect({**params, "options": theirs or None})

        vars(connection)["get_new_connection"] = connect_anyway

    # With stale statistics, MIN() reads all that match: 0.2 s for 100,000.
    _FIRST = f"SELECT {{column}} FROM {TABLE} WHERE {{condition}} ORDER BY {{column}} LIMIT 1"

    # The driver's connection that was asked last whether its plans are pinned, and its answer.
    _asked: Any = None
    _pinned = False

    def _is_pinned(self) -> bool:
        """Return whether the start-up options are in effect; asks once for each connection."""
        driver: Any = self.connection.connection
        if driver is not self._asked:
            with self.connection.wrap_database_errors:
                [self._pinned] = driver.execute(_ARE_PINNED).fetchone()
            self._asked = driver
        return self._pinned

    def _execute(self, cursor: Any, sql: str, params: Sequence[Any]) -> None:
        """Run one statement, on our own connection with pinned plans.

        Where the options of the start are not in effect, it goes in one message with what pins them
        for its transaction: no round trip more, and nothing stays behind on a pooler's connection.
        Not in one statement: that would be planned before its own settings hold.
        """
        if not self.own or self._is_pinned():
            cursor.execute(sql, params)
            return
        driver: Any = self.connection.connection
        with self.connection.wrap_database_errors, _one_message(driver):
            driver.execute(_PIN)
            cursor.execute(sql, params)

    def own_note(self) -> str | None:
        self.connection.ensure_connection()
        if self._is_pinned():
            return None
        sent = _PLANS in self.connection.connection.info.options
        return (
            f"The database {self.connection.alias!r} {'ignores' if sent else 'refuses'} start-up "
            f"options, as a pooler such as PgBouncer does: {', '.join(_OFF)} are switched off for "
            "each transaction instead."
        )

    @contextmanager
    def pinned_plans(self) -> Iterator[None]:
        """Rolled back, so that nothing of it stays for the project's own statements."""
        alias = self.connection.alias
        if self.own or _pinned_in.get() == alias:
            yield
            return
        token = _pinned_in.set(alias)
        try:
            with transaction.atomic(using=alias):
                self.rows(_PIN)
                yield
                transaction.set_rollback(True, using=alias)
        finally:
            _pinned_in.reset(token)

    def vacuum_advice(self) -> tuple[str, str] | None:
        return autovacuum_advice(self)

    def cannot_hear(self) -> bool:
        alias = self.connection.alias
        return is_pooled(alias) and not hears(alias)

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
            row.schedule,
        )

    def _insert_many(self, rows: Sequence[NewJob]) -> None:
        """COPY: three to four times as fast as INSERT for the caller."""
        if len(rows) < COPY_FROM or self.row("SELECT row_security_active(%s::text)", [TABLE])[0]:
            super()._insert_many(rows)  # PostgreSQL refuses to COPY under row-level security
            return
        zone = self._zone
        with (
            self.connection.wrap_database_errors,
            self.connection.cursor() as cursor,
            cursor.copy(
                f"COPY {TABLE} ({self._INSERT_COLUMNS}) FROM STDIN (FORMAT BINARY)"
            ) as copy,
        ):
            copy.write(COPY_HEAD)
            for start in range(0, len(rows), COPY_ROWS):
                copy.write(
                    b"".join([copy_row(row, zone) for row in rows[start : start + COPY_ROWS]])
                )
            copy.write(COPY_END)

    def _exchange(
        self, batch: list[Finish], want: int, queues: Queues, worker_id: str, now: datetime
    ) -> list[Claim]:
        parts: list[str] = []
        params: list[Any] = []
        selects: list[str] = []
        sent: list[Finish] = []
        zone = self._zone
        for number, ((writes, status), finishes) in enumerate(by_ending(batch).items()):
            parts.append(_finish_sql(writes, f"f{number}", finishes[0].is_end))
            params.append(status)
            for column in _columns(writes):
                values = [getattr(finish, column) for finish in finishes]
                params.append(array(_TYPES[column], values, zone))
            selects.append(f"SELECT {_NO_CLAIM}, array_agg(place + {len(sent)}) FROM f{number}")
            sent += finishes
        if want:
            claim_sql, claim_params = self._claim_sql(want, queues)
            parts.append(claim_sql)
            params += [*claim_params, worker_id, now, now]
            selects.append(_CLAIMED)
        claims: list[Claim] = []
        sql = f"WITH {', '.join(parts)} {' UNION ALL '.join(selects)}"
        for row in self._binary_rows(sql, params):
            if row[0] is not None:
                claims.append(Claim(*row))
                continue
            for place in row[-1] or ():
                sent[place - 1].counted = True
        if zone is not None:
            for claim in claims:
                for name in _TIMES:
                    value = getattr(claim, name)
                    setattr(claim, name, value and value.replace(tzinfo=None))
        claims.sort(key=claim_order)
        return claims

    def _binary_rows(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """Run a statement whose parameters and rows travel in binary, and return the rows."""
        from psycopg import Cursor

        self.connection.ensure_connection()
        driver = self.connection.connection
        if driver is not self._registered:
            register(driver)
            self._registered = driver
        with CursorWrapper(Cursor(driver), self.connection) as cursor:
            cursor.cursor.format = 1
            self._execute(cursor, sql, params)
            rows: list[Any] = cursor.fetchall()
            return rows

    _registered: Any = None

    def _claim_sql(self, want: int, queues: Queues) -> tuple[str, list[Any]]:
        backend = queues.backend_name
        shared = [backend, want, want, backend, want, want]
        if heads := self._heads.known(queues):
            arrays = [
                array(kind, [getattr(head, name) for head in heads], self._zone)
                for name, kind in _HEAD_TYPES.items()
            ]
            return _CLAIM_FROM_HEADS, [*arrays, *shared]
        if queues.names is not None and len(queues.names) == 1:
            return _CLAIM_ONE, [backend, queues.names[0], want]
        if queues.names is not None:
            sql = _NAMED_QUEUES
            params: list[Any] = [list(queues.names)]
        else:
            sql, params = _ALL_QUEUES, [backend, backend, list(queues.excluded)]
        return _CLAIM_SEVERAL.format(queues=sql, **_BY_QUEUE), [*params, *shared]

    def _from(self, head: Head) -> Part:
        # Compared as a row, which the index answers; an OR it would not.
        return (
            " AND queue_name = %s AND priority = %s AND (run_at, id) >= (%s, %s)",
            (head.queue_name, head.priority, head.run_at, head.id),
        )

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

    def _prune_due(self, condition: str, params: list[Any]) -> tuple[int, datetime | None]:
        with self._transaction():
            # Skipping locked rows is not enough: a migration may have locked the table for long.
            self.changed(f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE NOWAIT")
            deleted, last = self.row(
                f"""WITH gone AS (DELETE FROM {TABLE} WHERE ctid = ANY(ARRAY(
                        SELECT ctid FROM {TABLE} WHERE {condition}
                        ORDER BY delete_after LIMIT %s FOR UPDATE SKIP LOCKED
                    )) RETURNING delete_after) SELECT count(*), max(delete_after) FROM gone""",
                params,
            )
        return deleted, last

    def to_time(self, value: datetime | None) -> Any:
        return value

    def from_time(self, value: Any) -> Any:
        return value

    notifies = True

    def notify(self, payload: str, channel: str = CHANNEL) -> None:
        self.rows("SELECT pg_notify(%s, %s)", [channel, payload])

    def database_time(self) -> float:
        return float(self.row("SELECT EXTRACT(EPOCH FROM clock_timestamp())")[0])

    def is_data_error(self, error: Exception) -> bool:
        # 22: data exception, 23: integrity, 54: program limit exceeded.
        return super().is_data_error(error) or _sqlstate(error)[:2] in ("22", "23", "54")

    def is_busy(self, error: Exception) -> bool:
        return isinstance(error, OperationalError) and _sqlstate(error) in ("40P01", "40001")

    def query_canceller(self) -> Callable[[], None]:
        from psycopg.pq import TransactionStatus

        driver = self.connection.connection

        def cancel() -> None:
            if driver.info.transaction_status == TransactionStatus.ACTIVE:
                driver.cancel_safe(timeout=CANCEL_TIMEOUT)

        return cancel


@contextmanager
def _one_message(driver: Any) -> Iterator[None]:
    """Send the statements of the block together, as one transaction.

    PostgreSQL makes one transaction of all that comes before a Sync, and an error undoes the whole
    of it (section 55.2.3 of its manual). Their results are there after the block.
    """
    # Where the client library (before 14) or the driver can't: one by one, to the same effect.
    if not _has_pipelines():
        with driver.transaction():
            yield
        return
    with driver.pipeline() as pipeline:
        # The driver ends it with a Sync and then a Flush. PgBouncer takes a Flush that comes after
        # the answer for the start of a transaction, and keeps a connection for it.
        fetch = pipeline._fetch_gen
        pipeline._fetch_gen = lambda flush: fetch(flush=False)
        yield


def _has_pipelines() -> bool:
    from psycopg import Pipeline

    return Pipeline.is_supported() and hasattr(Pipeline, "_fetch_gen")


def _sqlstate(error: Exception) -> str:
    return getattr(error.__cause__, "sqlstate", None) or ""
