"""``adopt_tasks``: what becomes of each row, what is refused, and running it again."""

import threading
from datetime import timedelta
from io import StringIO
from unittest import mock

from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, ProgrammingError, connection, connections, transaction
from django.test import override_settings
from django.utils import timezone

from durable_tasks.admin import job_page
from durable_tasks.adoption import adopt as moving
from durable_tasks.adoption import tables
from durable_tasks.adoption.adopt import Adopted
from durable_tasks.models import Job
from durable_tasks.periodic import Periodic
from durable_tasks.store import store_for

from ..app import tasks
from ..helpers import effects, from_django, run_command, tasks_setting, work
from .old import (
    HOUR,
    DBTaskResult,
    OldTestCase,
    ScheduledTask,
    TaskRunner,
    drop_tables,
    ended,
    path_of,
    result,
    scheduled,
    tables_in,
)

WORKER_LOST = "durable_tasks.exceptions.WorkerLost"


class Conflict(OperationalError):
    """What ``is_busy()`` is told to take for an ordinary conflict."""


def adopt(*arguments):
    """Run the command in this process and return what it printed."""
    out = StringIO()
    call_command("adopt_tasks", *arguments, stdout=out, stderr=out)
    return out.getvalue()


class AdoptTestCase(OldTestCase):
    def refused(self, *arguments):
        """Return the error, and what was printed, of a command that fails."""
        out = StringIO()
        with self.assertRaises(CommandError) as caught:
            call_command("adopt_tasks", *arguments, stdout=out, stderr=out)
        self.printed = out.getvalue()
        return str(caught.exception)

    def count(self, output, text):
        """Return the number that a summary has before ``text``."""
        [line] = [line for line in output.splitlines() if line.endswith(f"  {text}")]
        return int(line.split()[0])


class WaitingTests(AdoptTestCase):
    def test_what_waits_runs_once(self):
        result("one")
        scheduled("two")
        adopt()
        work(None)
        self.assertCountEqual(effects(), ["one", "two"])

    def test_a_waiting_row_keeps_what_it_was_enqueued_with(self):
        due = timezone.now() + HOUR
        rows = [
            result(
                priority=7,
                queue_name="mail",
                args_kwargs={"args": ["é"], "kwargs": {"seconds": 0.5}},
                run_after=due,
            ),
            scheduled("é", kwargs={"seconds": 0.5}, priority=7, queue="mail", run_after=due),
        ]
        adopt()
        for row in rows:
            job = Job.objects.get(id=row.id)
            self.assertEqual(
                (job.status, job.priority, job.queue_name, job.backend_name, job.task_path),
                ("SCHEDULED", 7, "mail", "default", path_of(tasks.mark)),
            )
            self.assertEqual((job.args, job.kwargs), (["é"], {"seconds": 0.5}))
            self.assertEqual((job.run_after, job.run_at), (due, due))
            self.assertEqual(job.enqueued_at, row.enqueued_at)
            self.assertEqual((job.attempts, job.lost, job.schedule, job.errors), (0, 0, None, None))

    def test_without_a_due_time_and_past_it_they_are_ready_in_their_order(self):
        now = timezone.now()
        third = scheduled(enqueued_at=now - HOUR)
        first = result(run_after=now - 3 * HOUR, enqueued_at=now - 4 * HOUR)
        second = result(enqueued_at=now - 2 * HOUR)
        adopt()
        ready = Job.objects.ready().order_by("run_at")
        self.assertEqual([job.id for job in ready], [first.id, second.id, third.id])
        self.assertIsNone(Job.objects.get(id=second.id).run_after)

    def test_what_a_clock_ahead_of_ours_has_enqueued_is_due_now(self):
        row = result(enqueued_at=timezone.now() + HOUR)
        adopt()
        job = Job.objects.get(id=row.id)
        self.assertEqual((job.status, job.enqueued_at), ("READY", row.enqueued_at))

    def test_the_next_runs_of_periodic_tasks_are_left_to_ours(self):
        scheduled(periodic=True, run_after=timezone.now() + HOUR)
        output = adopt()
        self.assertEqual(Job.objects.count(), 0)
        self.assertEqual(
            self.count(
                output, "not moved: next runs of periodic tasks (the workers make their own)"
            ),
            1,
        )


class FinishedTests(AdoptTestCase):
    def test_a_result_reads_as_before(self):
        for make in (result, scheduled):
            row = make(**ended(return_value={"a": [1, None]}, worker_ids=["v", "w"]))
            adopt()
            found = tasks.mark.get_result(str(row.id))
            self.assertEqual((found.status, found.return_value), ("SUCCESSFUL", {"a": [1, None]}))
            self.assertEqual(
                (found.enqueued_at, found.started_at, found.finished_at),
                (row.enqueued_at, row.started_at, row.finished_at),
            )
            self.assertEqual((found.worker_ids, found.attempts), (["v", "w"], 2))
            self.assertEqual((found.lost_runs, found.errors), (1, []))

    def test_a_failure_reads_as_before(self):
        path = "builtins.ValueError"
        for row in (
            result(**ended("FAILED", exception_class_path=path)),
            scheduled(**ended("FAILED", exception_path=path)),
        ):
            adopt()
            found = tasks.mark.get_result(str(row.id))
            [error] = found.errors
            self.assertIs(error.exception_class, ValueError)
            self.assertEqual(error.traceback, "Traceback ...\nValueError: no\n")
            self.assertEqual((found.status, found.worker_ids), ("FAILED", ["w"]))
            self.assertEqual(Job.objects.get(id=row.id).exception_class_path, path)

    def test_a_failure_after_another_worker_was_lost_has_one_error(self):
        path = "builtins.ValueError"
        row = scheduled(**ended("FAILED", exception_path=path, worker_ids=["v", "w"]))
        adopt()
        found = tasks.mark.get_result(str(row.id))
        self.assertEqual([error.exception_class for error in found.errors], [ValueError])
        self.assertEqual(found.worker_ids, ["v", "w"])
        shown = job_page._failures(Job.objects.get(id=row.id), (), timezone.now())
        self.assertEqual([each.exception_class_path for each in shown], [path])
        found.retry()
        self.assertEqual(len(tasks.mark.get_result(str(row.id)).errors), 1)

    def test_a_failure_without_an_exception_keeps_its_workers(self):
        row = result(**ended("FAILED", worker_ids=["v", "w"]))
        adopt()
        found = tasks.mark.get_result(str(row.id))
        self.assertEqual((found.errors, found.worker_ids), ([], ["v", "w"]))
        self.assertIsNone(found.job.exception_class_path)

    def test_null_and_no_value_are_none(self):
        row = result(**ended())
        adopt()
        self.assertIsNone(tasks.mark.get_result(str(row.id)).return_value)

    def test_no_finished(self):
        result(**ended())
        waiting = scheduled()
        adopt("--no-finished")
        self.assertEqual([job.id for job in Job.objects.all()], [waiting.id])

    def test_a_run_of_a_periodic_task_is_history_of_it(self):
        row = scheduled(**ended(periodic=True))
        adopt()
        self.assertEqual(Job.objects.get(id=row.id).schedule, path_of(tasks.mark))

    def test_it_is_history_of_the_only_one_in_the_settings_that_has_its_task(self):
        path = path_of(tasks.mark)
        hourly = Periodic("1h", args=["key"], task=path)
        for names, schedule in ((["nightly"], "nightly"), (["nightly", "weekly"], path)):
            row = scheduled(**ended(periodic=True))
            with override_settings(TASKS=tasks_setting(periodic=dict.fromkeys(names, hourly))):
                adopt()
            self.assertEqual(Job.objects.get(id=row.id).schedule, schedule)

    def test_the_time_of_deletion_is_kept_or_made(self):
        later = timezone.now() + timedelta(days=3)
        kept = scheduled(**ended(delete_after=later))
        made = scheduled(**ended())
        failed = scheduled(**ended("FAILED"))
        with override_settings(TASKS=tasks_setting(retain="2h", retain_failed=None)):
            adopt()
        due = dict(Job.objects.values_list("id", "delete_after"))
        self.assertEqual(due[kept.id], later)
        self.assertEqual(due[made.id], made.finished_at + timedelta(hours=2))
        self.assertIsNone(due[failed.id])

    def test_what_would_be_deleted_at_once_is_counted_and_not_moved(self):
        scheduled(**ended(delete_after=timezone.now() - timedelta(seconds=1)))
        result(**ended())
        with override_settings(TASKS=tasks_setting(retain="10m")):
            output = adopt()
        self.assertEqual(Job.objects.count(), 0)
        self.assertEqual(output.count("1  not moved: ended, and to be deleted by now"), 2)

    def test_what_no_database_can_store_is_written_out(self):
        if connection.vendor == "postgresql":
            self.skipTest("PostgreSQL stores no NUL in the first place.")
        row = result(**ended("FAILED", exception_class_path="a.B", traceback="a\0b"))
        adopt()
        self.assertEqual(tasks.mark.get_result(str(row.id)).errors[0].traceback, "a\\x00b")

    def test_a_long_traceback_loses_its_middle(self):
        row = result(**ended("FAILED", exception_class_path="a.B", traceback="x" * 200_000))
        adopt()
        [error] = tasks.mark.get_result(str(row.id)).errors
        self.assertIn("characters left out", error.traceback)
        self.assertLess(len(error.traceback), 70_000)

    def test_of_many_runs_the_first_and_the_last_are_kept(self):
        row = result(**ended(worker_ids=[f"w{n}" for n in range(30)]))
        adopt()
        job = Job.objects.get(id=row.id)
        self.assertEqual((job.attempts, job.lost, len(job.errors)), (30, 29, 10))
        self.assertEqual(job.worker_id, "w29")


class RunningTests(AdoptTestCase):
    def run_of(self, task=tasks.mark, **values):
        started = timezone.now() - HOUR
        return result(
            task_path=path_of(task),
            status="RUNNING",
            started_at=started,
            worker_ids=["w"],
            **values,
        )

    def test_they_run_again_or_fail_as_their_task_says(self):
        again = self.run_of(tasks.mark)
        once = self.run_of(tasks.once_mark)
        gone = self.run_of(args_kwargs={"args": [], "kwargs": {}})
        DBTaskResult.objects.filter(id=gone.id).update(task_path="tests.app.tasks.gone")
        adopt()
        for row, status in ((again, "READY"), (once, "FAILED"), (gone, "READY")):
            job = Job.objects.get(id=row.id)
            self.assertEqual((job.status, job.attempts, job.lost), (status, 1, 1))
            self.assertEqual(job.exception_class_path, WORKER_LOST)
            [entry] = job.errors
            self.assertEqual((entry["worker_id"], entry["attempt"]), ("w", 1))
            self.assertEqual(job.started_at, row.started_at)
            self.assertEqual(job.finished_at is not None, status == "FAILED")
            self.assertIsNone(job.worker_id)
        work(None)
        self.assertEqual(effects(), ["key"])

    def test_one_that_was_lost_too_often_fails(self):
        row = self.run_of()
        DBTaskResult.objects.filter(id=row.id).update(worker_ids=["u", "v", "w"])
        adopt()
        job = Job.objects.get(id=row.id)
        self.assertEqual((job.status, job.attempts, job.lost), ("FAILED", 3, 3))
        found = tasks.mark.get_result(str(row.id))
        self.assertEqual(found.worker_ids, ["u", "v", "w"])
        self.assertIn("Lost 3 times", found.errors[-1].traceback)

    def test_one_word_for_all(self):
        rows = [self.run_of(tasks.mark), self.run_of(tasks.once_mark)]
        for word, status in (("retry", "READY"), ("fail", "FAILED")):
            adopt("--running", word)
            self.assertEqual({job.status for job in Job.objects.all()}, {status})
            self.assertEqual(Adopted.objects.count(), len(rows))
            Job.objects.all().delete()
            Adopted.objects.all().delete()

    def test_the_owner_counts_as_a_worker(self):
        TaskRunner.objects.create(id="o", last_seen=timezone.now() - HOUR)
        row = scheduled(status="RUNNING", worker_id="o", worker_ids=[])
        nobodys = scheduled(status="RUNNING")
        adopt()
        self.assertEqual(Job.objects.get(id=row.id).errors[0]["worker_id"], "o")
        self.assertEqual(Job.objects.get(id=nobodys.id).lost, 1)

    def test_what_was_lost_before_counts_for_what_waits(self):
        row = scheduled(worker_ids=["v"])
        adopt()
        job = Job.objects.get(id=row.id)
        self.assertEqual((job.status, job.attempts, job.lost), ("READY", 1, 1))


class BadRowTests(AdoptTestCase):
    def test_each_is_named_and_the_others_are_moved(self):
        good = [result("a"), scheduled("b"), result(**ended())]
        shape = "args_kwargs is list, not dict"
        bad = {
            result(args_kwargs=[]).id: shape,
            result(args_kwargs={"args": []}).id: "has not a list as args and a dict as kwargs",
            result(
                args_kwargs={"args": {}, "kwargs": {}}
            ).id: "has not a list as args and a dict as kwargs",
            scheduled(kwargs=[1]).id: "kwargs is list, not dict",
            scheduled(priority=101).id: "its priority is 101, not -100 to 100",
            scheduled(task_path="x" * 256).id: "task_path has 256 characters, not 1 to 255",
            scheduled(queue="").id: "queue_name has 0 characters, not 1 to 100",
            scheduled(status="NEW").id: "its status is 'NEW'",
            scheduled(status="CANCELLED").id: "its status is 'CANCELLED'",
            result(worker_ids=[3]).id: "worker_ids has 3",
            result(worker_ids=["w" * 201]).id: "worker_ids has 'www",
        }
        if connection.vendor != "postgresql":
            bad[result("a\0b").id] = "contains a NUL character"
        message = self.refused()
        self.assertEqual(message, f"{len(bad)} rows can't be moved, see above.")
        for id, why in bad.items():
            lines = [
                line for line in self.printed.splitlines() if str(id) in line or id.hex in line
            ]
            self.assertEqual(len(lines), 1, (why, self.printed))
            self.assertIn(why, lines[0])
            self.assertTrue(lines[0].startswith(("django_tasks_database_", "dbtasks_")), lines)
        self.assertCountEqual(
            Job.objects.values_list("id", flat=True), [row.id for row in good], self.printed
        )
        self.assertNotIn("you can drop", self.printed)

    def test_what_the_database_refuses_is_found_among_the_others(self):
        rows = [result(f"{n}") for n in range(5)]
        bad = rows[2]
        genuine = moving.job_of

        def job_of(row, **values):
            outcome, job = genuine(row, **values)
            if row["id"] == bad.id:
                job.priority = 101
            return outcome, job

        with mock.patch.object(moving, "job_of", job_of):
            self.assertIn("1 rows can't be moved", self.refused())
        self.assertEqual(Job.objects.count(), 4)
        self.assertIn(bad.id.hex, self.printed.replace("-", ""))

    def test_a_row_of_which_the_id_is_none(self):
        if connection.vendor != "sqlite":
            self.skipTest("Only SQLite stores what is no UUID in such a column.")
        row = result()
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_tasks_database_dbtaskresult SET id = 'no id'")
        self.assertIn("1 rows", self.refused())
        self.assertIn("django_tasks_database_dbtaskresult no id:", self.printed)
        self.assertFalse(Job.objects.filter(id=row.id).exists())


class RefusalTests(AdoptTestCase):
    def assert_nothing_moved(self):
        self.assertEqual(Job.objects.count(), 0)
        self.assertNotIn(Adopted._meta.db_table, connection.introspection.table_names())

    def test_a_backend_that_is_not_there(self):
        scheduled(backend="old")
        scheduled(backend="old", **ended())
        result()
        message = self.refused()
        self.assertIn("2 rows are of the backend 'old', and TASKS['old'] does not exist", message)
        self.assertIn("--backend old=ALIAS", message)
        self.assert_nothing_moved()
        message = self.refused("--backend", "odl=default", "--backend", "old=default")
        self.assertIn("--backend odl=default: no row is of the backend 'odl'", message)
        self.assert_nothing_moved()
        adopt("--backend", "old=default")
        self.assertEqual(set(Job.objects.values_list("backend_name", flat=True)), {"default"})
        self.assertEqual(Job.objects.count(), 3)

    def test_a_backend_of_another_kind(self):
        scheduled(backend="now")
        backends = {**tasks_setting(), "now": {"BACKEND": from_django("dummy.DummyBackend")}}
        with override_settings(TASKS=backends):
            self.assertIn("TASKS['now'] is a DummyBackend", self.refused())
            self.assertIn("DummyBackend", self.refused("--backend", "x=now"))
        self.assert_nothing_moved()

    def test_a_backend_without_workers(self):
        with override_settings(TASKS=tasks_setting(immediate=True)):
            scheduled(**ended())
            adopt()
            scheduled()
            self.assertIn('["immediate"] is on', self.refused())
        self.assertEqual(Job.objects.count(), 1)

    def test_values(self):
        for arguments, text in (
            (["--backend", "x"], "must be OLD=NEW"),
            (["--backend", "x=nope"], "There is no task backend 'nope' in TASKS"),
            (["--batch-size", "0"], "must be a whole number from 1 to 10000, not '0'"),
            (["--database", "nope"], "--database: 'nope' is not in DATABASES"),
            (["--running", "maybe"], "invalid choice: 'maybe'"),
        ):
            with self.subTest(arguments):
                self.assertIn(text, self.refused(*arguments))
        self.assert_nothing_moved()

    def test_our_tables_are_not_there(self):
        names = set(connection.introspection.table_names()) - {Job._meta.db_table}
        with mock.patch.object(connection.introspection, "table_names", return_value=names):
            self.assertIn("Run manage.py migrate --database default", self.refused())

    def test_a_table_of_an_unknown_kind(self):
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE dbtasks_scheduledtask RENAME COLUMN task_path TO path")
        self.assertIn("dbtasks_scheduledtask has no column task_path", self.refused())
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE dbtasks_scheduledtask RENAME COLUMN path TO task_path")

    def test_a_taskrunner_that_lives(self):
        scheduled()
        TaskRunner.objects.create(id="runner")

        def beat(seconds):
            TaskRunner.objects.update(last_seen=timezone.now())

        with mock.patch.object(tables.time, "sleep", beat):
            message = self.refused()
        self.assertIn("alive: 'runner'", message)
        self.assertIn("waiting to see", self.printed)
        self.assert_nothing_moved()

    def test_a_taskrunner_that_starts(self):
        TaskRunner.objects.create(id="first")

        def start(seconds):
            TaskRunner.objects.create(id="second")

        with mock.patch.object(tables.time, "sleep", start):
            self.assertIn("alive: 'second'", self.refused())

    def test_a_taskrunner_that_was_stopped(self):
        scheduled()
        TaskRunner.objects.create(id="runner", last_seen=timezone.now() - timedelta(seconds=29))
        adopt()
        TaskRunner.objects.update(last_seen=timezone.now() + HOUR)  # its host's clock was ahead
        clock = mock.Mock(monotonic=mock.Mock(side_effect=[0, 20, 31]))
        with mock.patch.object(tables, "time", clock):
            adopt()
        self.assertEqual(Job.objects.count(), 1)

    def test_a_worker_that_takes_tasks_meanwhile_is_told(self):
        row = scheduled()
        for change in (
            {"started_at": timezone.now() + HOUR},
            {"started_at": timezone.now() - HOUR, "finished_at": timezone.now() + HOUR},
        ):
            ScheduledTask.objects.filter(id=row.id).update(**change)
            message = self.refused()
            self.assertIn("started or ended 1 tasks meanwhile: they may run twice", message)
            self.assertNotIn("you can drop", self.printed)

    def test_a_worker_that_has_run_what_was_taken_is_told(self):
        waited, ran = result(), scheduled(status="RUNNING", worker_ids=["w"])
        adopt()
        adopt()  # nothing has happened since
        DBTaskResult.objects.filter(id=waited.id).update(status="RUNNING")
        ScheduledTask.objects.filter(id=ran.id).update(**ended())
        self.assertIn("An old worker has run 2 tasks since they were taken", self.refused())
        for row, status in ((waited, "RUNNING"), (ran, "SUCCESSFUL")):
            [line] = [
                line for line in self.printed.splitlines() if line.endswith(f", {status} there")
            ]
            self.assertIn(row.id.hex, line.replace("-", ""))
        self.assertNotIn("you can drop", self.printed)


class AgainTests(AdoptTestCase):
    def test_twice_changes_nothing(self):
        result("a")
        scheduled("b")
        result(**ended())
        adopt()
        before = list(Job.objects.order_by("id").values())
        output = adopt()
        self.assertEqual(list(Job.objects.order_by("id").values()), before)
        self.assertIn("0 tasks adopted", output)
        work(None)
        adopt()
        work(None)
        self.assertCountEqual(effects(), ["a", "b"])

    def test_what_ran_and_was_pruned_does_not_come_back(self):
        result("a")
        scheduled("b", status="RUNNING", worker_ids=["w"])
        adopt()
        work(None)
        Job.objects.all().delete()
        self.assertIn("0 tasks adopted", adopt())
        self.assertEqual(Job.objects.count(), 0)
        self.assertCountEqual(effects(), ["a", "b"])

    def test_history_that_was_deleted_does_not_come_back(self):
        result(**ended())
        scheduled(**ended("FAILED"))
        adopt()
        Job.objects.all().delete()
        self.assertIn("0 tasks adopted", adopt())
        self.assertEqual(Job.objects.count(), 0)

    def test_what_was_enqueued_since_is_taken(self):
        result("a")
        adopt()
        late = result("b")
        self.assertIn("1 tasks adopted", adopt())
        self.assertTrue(Job.objects.filter(id=late.id, status="READY").exists())

    def test_history_that_was_left_can_follow(self):
        result("a")
        history = scheduled(**ended())
        self.assertNotIn("you can drop", adopt("--no-finished"))
        self.assertIn("you can drop", adopt())
        self.assertTrue(Job.objects.filter(id=history.id).exists())

    def test_two_at_once(self):
        rows = [result(f"{n}") for n in range(200)] + [scheduled(**ended()) for _ in range(100)]
        failures = []

        def run():
            try:
                adopt("--batch-size", "7")
            except BaseException as error:
                failures.append(error)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertCountEqual(Job.objects.values_list("id", flat=True), [row.id for row in rows])
        self.assertEqual(Adopted.objects.count(), len(rows))

    def test_a_conflict_with_others_is_tried_again(self):
        result()
        genuine, tried = moving.Adoption._in_transaction, []

        def in_transaction(adoption, table, ids):
            tried.append(ids)
            report = genuine(adoption, table, ids)
            if len(tried) < 3:
                raise Conflict
            return report

        store = type(store_for(connection))
        with (
            mock.patch.object(moving.Adoption, "_in_transaction", in_transaction),
            mock.patch.object(store, "is_busy", lambda store, error: isinstance(error, Conflict)),
        ):
            output = adopt()
        self.assertIn("0 tasks adopted", output)  # the first try was committed after all
        self.assertEqual(output.count("others have locked rows: waiting"), 1)
        self.assertEqual((len(tried), Job.objects.count()), (3, 1))

    def test_after_a_fault_the_next_run_goes_on(self):
        for number in range(4):
            result(f"{number}")
        genuine, tried = moving.Adoption._in_transaction, []

        def in_transaction(adoption, table, ids):
            tried.append(ids)
            if len(tried) == 3:
                raise OperationalError("server has gone away")
            return genuine(adoption, table, ids)

        with mock.patch.object(moving.Adoption, "_in_transaction", in_transaction):
            message = self.refused("--batch-size", "1")
        self.assertIn("server has gone away\nWhat was moved stays; run this again", message)
        self.assertEqual(Job.objects.count(), 2)
        self.assertIn("2 tasks adopted", adopt())

    def test_a_dry_run_changes_nothing(self):
        result("a")
        result(**ended())
        TaskRunner.objects.create(id="runner")  # may live
        scheduled(priority=500)
        self.assertIn("1 rows can't be moved", self.refused("--dry-run"))
        self.assertIn("2 tasks would be adopted", self.printed)
        self.assertEqual(self.count(self.printed, "waiting, due now"), 1)
        self.assertEqual(Job.objects.count(), 0)
        self.assertNotIn(Adopted._meta.db_table, connection.introspection.table_names())


class OutputTests(AdoptTestCase):
    def test_a_bar_on_a_terminal(self):
        for number in range(4):
            result(f"{number}")
        terminal = StringIO()
        terminal.isatty = lambda: True
        call_command("adopt_tasks", batch_size=1, stdout=terminal)
        shown = terminal.getvalue()
        self.assertIn("\r[" + "#" * 15 + "." * 15 + "] 2 of 4 rows", shown)
        self.assertIn("\r[" + "#" * 30 + "] 4 of 4 rows\n", shown)

    def test_silence(self):
        result()
        self.assertEqual(adopt("--verbosity", "0"), "")
        self.assertEqual(Job.objects.count(), 1)

    def test_interrupted(self):
        result()
        terminal = StringIO()
        terminal.isatty = lambda: True

        def move(adoption, table):
            yield moving.Report()
            raise KeyboardInterrupt

        with (
            mock.patch.object(moving.Adoption, "move", move),
            self.assertRaisesRegex(CommandError, "run this again"),
        ):
            call_command("adopt_tasks", stdout=terminal)
        self.assertTrue(terminal.getvalue().endswith(" rows\n"))


class PlaceTests(AdoptTestCase):
    databases = {"default", "other"}

    def test_without_any_table_there_is_nothing_to_do(self):
        drop_tables()
        output = adopt()
        self.assertIn("there is nothing to adopt", output)
        self.assertNotIn(Adopted._meta.db_table, connection.introspection.table_names())

    def test_from_another_database(self):
        drop_tables()
        with tables_in("other"):
            row = DBTaskResult.objects.using("other").create(
                args_kwargs={"args": ["far"], "kwargs": {}}
            )
            self.assertIn("'other' has: --database other", self.refused())
            adopt("--database", "other")
            adopt("--database", "other")
        self.assertEqual([job.id for job in Job.objects.all()], [row.id])

    def test_to_another_database(self):
        row = result()
        self.addCleanup(drop_tables, "other")
        with override_settings(DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"]):
            adopt("--database", "default")
            self.assertEqual([job.id for job in Job.objects.using("other").all()], [row.id])
        self.assertNotIn(Adopted._meta.db_table, connection.introspection.table_names())
        Job.objects.using("other").all().delete()

    def test_ids_as_text(self):
        """As MySQL has them, and MariaDB if its table was made by an older Django."""
        if connection.vendor != "mysql":
            self.skipTest("Only MySQL and MariaDB have ids as text.")
        ids = [result(f"{n}").id for n in range(5)]
        with connection.cursor() as cursor:
            for width, text in ((36, "id"), (32, "REPLACE(id, '-', '')")):
                cursor.execute(
                    "ALTER TABLE django_tasks_database_dbtaskresult MODIFY id VARCHAR(36)"
                )
                cursor.execute(f"UPDATE django_tasks_database_dbtaskresult SET id = {text}")
                cursor.execute(
                    f"ALTER TABLE django_tasks_database_dbtaskresult MODIFY id CHAR({width})"
                )
                adopt("--batch-size", "2")
                self.assertCountEqual(Job.objects.values_list("id", flat=True), ids)
                Job.objects.all().delete()
                Adopted.objects.all().delete()


class RoleTests(AdoptTestCase):
    def test_a_database_without_autocommit(self):
        row = result()
        done = run_command(
            "adopt_tasks", env={"DURABLE_TASKS_TEST_DATABASE": '{"AUTOCOMMIT": false}'}
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(Job.objects.filter(id=row.id).exists())

    def test_a_role_that_can_make_no_table(self):
        result()
        editor = connection.SchemaEditorClass
        with mock.patch.object(
            editor, "create_model", side_effect=ProgrammingError("permission denied")
        ):
            message = self.refused()
        self.assertIn("durable_tasks_adopted can't be made: permission denied\nRun ad", message)
        self.assertEqual(Job.objects.count(), 0)

    def test_in_a_transaction(self):
        if connection.vendor != "sqlite":
            self.skipTest("Others can make the table in a transaction.")
        result()
        with transaction.atomic():
            self.assertIn("migrate, and not in a transaction", self.refused())

    def test_a_view_of_the_old_name(self):
        row = result()
        name = DBTaskResult._meta.db_table
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {name} RENAME TO old_results")
            cursor.execute(f"CREATE VIEW {name} AS SELECT DISTINCT * FROM old_results")
        try:
            adopt()
        finally:
            with connection.cursor() as cursor:
                cursor.execute(f"DROP VIEW {name}")
                cursor.execute(f"ALTER TABLE old_results RENAME TO {name}")
        self.assertEqual([job.id for job in Job.objects.all()], [row.id])


class OlderTests(AdoptTestCase):
    """0.4 of django-dbtasks has no table of workers, and others may lack more."""

    def test_without_what_came_later(self):
        row = scheduled("a")
        with connection.schema_editor() as editor:
            editor.remove_field(ScheduledTask, ScheduledTask._meta.get_field("worker"))
            editor.remove_field(ScheduledTask, ScheduledTask._meta.get_field("delete_after"))
            editor.delete_model(TaskRunner)
        output = adopt()
        self.assertTrue(Job.objects.filter(id=row.id).exists())
        self.assertIn("can't be seen in its tables", output)
        self.assertIn("dbtasks_scheduledtask, durable_tasks_adopted.", output)
