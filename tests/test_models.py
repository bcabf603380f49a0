from io import StringIO
from typing import Any
from unittest import mock

from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.test import TestCase, TransactionTestCase

from durable_tasks.models import Job, PartialIndex
from durable_tasks.statuses import ENDED, JobStatus
from tests.helpers import WorkerTestCase
from tests.store.jobs import make_jobs

READY = ["backend_name", "queue_name", "priority", "run_at", "id"]
# Name -> columns where an index can be partial, columns elsewhere.
INDEXES: dict[str, tuple[list[str], list[str] | None]] = {
    "durable_job_ready": (READY, ["status", *READY]),
    "durable_job_scheduled": (["run_at", "id"], ["status", "run_at"]),
    "durable_job_paused": (["task_path", "id"], None),
    "durable_job_running": (["worker_id"], ["status", "worker_id"]),
    "durable_job_ended": (["finished_at"], ["status", "finished_at"]),
    "durable_job_failed": (["finished_at"], None),
    "durable_job_delete_after": (["delete_after"], ["delete_after"]),
}
PARTIAL = connection.features.supports_partial_indexes
TABLE = Job._meta.db_table


def indexes() -> dict[str, Any]:
    """Return the indexes that the database has, but for the primary key's."""
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, TABLE)
    return {
        name: index["columns"]
        for name, index in found.items()
        if index["index"] and not index["primary_key"] and not index["unique"]
    }


class SchemaTests(TestCase):
    def test_the_migration_is_complete(self) -> None:
        output = StringIO()
        call_command("makemigrations", "durable_tasks", dry_run=True, check=True, stdout=output)
        self.assertIn("No changes detected", output.getvalue())

    def test_the_database_has_the_indexes_and_no_others(self) -> None:
        expected = {
            name: columns if PARTIAL else fallback
            for name, (columns, fallback) in INDEXES.items()
            if PARTIAL or fallback
        }
        self.assertEqual(indexes(), expected)

    def test_a_priority_out_of_range_is_refused_by_the_database(self) -> None:
        make_jobs(2, priority=lambda n: (-100, 100)[n])
        for priority in (-101, 101):
            with (
                self.subTest(priority),
                self.assertRaises(IntegrityError),
                transaction.atomic(),
            ):
                make_jobs(priority=priority)

    def test_a_status_that_is_not_known_yet_is_taken_by_the_database(self) -> None:
        make_jobs(status="WAITING")
        self.assertEqual(Job.objects.get().status, "WAITING")


if PARTIAL:

    class PartialIndexTests(TestCase):
        def test_each_index_has_its_rows_only(self) -> None:
            sql = {
                "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s",
                "sqlite": "SELECT name, sql FROM sqlite_master "
                "WHERE tbl_name = %s AND type = 'index' AND sql IS NOT NULL",
            }[connection.vendor]
            with connection.cursor() as cursor:
                cursor.execute(sql, [TABLE])
                definitions = dict(cursor.fetchall())
            for name, word in {
                "durable_job_ready": "'READY'",
                "durable_job_scheduled": "'SCHEDULED'",
                "durable_job_running": "'RUNNING'",
                "durable_job_ended": "'CANCELLED'",
                "durable_job_failed": "'FAILED'",
                "durable_job_delete_after": "IS NOT NULL",
            }.items():
                with self.subTest(name):
                    self.assertIn(word, definitions[name].partition("WHERE")[2])
            self.assertIn("priority DESC", definitions["durable_job_ready"].replace('"', ""))


class IndexChangeTests(TransactionTestCase):
    available_apps = WorkerTestCase.available_apps

    def test_each_index_can_be_removed_and_added_again(self) -> None:
        before = indexes()
        for index in Job._meta.indexes:
            with self.subTest(index.name):
                with connection.schema_editor() as editor:
                    editor.remove_index(Job, index)
                self.assertNotIn(index.name, indexes())
                with connection.schema_editor() as editor:
                    editor.add_index(Job, index)
                self.assertEqual(indexes(), before)


class FallbackTests(TransactionTestCase):
    """What is sent to a database without partial indexes; here it is only collected."""

    available_apps = WorkerTestCase.available_apps

    def sql(self, index: PartialIndex) -> list[str]:
        features = connection.features
        with (
            mock.patch.object(features, "supports_partial_indexes", False),
            connection.schema_editor(collect_sql=True) as editor,
        ):
            return [str(index.create_sql(Job, editor)), str(index.remove_sql(Job, editor))]

    def test_the_fallbacks_columns_are_indexed(self) -> None:
        index = PartialIndex(
            name="i", fields=["run_at"], where=Q(priority=1), fallback=["status", "-run_at"]
        )
        create, remove = self.sql(index)
        self.assertRegex(create, r"CREATE INDEX .i. ON .durable_tasks_job. \(.status., .run_at. D")
        self.assertNotIn("WHERE", create)
        self.assertIn("DROP INDEX", remove)

    def test_without_a_fallback_nothing_is_done(self) -> None:
        index = PartialIndex(name="i", fields=["run_at"], where=Q(priority=1), fallback=[])
        self.assertEqual(self.sql(index), ["DO 0", "DO 0"])

    def test_an_index_is_the_same_after_a_migration_wrote_it(self) -> None:
        for index in Job._meta.indexes:
            with self.subTest(index.name):
                path, args, kwargs = index.deconstruct()
                self.assertEqual(path, "durable_tasks.models.PartialIndex")
                self.assertEqual(PartialIndex(*args, **kwargs), index)
                self.assertEqual(index.clone(), index)


class QuerySetTests(TestCase):
    def test_each_word_means_its_statuses(self) -> None:
        make_jobs(len(JobStatus), status=lambda n: JobStatus.values[n])
        jobs = Job.objects
        words = {
            jobs.ready: {"READY"},
            jobs.scheduled: {"SCHEDULED"},
            jobs.running: {"RUNNING"},
            jobs.successful: {"SUCCESSFUL"},
            jobs.failed: {"FAILED"},
            jobs.finished: {"SUCCESSFUL", "FAILED", "CANCELLED"},
        }
        for word, statuses in words.items():
            with self.subTest(word.__name__):
                self.assertEqual(set(word().values_list("status", flat=True)), statuses)
        self.assertEqual(set(ENDED), words[jobs.finished])

    def test_words_can_be_joined(self) -> None:
        make_jobs(2, queue_name=lambda n: "ab"[n])
        self.assertEqual(Job.objects.filter(queue_name="a").ready().count(), 1)
        self.assertEqual(str(Job.objects.first()).split()[0], "tests.app.store_tasks.again")
