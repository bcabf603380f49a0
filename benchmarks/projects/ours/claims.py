"""``python -m claims ROWS ROUNDS_OF_1 ROUNDS_OF_100 DRAINED``: time claims in several databases.

``default`` has a few thousand READY jobs in each of some queues. The others have the same and
ROWS more: ``finished``, ``scheduled``, and ``ready`` in one of the queues. Claims go to all in
turn, so that what else the machine does slows all. Then, in ``long``, DRAINED jobs are drained
while a transaction stays open on another connection, and claims are timed again. Prints JSON: the
milliseconds of each claim.
"""

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.utils import timezone  # noqa: E402

from durable_tasks.ids import uuid7  # noqa: E402
from durable_tasks.models import Job  # noqa: E402
from durable_tasks.store import (  # noqa: E402
    Claim,
    Finish,
    Queues,
    Store,
    own_connection,
    store_for,
)

TABLE = Job._meta.db_table

# What each further database has besides.
KINDS = ("finished", "scheduled", "ready")

# The queues that all databases have, with so many READY jobs each.
QUEUES = ("orders", "mail", "reports", "backlog")
READY = 3_000
# Where the database ``ready`` has ROWS more of them.
BACKLOG = QUEUES[-1]
SERVED = {
    "one queue": Queues("default", QUEUES[:1]),
    "three named queues": Queues("default", QUEUES[:3]),
    "all queues": Queues("default", None),
}

# Jobs made by one statement; they share a due time and the first 20 digits of their ids.
CHUNK = 1_000
DIGITS = "(SELECT 0 AS d" + "".join(f" UNION ALL SELECT {digit}" for digit in range(1, 10)) + ")"
ID = {
    "postgresql": "(%s || lpad(to_hex(n), 12, '0'))::uuid",
    "mysql": "concat(%s, lpad(hex(n), 12, '0'))",
    "sqlite": "%s || printf('%%012x', n)",
}
STATISTICS = {"postgresql": f"VACUUM ANALYZE {TABLE}", "mysql": f"ANALYZE TABLE {TABLE}"}


def main(rows: int, rounds_of_1: int, rounds_of_100: int, drained: int) -> dict[str, Any]:
    began = time.monotonic()
    for alias in connections:
        call_command("migrate", database=alias, verbosity=0)
        fill(alias, **{alias: rows} if alias in KINDS else {})
    filled = time.monotonic() - began
    aliases = ("default", *KINDS)
    stores = {alias: store_for(own_connection(alias), own=True) for alias in aliases}
    claims = [
        {"queues": text, "want": want, **compare(stores, queues, want, rounds)}
        for text, queues in SERVED.items()
        for want, rounds in ((1, rounds_of_1), (100, rounds_of_100))
    ]
    told = {"seconds_to_fill": round(filled, 1), "claims": claims}
    if drained:
        # These end the jobs: the nearly empty database must have enough.
        rounds = {1: min(rounds_of_1, READY // 20), 100: min(rounds_of_100, READY // 200)}
        told["long"] = beside_long_transaction(stores["default"], drained, rounds)
    return told


def beside_long_transaction(
    empty: Store, drained: int, rounds: dict[int, int]
) -> list[dict[str, Any]]:
    """Drain jobs while a transaction that sees none of it stays open; then compare claims."""
    queues = SERVED["one queue"]
    for due in spread(drained, timezone.now() - timedelta(hours=1), timezone.now()):
        insert("long", status="READY", queue_name=QUEUES[0], run_at=due, enqueued_at=due)
    update_statistics("long")
    other = connections.create_connection("long")
    with other.cursor() as cursor:
        if other.vendor == "postgresql":
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        elif other.vendor == "mysql":
            # At Django's level, READ COMMITTED, there is no snapshot that lasts.
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        else:
            cursor.execute("BEGIN")
        cursor.execute(f"SELECT count(*) FROM {TABLE}")  # its snapshot is taken
        cursor.fetchall()
    store = store_for(own_connection("long"), own=True)
    ended: list[Finish] = []
    left = drained
    while left > 0:
        exchange = store.exchange(
            ended, min(left, 250), queues=queues, worker_id="bench", now=timezone.now()
        )
        ended = [ending(claim) for claim in exchange.claims]
        left -= len(ended)
        if not ended:
            raise RuntimeError(f"{left} jobs could not be drained.")
    store.finish(ended, now=timezone.now())
    told = [
        {
            "want": want,
            **compare({"default": empty, "long": store}, queues, want, count, release=False),
        }
        for want, count in rounds.items()
    ]
    with other.cursor() as cursor:
        cursor.execute("ROLLBACK")
    return told


def ending(claim: Claim) -> Finish:
    now = timezone.now()
    return Finish.succeeded(claim, "1", started_at=now, finished_at=now)


def compare(
    stores: dict[str, Store], queues: Queues, want: int, rounds: int, *, release: bool = True
) -> dict[str, Any]:
    """Claim in each database in turn; return the milliseconds of each claim."""
    took: dict[str, list[float]] = {alias: [] for alias in stores}
    for _ in range(rounds):
        for alias, store in stores.items():
            took[alias].append(round(claim(store, queues, want, release) * 1000, 3))
    return took


def claim(store: Store, queues: Queues, want: int, release: bool) -> float:
    """Claim ``want`` jobs and give them back or end them; return the seconds of the claim."""
    now = timezone.now()
    began = time.perf_counter()
    claims = store.exchange([], want, queues=queues, worker_id="bench", now=now).claims
    took = time.perf_counter() - began
    if len(claims) != want:
        raise RuntimeError(f"{len(claims)} jobs claimed instead of {want}.")
    store.finish([Finish.released(each) if release else ending(each) for each in claims], now=now)
    return took


# Filling


def fill(alias: str, *, finished: int = 0, scheduled: int = 0, ready: int = 0) -> None:
    """Make the READY jobs that are claimed and, beside them, so many of each other kind."""
    now = timezone.now()
    for queue in QUEUES:
        for due in spread(READY, now - timedelta(days=1), now):
            insert(alias, status="READY", queue_name=queue, run_at=due, enqueued_at=due)
    for due in spread(ready, now - timedelta(days=1), now):
        insert(alias, status="READY", queue_name=BACKLOG, run_at=due, enqueued_at=due)
    for due in spread(scheduled, now + timedelta(hours=1), now + timedelta(days=30)):
        insert(alias, status="SCHEDULED", run_at=due, run_after=due, enqueued_at=now)
    for due in spread(finished, now - timedelta(days=30), now - timedelta(days=1)):
        insert(
            alias,
            status="SUCCESSFUL",
            run_at=due,
            enqueued_at=due,
            started_at=due,
            last_attempted_at=due,
            finished_at=due,
            attempts=1,
            lease=1,
            worker_id="bench",
            return_value="1",
        )
    update_statistics(alias)


def update_statistics(alias: str) -> None:
    connection = connections[alias]
    if connection.vendor in STATISTICS:
        with connection.cursor() as cursor:
            cursor.execute(STATISTICS[connection.vendor])


def spread(rows: int, first: datetime, last: datetime) -> Iterator[datetime]:
    """Give a time for each chunk of so many rows."""
    chunks = rows // CHUNK
    for number in range(chunks):
        yield first + (last - first) * (number / chunks)


def insert(alias: str, **values: Any) -> None:
    """Insert a chunk of jobs with these columns, in two priorities, by one statement."""
    connection = connections[alias]
    columns = {
        "backend_name": "default",
        "queue_name": QUEUES[0],
        "task_path": "tasks.sync_task",
        "args": "[1]",
        "kwargs": "{}",
        "attempts": 0,
        "lost": 0,
        "lease": 0,
        **values,
    }
    params = [
        connection.ops.adapt_datetimefield_value(value) if isinstance(value, datetime) else value
        for value in columns.values()
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {TABLE} (id, priority, {', '.join(columns)})"
            f" SELECT {ID[connection.vendor]}, CASE WHEN n < 100 THEN 10 ELSE 0 END,"
            f" {', '.join(['%s'] * len(columns))}"
            f" FROM (SELECT a.d * 100 + b.d * 10 + c.d AS n"
            f" FROM {DIGITS} AS a CROSS JOIN {DIGITS} AS b CROSS JOIN {DIGITS} AS c) AS numbers",
            [uuid7().hex[:20], *params],
        )


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:]))))
