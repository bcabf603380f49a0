"""How many rows a search reads, as the databases themselves count, in a table of thousands."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

from django.db import DEFAULT_DB_ALIAS as USING
from django.db import connection
from django.http import QueryDict
from django.utils import timezone

from durable_tasks import search
from durable_tasks.models import Job
from durable_tasks.search import JobSearch
from durable_tasks.statuses import ENDED
from durable_tasks.store import store_for
from tests.helpers import WorkerTestCase
from tests.store.jobs import make_jobs, make_running

WINDOW = 100
# A page looks at a window, counts it, and finds its end; the index may be read beside its table.
MOST_ROWS = 7 * WINDOW
# What SQLite does for a row, at most, in steps of its machine.
STEPS_PER_ROW = 60

QUERIES = (
    *("", "status=READY", "status=READY&queue_name=c", "status=READY&backend_name=default"),
    *("status=SCHEDULED", "status=PAUSED", "status=RUNNING", "status=RUNNING&worker_id=w7"),
    *("status=SUCCESSFUL", "status=FAILED", "status=CANCELLED"),
    *("task_path=rare", "q=rare", "q=args.0%3D5", "queue_name=e", "schedule=x", "worker_id=w"),
    *("exception_class_path=a.B&error_place=", "status=READY&q=rare", "status=FAILED&q=rare"),
    *("status=SCHEDULED&q=args.0%3D5", "status=PAUSED&queue_name=x", "status=SUCCESSFUL&q=rare"),
    *("since=1h", "until=2020-01-01T00:00", "status=FAILED&since=1h", "q=0199f3aa"),
    "q=0199f3aa-0000-7000-8000-000000000000",
)


class ReadsTests(WorkerTestCase):
    def fill(self) -> None:
        now = timezone.now()
        make_jobs(
            2000,
            queue_name=lambda n: "abcde"[n % 5],
            priority=lambda n: n % 7,
            run_at=lambda n: now - timedelta(seconds=n % 50),
        )
        make_jobs(
            3000,
            status=lambda n: "FAILED" if n % 2 == 0 else "SUCCESSFUL",
            finished_at=lambda n: now - timedelta(seconds=n),
        )
        # Many of one time and of one task: within these, too, a page begins where it should.
        make_jobs(1500, status="SCHEDULED", run_at=now + timedelta(days=1))
        make_jobs(1500, status="PAUSED")
        make_running(200, worker_id=lambda n: f"w{n % 50}")  # type: ignore[arg-type]

    def test_every_page_reads_a_bounded_number_of_rows(self) -> None:
        self.fill()
        with mock.patch.object(search, "WINDOW", WINDOW):
            for statistics in ("old", "fresh"):
                if statistics == "fresh":
                    self.analyze()
                for query in QUERIES:
                    if statistics == "old" and not self.trusts_old_statistics(query):
                        continue
                    asked = JobSearch.from_query(QueryDict(query))
                    after = None
                    for page in range(2):
                        with self.subTest(query, statistics=statistics, page=page):
                            found, rows = self.rows_read(
                                lambda a=asked, b=after: a.page(USING, b, 20)
                            )
                            self.assertLessEqual(rows, MOST_ROWS)
                        after = found.after
                        if after is None:
                            break
                    with self.subTest(query, statistics=statistics, page="count"):
                        _, rows = self.rows_read(lambda a=asked: a.count(USING, WINDOW))
                        self.assertLessEqual(rows, MOST_ROWS)

    def trusts_old_statistics(self, query: str) -> bool:
        # With those of another time PostgreSQL may believe that few have ended so, and sort them.
        ended = any(f"status={status}" in query for status in ENDED)
        return connection.vendor != "postgresql" or not ended

    def test_the_last_of_many_equal_ones_is_found_as_quickly(self) -> None:
        self.fill()
        self.analyze()
        for status, values in (
            ("SCHEDULED", ("run_at", "id")),
            ("PAUSED", ("task_path", "id")),
            ("READY", ("backend_name", "queue_name", "priority", "run_at", "id")),
        ):
            if status == "PAUSED" and not connection.features.supports_partial_indexes:
                values = ("run_at", "id")
            job = Job.objects.filter(status=status).order_by("id")[500]
            after = json.dumps(
                [
                    value if isinstance(value := getattr(job, name), str | int) else str(value)
                    for name in values
                ]
            )
            with self.subTest(status), mock.patch.object(search, "WINDOW", WINDOW):
                found, rows = self.rows_read(
                    lambda s=status, a=after: JobSearch(status=s).page(USING, a, 20)
                )
                self.assertEqual(len(found.jobs), 20)
                self.assertLessEqual(rows, MOST_ROWS)

    # How each database tells -----------------------------------------------------------------

    def analyze(self) -> None:
        word = "ANALYZE TABLE" if connection.vendor == "mysql" else "ANALYZE"
        with connection.cursor() as cursor:
            cursor.execute(f"{word} {Job._meta.db_table}")
            if connection.vendor == "mysql":
                cursor.fetchall()

    def rows_read(self, work: Callable[[], Any]) -> tuple[Any, int]:
        """Return what ``work`` returns, and how many rows of the table or its indexes it read."""
        result, rows = getattr(self, f"_{connection.vendor}")(work)
        return result, rows

    def _sqlite(self, work: Callable[[], Any]) -> tuple[Any, int]:
        connection.ensure_connection()
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            ticks += 1

        connection.connection.set_progress_handler(tick, STEPS_PER_ROW)
        try:
            return work(), ticks
        finally:
            connection.connection.set_progress_handler(None, 0)

    def _mysql(self, work: Callable[[], Any]) -> tuple[Any, int]:
        with connection.cursor() as cursor:
            before = self._handler_reads(cursor)
            result = work()
            return result, self._handler_reads(cursor) - before

    def _handler_reads(self, cursor: Any) -> int:
        # Not Handler_read_rnd_next: of the temporary tables, and of SHOW itself.
        cursor.execute(
            "SHOW SESSION STATUS WHERE Variable_name IN "
            "('Handler_read_key', 'Handler_read_next', 'Handler_read_prev', 'Handler_read_first', "
            "'Handler_read_last')"
        )
        return sum(int(value) for _, value in cursor.fetchall())

    def _postgresql(self, work: Callable[[], Any]) -> tuple[Any, int]:
        statements: list[tuple[str, Any]] = []

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            statements.append((sql, params))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(note):
            result = work()
        rows = 0
        with store_for(connection).pinned_plans(), connection.cursor() as cursor:
            for sql, params in statements:
                if Job._meta.db_table not in sql:
                    continue
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
                [plan] = cursor.fetchone()
                plan = json.loads(plan) if isinstance(plan, str) else plan
                rows += sum(_rows_of(plan[0]["Plan"]))
        return result, rows


def _rows_of(node: dict[str, Any]) -> Iterator[float]:
    if "Relation Name" in node:
        read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        yield node["Actual Loops"] * (read + node.get("Rows Removed by Index Recheck", 0))
    for child in node.get("Plans", ()):
        yield from _rows_of(child)
