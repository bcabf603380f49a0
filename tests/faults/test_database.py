"""Connections that are cut, answers that are lost, and endings that can't be saved."""

import tempfile
from contextlib import suppress
from pathlib import Path
from unittest import skipIf

from django.db import OperationalError, connection
from django.db.models import F
from django.test import override_settings
from django.utils import timezone

from durable_tasks.compat import task_backends
from durable_tasks.models import Job

from ..app import tasks
from ..helpers import (
    WorkerTestCase,
    ended,
    eventually,
    held,
    running_worker,
    statuses,
    tasks_setting,
    work,
)


def cut_connections():
    """End every connection to the test's database but our own; return how many."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return len(cursor.fetchall())
        cursor.execute(
            "SELECT id FROM information_schema.processlist "
            "WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        )
        ids = [row[0] for row in cursor.fetchall()]
        for id in ids:
            with suppress(OperationalError):  # it ended by itself
                cursor.execute(f"KILL CONNECTION {id}")
        return len(ids)


@skipIf(connection.vendor == "sqlite", "SQLite has no connections to cut")
class CutTests(WorkerTestCase):
    def test_cut_connections_are_survived_and_nothing_is_lost(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        go = Path(folder.name) / "go"
        running = tasks.hold_without_database.enqueue("x", str(go))
        with running_worker("--interval", "0.05", options={"worker_timeout": 2}) as worker:
            held("x")
            behind = [tasks.effect.enqueue(f"behind {n}") for n in range(30)]
            behind += [tasks.async_effect.enqueue(f"async behind {n}") for n in range(30)]
            # The loop's and the heartbeat's connection; a few times, while it is busy and idle.
            for round in range(3):
                eventually(cut_connections, "there is a connection to cut")
                if round == 1:
                    go.touch()
            job = ended(running)
            self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 1, 0))
            for result in behind:
                ended(result)
            eventually(lambda: cut_connections() >= 2, "the idle worker has its connections back")
            # The coroutines' connection may be among those cut: one of them meets it, not two.
            ended(tasks.async_effect.enqueue("first"))
            after = [tasks.effect.enqueue("after"), tasks.async_effect.enqueue("after")]
            self.assertEqual([ended(result).status for result in after], ["SUCCESSFUL"] * 2)
            worker.says("The database failed (")
            worker.says("The database is back.")
            self.assertEqual(worker.stop(), 0)
        # A job whose own connection was cut may have failed; none was lost or ran twice.
        for job in Job.objects.filter(id__in=[result.id for result in behind]):
            self.assertEqual((job.attempts, job.lost), (1, 0))
            if job.status == "FAILED":
                self.assertIn("Error", job.exception_class_path)


class LostReplyTests(WorkerTestCase):
    def test_a_claim_whose_answer_was_lost_is_given_back_and_runs(self):
        with running_worker(options={"worker_timeout": 2}) as worker:
            later = tasks.add.using(queue_name="elsewhere")
            results = [later.enqueue(n, 1) for n in range(3)]
            now = timezone.now()
            # As the database would have it, had the reply not arrived.
            Job.objects.update(
                queue_name="default",
                status="RUNNING",
                worker_id=worker.row().id,
                lease=F("lease") + 1,
                attempts=F("attempts") + 1,
                started_at=now,
                last_attempted_at=now,
            )
            for number, result in enumerate(results):
                job = ended(result)
                self.assertEqual(
                    (job.status, job.return_value, job.attempts, job.lost, job.errors),
                    ("SUCCESSFUL", number + 1, 1, 0, None),
                )
                self.assertEqual(job.lease, 3)
                self.assertGreater(job.started_at, now)
            worker.says("Gave back 3 jobs whose claim was never answered.")
            self.assertEqual(worker.stop(), 0)

    def test_a_job_that_it_does_run_is_not_given_back(self):
        result = tasks.hold.enqueue("x")
        with running_worker(options={"worker_timeout": 1}) as worker:
            held("x")
            first = worker.row().last_seen
            eventually(lambda: worker.row().last_seen > first + 2_000_000, "it looked repeatedly")
            self.assertEqual((result.job.status, result.job.lease), ("RUNNING", 1))
            self.assertNotIn("Gave back", worker.output())
            tasks.Effect.objects.create(key="go")
            self.assertEqual(ended(result).attempts, 1)


class BadEndingTests(WorkerTestCase):
    def run_among_many(self, *bad):
        good = [tasks.add.enqueue(n, 1) for n in range(150)]
        results = [task.enqueue() for task in bad]
        good += task_backends["default"].enqueue_many([(tasks.add, [n, 1], {}) for n in range(150)])
        work()
        self.assertEqual(set(statuses(good)), {"SUCCESSFUL"})
        self.assertEqual(
            sorted(result.job.return_value for result in good),
            sorted(2 * list(range(1, 151))),
        )
        return [result.job for result in results]

    def test_endings_that_json_or_the_options_refuse_fail_alone_and_say_why(self):
        jobs = self.run_among_many(tasks.not_a_number, tasks.fail_with_bad_text, tasks.huge)
        self.assertEqual([job.status for job in jobs], ["FAILED"] * 3)
        texts = [job.errors[0]["traceback"] for job in jobs]
        self.assertIn("The return value['values'][1] is nan, which JSON can't carry", texts[0])
        self.assertIn("NUL \\x00 and a lone surrogate \\ud800", texts[1])
        self.assertIn("The return value takes 20000002 bytes of JSON", texts[2])
        self.assertIn('OPTIONS["max_result_size"] allows 4194304', texts[2])
        self.assertEqual([job.return_value for job in jobs], [None] * 3)

    @override_settings(TASKS=tasks_setting(max_result_size=100_000_000))
    def test_a_value_that_only_the_database_may_refuse_fails_alone_or_is_kept(self):
        (job,) = self.run_among_many(tasks.huge)
        if job.status == "SUCCESSFUL":
            self.assertEqual(len(job.return_value), 20_000_000)
        else:
            self.assertEqual(
                (connection.vendor, job.status, job.exception_class_path),
                ("mysql", "FAILED", "durable_tasks.exceptions.RefusedByDatabase"),
            )
            self.assertIn("this database takes", job.errors[0]["traceback"])
