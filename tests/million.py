"""A table with as many jobs as one likes, made by SQL; what must not mind, and what it reads.

Used by tests/admin/test_flat.py and by the benchmark ``pages``.
"""

import html
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode, urljoin

from django.conf import settings
from django.db import connections, transaction
from django.urls import reverse
from django.utils import timezone

from durable_tasks.models import Job, Pause

TABLE = Job._meta.db_table
# Jobs made by one statement: four digits count them.
CHUNK = 10_000
QUEUES = ("orders", "mail", "reports", "images", "search")
TASKS = tuple(f"shop.tasks.task_{letter}" for letter in "abcdefghijkl")
PAUSED_TASK = TASKS[0]
ERRORS = ("shop.errors.Declined", "shop.errors.Away", "builtins.ValueError")
PLACE = "shop/tasks.py in charge"
WORKER = "million-1"

# Of a million: 800,000 ended, of which 50,000 failed, and 200,000 that have not.
MILLION = {
    "SUCCESSFUL": 740_000,
    "FAILED": 50_000,
    "CANCELLED": 10_000,
    "READY": 150_000,
    "SCHEDULED": 45_000,
    "PAUSED": 4_500,
    "RUNNING": 500,
}

DIGITS = "(SELECT 0 AS d" + "".join(f" UNION ALL SELECT {digit}" for digit in range(1, 10)) + ")"
NUMBERS = (
    "(SELECT a.d * 1000 + b.d * 100 + c.d * 10 + e.d AS n"
    f" FROM {DIGITS} a CROSS JOIN {DIGITS} b CROSS JOIN {DIGITS} c CROSS JOIN {DIGITS} e) numbers"
)


class Dialect:
    """How a database writes what the statement needs; ``n`` counts the rows of a chunk from 0."""

    def __init__(self, vendor: str) -> None:
        self.vendor = vendor

    def id(self) -> str:
        """A time-ordered id; its parameters: milliseconds since 1970, and a number."""
        if self.vendor == "sqlite":
            return "printf('%%012x70008000%%012x', %s + n, %s + n)"
        digits = "lpad({}, 12, '0')"
        in_hex = "to_hex(CAST(%s AS bigint) + n)" if self.is_postgresql else "lower(hex(%s + n))"
        both = digits.format(in_hex)
        if self.is_postgresql:
            return f"CAST({both} || '70008000' || {both} AS uuid)"
        return f"concat({both}, '70008000', {both})"

    def time(self) -> str:
        """``n`` milliseconds after the parameter."""
        if self.vendor == "sqlite":
            text = "'%%Y-%%m-%%d %%H:%%M:%%f'"
            return f"strftime({text}, %s, '+' || (n / 1000.0) || ' seconds') || '000'"
        if self.is_postgresql:
            kind = "timestamptz" if settings.USE_TZ else "timestamp"
            return f"CAST(%s AS {kind}) + n * interval '1 ms'"
        return "timestampadd(MICROSECOND, n * 1000, %s)"

    def json(self, before: str, after: str) -> str:
        """JSON that has ``n`` in it."""
        before, after = (text.replace("'", "''") for text in (before, after))
        if self.vendor == "mysql":
            return f"concat('{before}', n, '{after}')"
        text = f"'{before}' || n || '{after}'"
        return f"CAST({text} AS jsonb)" if self.is_postgresql else text

    @property
    def is_postgresql(self) -> bool:
        return self.vendor == "postgresql"


def one_of(values: tuple[str, ...]) -> str:
    """SQL that gives one value after the other."""
    cases = " ".join(f"WHEN {at} THEN '{value}'" for at, value in enumerate(values))
    return f"CASE n %% {len(values)} {cases} END"


def fill(sizes: dict[str, int], using: str = "default", queues: tuple[str, ...] = QUEUES) -> None:
    """Insert so many jobs of each status, made up of the last 30 days and the next."""
    connection = connections[using]
    now = timezone.now()
    first = time.time_ns() // 1000 % 16**11  # so that no two calls make the same id
    for status, count in sizes.items():
        for made in range(0, count, CHUNK):
            ago = timedelta(days=30) * (1 - made / count) + timedelta(minutes=5)
            columns = columns_of(Dialect(connection.vendor), status, now - ago, now + ago, queues)
            names, parts, params = [], [], []
            for name, (part, *values) in columns.items():
                names.append(name)
                parts.append(part)
                params += values
            stamp = int((now - ago).timestamp() * 1000)
            with connection.cursor() as cursor:
                cursor.execute(
                    f"INSERT INTO {TABLE} (id, {', '.join(names)})"
                    f" SELECT {Dialect(connection.vendor).id()}, {', '.join(parts)}"
                    f" FROM {NUMBERS} WHERE n < %s",
                    [stamp, first + made, *adapted(connection, params), min(CHUNK, count - made)],
                )
        first += count
    Pause.objects.using(using).get_or_create(
        backend_name="default", task_path=PAUSED_TASK, defaults={"paused_at": now}
    )
    renew_statistics(using)


def columns_of(
    dialect: Dialect, status: str, past: Any, future: Any, queues: tuple[str, ...]
) -> dict[str, tuple[Any, ...]]:
    """Return each column's SQL with its parameters."""
    at, ended = dialect.time(), status in ("SUCCESSFUL", "FAILED", "CANCELLED")
    columns: dict[str, tuple[Any, ...]] = {
        "status": ("%s", status),
        "backend_name": ("%s", "default"),
        "queue_name": (one_of(queues),),
        "priority": ("CASE n %% 50 WHEN 0 THEN 10 ELSE 0 END",),
        "task_path": ("%s", PAUSED_TASK) if status == "PAUSED" else (one_of(TASKS),),
        "args": (dialect.json("[", "]"),),
        "kwargs": (dialect.json('{"user": {"id": ', '}, "password": "secret"}'),),
        "enqueued_at": (at, past),
        "run_at": (at, future if status == "SCHEDULED" else past),
        "attempts": ("%s", int(ended or status == "RUNNING")),
        "lost": ("0",),
        "lease": ("1",),
    }
    if ended or status == "RUNNING":
        columns |= dict.fromkeys(("started_at", "last_attempted_at"), (at, past))
    if status in ("SUCCESSFUL", "RUNNING"):
        columns["worker_id"] = ("%s", WORKER)
    if ended:
        columns["finished_at"] = (at, past + timedelta(seconds=1))
    if status == "FAILED":
        error = '[{"attempt": 1, "worker_id": null, "started_at": null, "finished_at": null, '
        error += f'"exception_class_path": "{ERRORS[0]}", "traceback": "a traceback, number '
        columns["errors"] = (dialect.json(error, '"}]'),)
        columns["exception_class_path"] = (one_of(ERRORS),)
        columns["error_place"] = ("%s", PLACE)
    return columns


def adapted(connection: Any, params: list[Any]) -> list[Any]:
    to_time = connection.ops.adapt_datetimefield_value
    return [to_time(each) if hasattr(each, "tzinfo") else each for each in params]


def renew_statistics(using: str) -> None:
    """What autovacuum and its like do in the course of a day."""
    words = {"postgresql": f"VACUUM ANALYZE {TABLE}", "mysql": f"ANALYZE TABLE {TABLE}"}
    connection = connections[using]
    if connection.vendor in words:
        with connection.cursor() as cursor:
            cursor.execute(words[connection.vendor])


# What must not mind ----------------------------------------------------------------------------


COMMANDS = (("tasks_health",), ("tasks_status", "--once"))


def pages() -> dict[str, str]:
    """Return the paths of the admin's pages by what they show."""

    def jobs(**query: str) -> str:
        path = reverse("admin:durable_tasks_job_changelist")
        return f"{path}?{urlencode(query)}" if query else path

    return {
        "overview": reverse("admin:app_list", args=["durable_tasks"]),
        "overview, a refresh": reverse("admin:durable_tasks_overview"),
        "jobs": jobs(),
        **{f"jobs, {status}": jobs(status=status) for status in MILLION},
        "jobs of a queue": jobs(queue_name=QUEUES[-1]),
        "READY jobs of a queue": jobs(status="READY", queue_name=QUEUES[0]),
        "jobs of a task": jobs(task_path=TASKS[-1]),
        "READY jobs of a task": jobs(status="READY", task_path=TASKS[-1]),
        "FAILED jobs of an error": jobs(status="FAILED", exception_class_path=ERRORS[0]),
        "jobs of a task that has none": jobs(task_path="shop.tasks.gone"),
        "jobs by an argument": jobs(q="args.0=4711"),
        "jobs by a keyword argument": jobs(q="kwargs.user.id=4711", status="SUCCESSFUL"),
        "jobs by a part of the path": jobs(q="task_k"),
        "jobs of a worker": jobs(worker_id=WORKER),
        "jobs of a schedule": jobs(schedule="nightly"),
        "jobs of a month ago": jobs(
            since=(timezone.now() - timedelta(days=31)).isoformat(),
            until=(timezone.now() - timedelta(days=29)).isoformat(),
        ),
        "workers": reverse("admin:durable_tasks_worker_changelist"),
        "periodic tasks": reverse("admin:durable_tasks_periodictask_changelist"),
        "queues": reverse("admin:durable_tasks_pause_changelist"),
    }


def job_pages(using: str = "default") -> dict[str, str]:
    """Return the path of the page of one job of each status."""
    found = {}
    for status in MILLION:
        some = Job.objects.using(using).filter(status=status).values_list("id", flat=True)
        if (id := some.first()) is not None:
            found[f"{status} job"] = reverse("admin:durable_tasks_job_change", args=[id])
    return found


def deep_pages(client: Any) -> dict[str, str]:
    """Return the paths of the pages that one comes to by going on a few times."""
    path = reverse("admin:durable_tasks_job_changelist")
    found = {}
    for query in ("", "?status=READY"):
        here = path + query
        for _ in range(2):
            text = client.get(here).content.decode()
            link = re.search(r'rel="next" href="([^"]+)"', text)
            if link is None:
                break
            here = urljoin(here, html.unescape(link[1]))
        found[f"jobs{query.replace('?status=', ', ')}, page 3"] = here
    return found


# What is read -----------------------------------------------------------------------------------

# Entries of indexes and rows of tables, of all tables of ours and all that is theirs.
POSTGRESQL_READS = """
SELECT COALESCE(SUM(pg_stat_get_xact_tuples_returned(c.oid)), 0),
       COALESCE(SUM(pg_stat_get_xact_blocks_fetched(c.oid)), 0)
FROM pg_class c WHERE c.relkind IN ('r', 'i') AND c.relname LIKE 'durable%%'
"""
# SQLite: steps of its machine between two calls of the counter.
STEPS = 1_000


class Reads:
    """What a block read: ``rows`` (SQLite: steps of its machine), and ``faults`` that no counter
    shows."""

    def __init__(self) -> None:
        self.rows = 0
        self.faults: list[str] = []


@contextmanager
def reading(using: str = "default") -> Iterator[Reads]:
    """Count what the block reads on this thread's connection, in a transaction of its own."""
    connection = connections[using]
    reads = Reads()
    with transaction.atomic(using=using):
        count = COUNTERS[connection.vendor]
        with count(connection, reads):
            yield reads


@contextmanager
def _postgresql(connection: Any, reads: Reads) -> Iterator[None]:
    with connection.cursor() as cursor:
        # Helpers count for themselves.
        cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    before = _row(connection, POSTGRESQL_READS)
    yield
    after = _row(connection, POSTGRESQL_READS)
    # A filter on an index reads entries that are not counted, but their blocks are.
    reads.rows = int(max(after[0] - before[0], after[1] - before[1]))


@contextmanager
def _mysql(connection: Any, reads: Reads) -> Iterator[None]:
    def total() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%%'")
            return sum(int(value) for _, value in cursor.fetchall())

    before = total()
    yield
    reads.rows = total() - before


@contextmanager
def _sqlite(connection: Any, reads: Reads) -> Iterator[None]:
    def step() -> int:
        reads.rows += STEPS
        return 0

    statements = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append((sql, params))
        return execute(sql, params, many, context)

    connection.ensure_connection()
    connection.connection.set_progress_handler(step, STEPS)
    try:
        with connection.execute_wrapper(note):
            yield
    finally:
        connection.connection.set_progress_handler(None, 0)
    # To count a whole table is one step, however large it is.
    for sql, params in statements:
        if TABLE in sql and sql.lstrip().startswith(("SELECT", "WITH")):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {sql}", params)
                if any(row[1] == "Count" for row in cursor.fetchall()):
                    reads.faults.append(f"counts all rows: {sql}")


COUNTERS = {"postgresql": _postgresql, "mysql": _mysql, "sqlite": _sqlite}


def _row(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()
