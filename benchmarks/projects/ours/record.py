"""``python -m record FILE``: run a worker to the end and keep the statements of its exchanges.

FILE gets, pickled, the pairs of SQL and parameters that the loop's thread gave to the driver, in
order. The rows as they were before are kept in the table ``bench_jobs``.
"""

import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import django

django.setup()

import psycopg  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from durable_tasks.models import Job  # noqa: E402

TABLE = Job._meta.db_table


def main(file: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS bench_jobs")
        cursor.execute(f"CREATE TABLE bench_jobs AS TABLE {TABLE}")
    sent: list[tuple[str, Any]] = []
    execute = psycopg.Cursor.execute

    def keep(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        # Finishing and claiming speak of the lease; promoting and looking around do not.
        if threading.current_thread().name == "loop" and params and "lease" in str(query):
            sent.append((str(query), params))
        return execute(self, query, params, **options)

    psycopg.Cursor.execute = keep  # type: ignore[method-assign]
    try:
        call_command("db_worker", batch=True, startup_delay=False, reload=False, threads=1)
    finally:
        psycopg.Cursor.execute = execute  # type: ignore[method-assign]
    file.write_bytes(pickle.dumps(sent))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
