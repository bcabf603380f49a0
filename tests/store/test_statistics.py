"""What workers have counted is added to the rows, whatever others do to these."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest import mock, skipIf

from django.db import OperationalError, connection, transaction
from django.utils import timezone

from durable_tasks.models import ErrorGroup, Statistic
from durable_tasks.store import statistics
from durable_tasks.store.database import Database
from durable_tasks.store.statistics import (
    Count,
    ErrorKey,
    Errors,
    StatisticKey,
    add_counts,
    depths,
    forget,
    was_looked_at,
)

from .jobs import StoreTestCase, make_jobs, make_running

NOW = 1_800_000_000 // 3600 * 3600 + 1234
JOB = uuid.uuid4()


def key(queue_name: str = "default", task_path: str = "shop.send", **changes: Any) -> StatisticKey:
    return StatisticKey("default", 60, NOW // 60 * 60, queue_name, task_path)._replace(**changes)


def seen(minutes: float = 0) -> datetime:
    return timezone.now().replace(microsecond=7) - timedelta(minutes=minutes)


def errors(count: int = 1, at: datetime | None = None, **changes: Any) -> Errors:
    at = at or seen()
    values: dict[str, Any] = {
        "count": count,
        "hours": {NOW // 3600 * 3600: count},
        "message": "no",
        "first_seen": at,
        "last_seen": at,
        "task_path": "shop.send",
        "last_job_id": JOB,
    }
    return Errors(**values | changes)


class AddTests(StoreTestCase):
    def add(self, *entries: Any) -> None:
        """Add (key, entry) pairs, all of them."""
        counts = {key: entry for key, entry in entries if isinstance(key, StatisticKey)}
        groups = {key: entry for key, entry in entries if isinstance(key, ErrorKey)}
        add_counts(self.store, counts, groups)
        self.assertEqual((counts, groups), ({}, {}))

    def test_counts_are_added_to_what_is_there(self) -> None:
        one = Count(*(1, 2, 3, 4, 5), waits={0: 1, 7: 2}, runs={7: 14})
        two = Count(*(10, 0, 0, 0, 1), waits={7: 3, 12: 1}, runs={8: 1})
        for count in (one, two):
            self.add((key(), count))
        row = Statistic.objects.values().get()
        del row["id"]
        self.assertEqual(
            row,
            {
                **key()._asdict(),
                "successful": 11,
                "failed": 2,
                "cancelled": 3,
                "retried": 4,
                "lost": 6,
                "waits": {"0": 1, "7": 5, "12": 1},
                "runs": {"7": 14, "8": 1},
                "ready": None,
                "scheduled": None,
                "running": None,
            },
        )

    def test_of_what_was_there_the_most_stays(self) -> None:
        for ready, running in ((5, 0), (3, 2), (0, 1)):
            self.add((key(task_path=""), Count(ready=ready, scheduled=0, running=running)))
        row = Statistic.objects.get()
        self.assertEqual((row.ready, row.scheduled, row.running), (5, 0, 2))

    def test_errors_are_added_to_their_group(self) -> None:
        group = ErrorKey("default", "builtins.ValueError", "shop/tasks.py in charge")
        early, late, last = seen(9), seen(5), uuid.uuid4()
        hour = NOW // 3600 * 3600
        old = {hour - statistics.HOURS_KEPT: 9, hour - 3600: 2}
        self.add((group, errors(11, late, hours=old, message="old")))
        self.add((group, errors(2, seen(), message="ü 🎈", last_job_id=last, task_path="shop.pay")))
        self.add((group, errors(1, early, message="late news")))
        row = ErrorGroup.objects.get()
        self.assertEqual((row.count, row.first_seen), (14, early))
        self.assertGreater(row.last_seen, late)
        self.assertEqual(row.hours, {str(hour): 3, str(hour - 3600): 2})
        self.assertEqual((row.message, row.task_path), ("ü 🎈", "shop.pay"))
        self.assertEqual(row.last_job_id, last)

    def test_many_rows_are_written_in_batches(self) -> None:
        keys = [key(f"queue {n % 7}", f"shop.task_{n}") for n in range(statistics.BATCH * 2 + 3)]
        lengths = []
        execute = Database._execute

        def watched(store: Any, cursor: Any, sql: str, params: Any) -> None:
            lengths.append(len(params))
            execute(store, cursor, sql, params)

        for turn in (1, 2):
            with mock.patch.object(type(self.store), "_execute", watched):
                self.add(*((key, Count(successful=turn)) for key in keys))
        self.assertEqual(Statistic.objects.count(), len(keys))
        self.assertEqual(set(Statistic.objects.values_list("successful", flat=True)), {3})
        self.assertLess(max(lengths, default=0), 1000)

    def test_one_call_writes_no_more_than_some(self) -> None:
        counts = {key(f"queue {n}"): Count(successful=1) for n in range(5)}
        with mock.patch.multiple(statistics, BATCH=2, MOST_BATCHES=2):
            add_counts(self.store, counts, {})
            self.assertEqual((len(counts), Statistic.objects.count()), (1, 4))
            add_counts(self.store, counts, {})
        self.assertEqual((len(counts), Statistic.objects.count()), (0, 5))

    def test_names_that_are_one_to_the_database_are_counted_together(self) -> None:
        names = ("mail", "Mail", "MAIL")
        for turn in (1, 2):
            with self.subTest(turn):
                self.add(*((key(name), Count(successful=1)) for name in names))
                self.add(*((ErrorKey("default", f"shop.{name}", "x"), errors()) for name in names))
                rows = Statistic.objects.all()
                self.assertEqual(sum(row.successful for row in rows), 3 * turn)
                self.assertEqual(sum(row.count for row in ErrorGroup.objects.all()), 3 * turn)

    def test_workers_that_write_at_once_lose_nothing(self) -> None:
        workers, turns = 4, 10
        keys = [key(task_path=f"shop.task_{n}") for n in range(5)]
        group = ErrorKey("default", "builtins.ValueError", "")
        stores = [self.open_store() for _ in range(workers)]
        together = threading.Barrier(workers)
        left: list[object] = []

        def write(store: Any) -> None:
            for _ in range(turns):
                together.wait()
                counts = {key: Count(successful=1, runs={3: 1}) for key in keys}
                groups = {group: errors()}
                for _ in range(1000):
                    add_counts(store, counts, groups)
                    if not (counts or groups):
                        break
                left.extend([*counts, *groups])
            store.connection.close()

        threads = [threading.Thread(target=write, args=[store]) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(left, [])
        self.assertEqual(
            list(Statistic.objects.values_list("successful", "runs")),
            [(workers * turns, {"3": workers * turns})] * len(keys),
        )
        self.assertEqual(ErrorGroup.objects.get().count, workers * turns)

    @skipIf(connection.vendor == "sqlite", "SQLite locks no rows")
    def test_a_row_that_another_transaction_has_locked_is_left_for_later(self) -> None:
        free, locked = key(task_path="free"), key(task_path="locked")
        self.add((free, Count(successful=1)), (locked, Count(successful=1)))
        counts = {free: Count(successful=1), locked: Count(successful=1)}
        with transaction.atomic():
            Statistic.objects.select_for_update().get(task_path="locked")
            add_counts(self.store, counts, {})
            self.assertEqual(list(counts), [locked])
        add_counts(self.store, counts, {})
        self.assertEqual(counts, {})
        self.assertEqual(set(Statistic.objects.values_list("successful", flat=True)), {2})

    def test_a_commit_whose_answer_was_lost_does_not_count_twice(self) -> None:
        group = ErrorKey("default", "builtins.ValueError", "")
        for committed in (True, False):
            with self.subTest(committed=committed):
                Statistic.objects.all().delete()
                ErrorGroup.objects.all().delete()
                entries: Any = ({key(): Count(successful=2, waits={1: 2})}, {group: errors(2)})
                for _ in entries:  # of each table once
                    with self.lost_answer(committed), self.assertRaises(OperationalError):
                        add_counts(self.store, *entries)
                    add_counts(self.store, entries[0], {})
                add_counts(self.store, *entries)
                self.assertEqual(entries, ({}, {}))
                self.assertEqual(Statistic.objects.get().waits, {"1": 2})
                self.assertEqual(ErrorGroup.objects.get().count, 2)

    @contextmanager
    def lost_answer(self, committed: bool) -> Iterator[None]:
        """The first transaction of the block fails, right after its commit or right before."""
        begin = self.store._transaction

        @contextmanager
        def failing() -> Iterator[None]:
            with begin():
                yield
                if not committed:
                    raise OperationalError("gone before the commit")
            raise OperationalError("gone after the commit")

        with mock.patch.object(self.store, "_transaction", failing):
            yield


class DepthTests(StoreTestCase):
    def depths(self) -> dict[str, tuple[int | None, ...]]:
        found = depths(self.store, "default", NOW)
        return {name: (row.ready, row.scheduled, row.running) for name, row in found.items()}

    def test_jobs_are_counted_by_queue_and_status(self) -> None:
        make_jobs(3, queue_name="mail")
        make_jobs(2, queue_name="mail", status="SCHEDULED")
        make_running(4, queue_name="video")
        make_jobs(1, queue_name="late", status="SCHEDULED")
        for status in ("SUCCESSFUL", "FAILED", "CANCELLED", "PAUSED"):
            make_jobs(1, queue_name="over", status=status)
        for status in ("READY", "SCHEDULED", "RUNNING"):
            make_jobs(1, queue_name="mail", backend_name="second", status=status)
        self.assertEqual(self.depths(), {"mail": (3, 2, 0), "video": (0, 0, 4), "late": (0, 1, 0)})

    def test_counting_stops(self) -> None:
        make_jobs(7, queue_name="mail")
        make_jobs(7, queue_name="late", status="SCHEDULED")
        with mock.patch.multiple(statistics, MOST_READY=5, MOST_SCHEDULED=6):
            self.assertEqual(self.depths(), {"mail": (5, 0, 0), "late": (0, 6, 0)})

    def test_a_queue_that_is_empty_since_a_short_while_has_none(self) -> None:
        hour = NOW // 3600 * 3600
        for number, (name, changes) in enumerate(
            {
                "ran": {"task_path": "shop.send"},
                "ran before": {"task_path": "shop.send", "begins": hour - 3600},
                "waited": {"ready": 1},
                "came later": {"scheduled": 1},
                "went on": {"running": 1},
                "long ago": {"task_path": "shop.send", "begins": hour - 7200},
                "nothing": {"ready": 0, "scheduled": 0, "running": 0},
                "minute": {"task_path": "shop.send", "period": 60},
                "elsewhere": {"task_path": "shop.send", "backend_name": "second"},
            }.items()
        ):
            values: dict[str, Any] = {"backend_name": "default", "period": 3600, "begins": hour}
            Statistic.objects.create(id=number + 1, queue_name=name, **values | changes)
        names = ("ran", "ran before", "waited", "came later", "went on")
        self.assertEqual(self.depths(), dict.fromkeys(names, (0, 0, 0)))

    def test_one_look_is_enough_for_a_minute(self) -> None:
        minute = NOW // 60 * 60
        for changes in (
            {"task_path": "shop.send", "ready": 1},
            {"begins": minute - 60, "ready": 1},
            {"backend_name": "second", "ready": 1},
            {"period": 600, "ready": 1},
            {},
        ):
            values: dict[str, Any] = {"backend_name": "default", "period": 60, "begins": minute}
            Statistic.objects.create(queue_name="q", **values | changes)
            self.assertFalse(was_looked_at(self.store, "default", minute))
        Statistic.objects.update(ready=0)
        self.assertTrue(was_looked_at(self.store, "default", minute))


class ForgetTests(StoreTestCase):
    def test_rows_go_when_their_time_is_over(self) -> None:
        for backend_name in ("default", "gone"):
            for period, kept in statistics.KEPT.items():
                for age, task_path in ((kept, "stays"), (kept + 2 * period, "goes")):
                    begins = (NOW - age) // period * period
                    Statistic.objects.create(
                        backend_name=backend_name,
                        period=period,
                        begins=begins,
                        queue_name="q",
                        task_path=task_path,
                    )
        now = timezone.now()
        for days in (29, 31):
            at = now - timedelta(days=days)
            self.add_group(f"{days}", at)
        forget(self.store, now, NOW)
        rows = Statistic.objects.order_by("backend_name", "period")
        self.assertEqual(
            list(rows.values_list("backend_name", "period", "task_path")),
            [(name, period, "stays") for name in ("default", "gone") for period in statistics.KEPT],
        )
        self.assertEqual(list(ErrorGroup.objects.values_list("place", flat=True)), ["29"])

    def add_group(self, place: str, at: datetime) -> None:
        ErrorGroup.objects.create(
            **ErrorKey("default", "builtins.ValueError", place)._asdict(),
            first_seen=at,
            last_seen=at,
            task_path="shop.send",
            last_job_id=JOB,
        )

    def test_a_few_batches_at_a_time(self) -> None:
        Statistic.objects.bulk_create(
            Statistic(backend_name="b", period=60, begins=n * 60, queue_name="q") for n in range(9)
        )
        with mock.patch.multiple(statistics, DELETED=2, MOST_DELETIONS=3):
            forget(self.store, timezone.now(), NOW)
            self.assertEqual(Statistic.objects.count(), 3)
            forget(self.store, timezone.now(), NOW)
            self.assertEqual(Statistic.objects.count(), 0)
