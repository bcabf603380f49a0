"""How many jobs wait and run, counted up to a limit: a look costs the same with a million rows.

Each SELECT ends in the order of the index that serves it. On a connection that is not the engine's
own they belong inside ``pinned_plans()``: PostgreSQL else prefers to read and sort all that waits.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import batched
from typing import Any

from .claiming import Claiming
from .database import TABLE

# Queues that one statement asks about: SQLite takes 500 parts of a UNION.
MAX_PARTS = 100
_ORDER = "ORDER BY priority DESC, run_at, id LIMIT %s"


class Depths(Claiming):
    """Looks without locks, on the worker's connection or the project's own."""

    def count_ready(
        self, backend_name: str, queue_names: Sequence[str], limit: int
    ) -> dict[str, int]:
        """Return how many jobs are READY in each of these queues, up to ``limit`` in each.

        Served by durable_job_ready.
        """
        part = (
            "SELECT %s AS place, COUNT(*) AS jobs FROM (SELECT id "
            f"FROM {self._READY} WHERE status = 'READY' AND backend_name = %s AND queue_name = %s "
            f"{_ORDER}) AS counted"
        )
        parts = [(part, (backend_name, name, limit)) for name in queue_names]
        return {queue_names[place]: jobs for place, jobs in self._union(parts)}

    def oldest_ready(
        self, backend_name: str, queue_names: Sequence[str]
    ) -> dict[str, datetime | None]:
        """Return since when the READY job that is due longest waits in each of these queues.

        Served by durable_job_ready, in which the oldest of a priority comes first: a look-up for
        each priority that a queue has, and a round trip for as many as the queue with the most.
        """
        oldest: dict[str, datetime | None] = dict.fromkeys(queue_names)
        below: dict[str, int | None] = dict.fromkeys(queue_names)
        while below:
            names = list(below)
            parts = []
            for name, priority in below.items():
                condition = "" if priority is None else "AND priority < %s"
                params = (backend_name, name, *([] if priority is None else [priority]), 1)
                parts.append(
                    (
                        "SELECT * FROM (SELECT %s AS place, priority, run_at "
                        f"FROM {self._READY} WHERE status = 'READY' AND backend_name = %s "
                        f"AND queue_name = %s {condition} {_ORDER}) AS head",
                        params,
                    )
                )
            below = {}
            for place, priority, run_at in self._union(parts):
                name = names[place]
                at = self.from_time(run_at)
                assert at is not None
                known = oldest[name]
                oldest[name] = at if known is None else min(known, at)
                below[name] = priority
        return oldest

    def _union(self, parts: Sequence[tuple[str, tuple[object, ...]]]) -> Iterator[tuple[int, ...]]:
        """Yield the rows of all parts; the first parameter of each is its place."""
        for chunk in batched(enumerate(parts), MAX_PARTS):
            sql = " UNION ALL ".join(part for _, (part, _) in chunk)
            params = [value for place, (_, rest) in chunk for value in (place, *rest)]
            yield from self.rows(sql, params)

    def count_scheduled_by_queue(self, limit: int) -> list[tuple[str, str, datetime, int]]:
        """Return backend, queue, first due time and number of the ``limit`` SCHEDULED jobs that are
        due next.

        Served by durable_job_scheduled.
        """
        rows = self.rows(
            "SELECT backend_name, queue_name, MIN(run_at), COUNT(*) FROM ("
            f"SELECT backend_name, queue_name, run_at FROM {TABLE} WHERE status = 'SCHEDULED' "
            "ORDER BY run_at LIMIT %s) AS seen GROUP BY backend_name, queue_name",
            [limit],
        )
        return [(alias, name, self.from_time(at), count) for alias, name, at, count in rows]

    def count_running(self, limit: int) -> list[tuple[str, str, str, int]]:
        """Return backend, queue, worker and number of up to ``limit`` RUNNING jobs.

        Served by durable_job_running.
        """
        return self._grouped("backend_name, queue_name, worker_id", "RUNNING", "worker_id", limit)

    def count_paused(self, limit: int) -> list[tuple[str, str, str, int]]:
        """Return backend, queue, task and number of up to ``limit`` PAUSED jobs.

        Served by durable_job_paused; by durable_job_scheduled where that is not there.
        """
        partial = self.connection.features.supports_partial_indexes
        order = "task_path" if partial else "run_at"
        return self._grouped("backend_name, queue_name, task_path", "PAUSED", order, limit)

    def count_failed(self, limit: int) -> list[tuple[str, str | None, str | None, int]]:
        """Return backend, error, its place and number of the ``limit`` FAILED jobs that ended last.

        Served by durable_job_failed; by durable_job_ended where that is not there.
        """
        columns = "backend_name, exception_class_path, error_place"
        return self._grouped(columns, "FAILED", "finished_at DESC", limit)

    def _grouped(self, columns: str, status: str, order: str, limit: int) -> list[Any]:
        return self.rows(
            f"SELECT {columns}, COUNT(*) FROM (SELECT {columns} FROM {TABLE} "
            f"WHERE status = '{status}' ORDER BY {order} LIMIT %s) AS seen GROUP BY {columns}",
            [limit],
        )
