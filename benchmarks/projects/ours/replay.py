"""``python -m replay FILE``: send what ``record`` kept once more, with nothing but the driver.

The rows are made as they were, so that the same statements claim and finish the same jobs with
the same fences. Prints JSON: how many jobs ended, the seconds, and each statement's jobs.
"""

import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import django

django.setup()

import psycopg  # noqa: E402
from django.db import connection  # noqa: E402

from durable_tasks.models import Job  # noqa: E402
from durable_tasks.store import own_connection  # noqa: E402
from durable_tasks.store.binary import register  # noqa: E402

TABLE = Job._meta.db_table


def main(file: Path) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {TABLE}")
        cursor.execute(f"INSERT INTO {TABLE} SELECT * FROM bench_jobs")
    sent = pickle.loads(file.read_bytes())
    own = own_connection("default")
    own.ensure_connection()
    own.set_autocommit(True)
    batches = []
    # The driver's plain cursor; its connection is set up as the worker's own.
    register(own.connection)
    raw = psycopg.Cursor(own.connection)
    raw.format = psycopg.pq.Format.BINARY
    began = time.perf_counter()
    for sql, params in sent:
        batches.append(raw.execute(sql, params).fetchall())
    seconds = time.perf_counter() - began
    own.close()
    ended = Job.objects.filter(status="SUCCESSFUL").count()
    return {"ended": ended, "seconds": seconds, "rows": [jobs_in(rows) for rows in batches]}


def jobs_in(rows: list[Any]) -> int:
    """Return how many jobs a statement finished and claimed: a row for each claim, and one that
    lists those that were finished."""
    return sum(1 if row[0] is not None else len(row[-1] or ()) for row in rows)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
