"""The commands: what they accept, what they refuse, and what they say."""

import logging
import os
import signal
import subprocess
import uuid
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from functools import partial
from io import StringIO
from unittest import mock

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings
from django.utils import timezone

from durable_tasks.management import queue_names
from durable_tasks.management.commands import db_worker, prune_db_task_results
from durable_tasks.models import Job, PeriodicTask, Worker

from .app import tasks
from .contrib.project import FILES, site
from .helpers import (
    QUICK,
    WorkerTestCase,
    ended,
    eventually,
    from_django,
    run_command,
    run_worker,
    running_worker,
    statuses,
    tasks_setting,
)
from .store.jobs import make_jobs

TWO_KINDS = {
    **tasks_setting(),
    "immediate": {"BACKEND": from_django("immediate.ImmediateBackend")},
}


@pytest.mark.any_database
class BadValueTests(SimpleTestCase):
    """Without any database: a bad value is found before one is asked."""

    def run_from_line(self, command, *arguments):
        """Return the exit code, and what was printed, of a command line that must not start."""
        out, err = StringIO(), StringIO()
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            mock.patch.object(db_worker, "Worker") as worker,
            self.assertRaises(SystemExit) as ending,
        ):
            command.Command().run_from_argv(["manage.py", "name", "--skip-checks", *arguments])
        self.assertFalse(worker.called)
        self.assertEqual(out.getvalue(), "")
        return ending.exception.code, err.getvalue()

    def assert_refused(self, command, message, *arguments):
        with self.subTest(arguments=arguments), override_settings(TASKS=TWO_KINDS):
            code, text = self.run_from_line(command, *arguments)
            self.assertNotIn(code, (0, None))
            self.assertEqual(len(text.splitlines()), 1, text)
            self.assertIn(message, text)

    def test_db_worker_refuses_each_bad_value_in_one_line(self):
        for message, *arguments in (
            ("--interval: must be a number of seconds, 0 or more, not 'nan'", "--interval", "nan"),
            ("--interval: must be a number of seconds", "--interval", "inf"),
            ("--interval: must be a number of seconds", "--interval=-1"),
            ("--interval: must be a number of seconds", "--interval", "soon"),
            ("--threads: must be a whole number above 0, not '0'", "--threads", "0"),
            ("--threads: must be a whole number above 0", "--threads", "1.5"),
            ("--coroutines: must be a whole number above 0", "--coroutines=-3"),
            ("--max-tasks: must be a whole number above 0", "--max-tasks", "0"),
            ("--processes: must be a whole number above 0, not '0'", "--processes", "0"),
            ("--processes: must be a whole number above 0", "--processes", "two"),
            ("--shutdown-timeout: must be a number of seconds above 0", "--shutdown-timeout", "0"),
            ("--shutdown-timeout: must be a number of seconds", "--shutdown-timeout", "inf"),
            ("--shutdown-timeout: must be a number of seconds", "--shutdown-timeout=-1"),
            ("--max-tasks-per-process: must be a whole", "--max-tasks-per-process", "0"),
            ("--max-memory: must be a whole number above 0", "--max-memory", "100M"),
            ("Use --max-tasks or --", "--max-tasks", "1", "--max-tasks-per-process", "2"),
            ("--max-tasks is for one process", "--max-tasks", "1", "--processes", "2"),
            (
                "--worker-id: wwwwwwwwwwwwwwwwwwww...-10 would have 202 characters, more than 200",
                *("--processes", "10", "--worker-id", "w" * 199),
            ),
            ("--worker-id: must have 1 to 200 characters, not 0", "--worker-id", ""),
            ("--worker-id: must have 1 to 200 characters, not 201", "--worker-id", "w" * 201),
            ("--worker-id: ", "--worker-id", "w\udcff"),
            ("--queue-name must name at least one queue", "--queue-name", ""),
            ("--queue-name must name at least one queue", "--queue-name", " , "),
            ("--queue-name: ", "--queue-name", "q\udcff"),
            ("--exclude-queues works only with --queue-name '*'", "--exclude-queues", "a"),
            ("--exclude-queues: ", "--queue-name", "*", "--exclude-queues", "*"),
            ("There is no task backend 'nope' in TASKS. Known: default", "--backend", "nope"),
            ("is a ImmediateBackend, not a durable_tasks backend", "--backend", "immediate"),
            ("unrecognized arguments: --no-such-option", "--no-such-option"),
        ):
            self.assert_refused(db_worker, message, *arguments)

    def test_prune_refuses_each_bad_value_in_one_line(self):
        days = "must be a whole number of days, 0 or more"
        for message, *arguments in (
            (f"--min-age-days: {days}, not '-1'", "--min-age-days=-1"),
            (f"--min-age-days: {days}", "--min-age-days", "1.5"),
            (f"--min-age-days: {days}", "--min-age-days", "99999999"),
            (f"--failed-min-age-days: {days}", "--failed-min-age-days", "x"),
            ("--queue-name must name at least one queue", "--queue-name", ""),
            ("There is no task backend 'nope'", "--backend", "nope"),
            ("not a durable_tasks backend", "--backend", "immediate"),
        ):
            self.assert_refused(prune_db_task_results, message, *arguments)

    def test_wrong_options_are_one_line_too(self):
        with override_settings(TASKS=tasks_setting(worker_timeout="soon")):
            code, text = self.run_from_line(db_worker)
        self.assertEqual((code, len(text.splitlines())), (1, 1))
        self.assertIn('TASKS["default"]["OPTIONS"]["worker_timeout"] must be', text)

    def test_an_unknown_backend_is_an_error_for_callers_in_python_too(self):
        for name in ("db_worker", "prune_db_task_results"):
            with self.assertRaisesMessage(CommandError, "There is no task backend 'nope'"):
                call_command(name, backend_name="nope", skip_checks=True)


@pytest.mark.any_database
class ValueTests(SimpleTestCase):
    def test_good_values_are_parsed(self):
        self.assertEqual([db_worker.seconds(text) for text in ("0", "0.5", "3")], [0.0, 0.5, 3.0])
        self.assertEqual(db_worker.above_zero("7"), 7)
        self.assertEqual(db_worker.worker_id("w" * 200), "w" * 200)
        self.assertEqual(prune_db_task_results.days("0"), 0)

    def test_the_defaults_are_those_that_the_help_tells(self):
        parser = db_worker.Command().create_parser("manage.py", "db_worker")
        options = parser.parse_args([])
        self.assertEqual(
            (options.queue_name, options.exclude_queues, options.interval, options.batch),
            ("default", "", 1.0, False),
        )
        self.assertEqual(
            (options.threads, options.coroutines, options.max_tasks, options.worker_id),
            (1, 50, None, None),
        )
        self.assertEqual((options.backend_name, options.startup_delay), ("default", True))
        self.assertIsNone(options.reload)  # as DEBUG says
        self.assertEqual((options.processes, options.shutdown_timeout), (1, None))
        self.assertEqual((options.max_tasks_per_process, options.max_memory), (None, None))

    def test_an_option_without_a_value_means_its_default(self):
        for command, *names in (
            (db_worker, "--queue-name", "--exclude-queues", "--interval", "--backend"),
            (db_worker, "--max-tasks", "--worker-id"),
            (prune_db_task_results, "--queue-name", "--backend", "--min-age-days"),
            (prune_db_task_results, "--failed-min-age-days"),
        ):
            parser = command.Command().create_parser("manage.py", "name")
            with self.subTest(names):
                self.assertEqual(parser.parse_args(names), parser.parse_args([]))

    def test_a_star_among_queues_means_all(self):
        for text in ("*", "mail,*"):
            self.assertIsNone(queue_names(text, "--queue-name"))


@pytest.mark.any_database
class LoggingTests(SimpleTestCase):
    def test_verbosity_also_counts_if_the_project_has_handlers(self):
        loggers = [db_worker.logger, db_worker.tasks_logger]
        handler = logging.NullHandler()
        db_worker.logger.addHandler(handler)
        self.addCleanup(db_worker.logger.removeHandler, handler)
        for each in loggers:
            self.addCleanup(each.setLevel, each.level)
        for before, verbosity, after in (
            ("INFO", 0, ("WARNING", "WARNING")),
            ("ERROR", 0, ("ERROR", "ERROR")),
            ("ERROR", 1, ("ERROR", "ERROR")),
            ("INFO", 2, ("DEBUG", "INFO")),
        ):
            with self.subTest(before=before, verbosity=verbosity):
                for each in loggers:
                    each.setLevel(before)
                db_worker.set_up_logging(verbosity)
                levels = tuple(logging.getLevelName(each.level) for each in loggers)
                self.assertEqual(levels, after)
                self.assertEqual(db_worker.logger.handlers.count(handler), 1)


class InTransactionTests(TestCase):
    def test_a_worker_says_what_to_use_in_a_test_case(self):
        for name in ("db_worker", "taskrunner"):
            with self.assertRaisesMessage(CommandError, "In a TestCase, say batch=True, or use"):
                call_command(name, skip_checks=True)

    def test_a_batch_runs_there_in_the_order_and_of_the_queues_of_a_worker(self):
        first = tasks.add.using(priority=5).enqueue(1, 2)
        second = tasks.async_add.enqueue(1, 2)
        due = tasks.add.using(run_after=timezone.now() + timedelta(minutes=1)).enqueue(1, 2)
        Job.objects.filter(id=due.id).update(run_at=timezone.now())
        later = tasks.add.using(run_after=timezone.now() + timedelta(days=1)).enqueue(1, 2)
        failing = tasks.fail.using(queue_name="mail").enqueue("no luck")
        other = tasks.add.using(queue_name="other").enqueue(1, 2)
        call_command("db_worker", batch=True, worker_id="in-test", max_tasks=1)
        self.assertEqual(statuses([first, second]), ["SUCCESSFUL", "READY"])
        call_command("db_worker", "--batch", "--queue-name=*", "--exclude-queues=other")
        self.assertEqual(statuses([second, due]), 2 * ["SUCCESSFUL"])
        self.assertEqual(statuses([later, failing, other]), ["SCHEDULED", "FAILED", "READY"])
        first.refresh()
        self.assertEqual(first.worker_ids, ["in-test"])
        self.assertTrue(connection.in_atomic_block)

    def test_a_batch_fires_periodic_tasks_there_unless_told_not_to(self):
        periodic = {"tests.app.tasks.no_value": "1h"}
        with override_settings(TASKS=tasks_setting(periodic=periodic)):
            call_command("db_worker", batch=True)
            PeriodicTask.objects.update(next_run_at=timezone.now())
            call_command("db_worker", batch=True, periodic=False)
            self.assertFalse(Job.objects.exists())
            call_command("db_worker", batch=True)
        self.assertEqual(Job.objects.get().status, "SUCCESSFUL")

    def test_none_given_by_code_means_the_default(self):
        result = tasks.add.enqueue(1, 2)
        names = {"queue_name", "exclude_queues", "interval", "max_tasks", "backend_name", "threads"}
        more = {"worker_id", "processes", "coroutines", "startup_delay", "periodic", "reload"}
        call_command("db_worker", batch=True, **dict.fromkeys(names | more))
        result.refresh()
        self.assertEqual(result.return_value, 3)
        names = ("queue_name", "backend_name", "min_age_days", "failed_min_age_days")
        call_command("prune_db_task_results", verbosity=0, **dict.fromkeys(names))
        with self.assertRaisesMessage(CommandError, "inside a transaction"):
            call_command("taskrunner", workers=None, delay=None, backend_name=None, worker_id=None)


class WorkerCommandTests(WorkerTestCase):
    def test_its_lines_are_shown_although_no_logging_is_set_up(self):
        tasks.fail.enqueue("no luck")
        done = run_worker("--worker-id", "w")
        self.assertEqual(done.stdout, "")
        for line in (
            "INFO Worker w serves queues: default. Threads: 1, coroutines: 50.",
            "of tests.app.tasks.fail failed: builtins.ValueError: no luck",
            "INFO Worker w has stopped.",
        ):
            self.assertEqual(done.stderr.count(line), 1, done.stderr)

    @pytest.mark.any_database
    def test_verbosity_says_how_much_is_shown(self):
        tasks.add.enqueue(1, 2)
        self.assertIn("tests.app.tasks.add ended well", run_worker("-v", "2").stderr)
        self.assertEqual(run_worker("-v", "0").stderr, "")

    def test_a_batch_says_at_its_end_how_many_are_due_later(self):
        tomorrow = timezone.now() + timedelta(days=1)
        for name in ("default", "default", "mail"):
            tasks.add.using(queue_name=name, run_after=tomorrow).enqueue(1, 2)
        says = "INFO Due later, and not run by this batch: "
        self.assertIn(f"{says}2 jobs.", run_worker().stderr)
        self.assertIn(f"{says}1 job.", run_worker("--queue-name", "mail").stderr)
        self.assertNotIn(says, run_worker("--queue-name", "other").stderr)

    def test_several_queues_and_exceptions_are_served_as_asked(self):
        for name in ("a", "b", "c", "default"):
            tasks.add.using(queue_name=name).enqueue(1, 2)
        run_worker("--queue-name", "*", "--exclude-queues", "c, default")
        self.assertEqual(
            dict(Job.objects.values_list("queue_name", "status")),
            {"a": "SUCCESSFUL", "b": "SUCCESSFUL", "c": "READY", "default": "READY"},
        )
        run_worker("--queue-name", "c,default")
        self.assertEqual(set(Job.objects.values_list("status", flat=True)), {"SUCCESSFUL"})

    @pytest.mark.any_database
    def test_reload_does_not_go_with_batch_and_says_so(self):
        result = tasks.add.enqueue(1, 2)
        done = run_worker("--reload")
        self.assertIn("--reload does not work with --batch: going on without it.", done.stderr)
        self.assertEqual(result.job.status, "SUCCESSFUL")

    @pytest.mark.any_database
    def test_who_has_debug_on_is_told_what_does_not_reload(self):
        def said(**options):
            stderr = StringIO()
            with (
                self.settings(DEBUG=True),
                mock.patch.object(db_worker.Command, "supervise"),
                mock.patch.object(db_worker.Command, "run"),
            ):
                call_command("db_worker", stderr=stderr, **options)
            return stderr.getvalue()

        text = "DEBUG is on, but with --{} nothing reloads when code changes."
        self.assertIn(text.format("processes"), said(processes=2))
        self.assertIn(text.format("max-memory"), said(max_memory=100))
        self.assertEqual(said(processes=2, reload=False), "")
        self.assertEqual(said(batch=True), "")

    def test_a_reloading_worker_works_and_ends_with_the_terminals_interrupt(self):
        with running_worker("--reload", ready=False) as worker:
            self.assertEqual(ended(tasks.add.enqueue(1, 2)).status, "SUCCESSFUL")
            self.assertNotEqual(Worker.objects.get().pid, worker.pid)
            self.interrupt(worker)
            eventually(lambda: not Worker.objects.exists(), "its row is gone")

    def interrupt(self, worker):
        """Press Ctrl-C, again if need be: Python loses the exception that comes in a finaliser."""
        for _ in range(5):
            os.killpg(worker.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                return worker.wait(timeout=6)
        raise AssertionError("It does not end.")

    @pytest.mark.any_database
    def test_a_reloading_worker_waits_for_broken_code_to_be_mended(self):
        broken, waits = "def broken(", "Waiting for a change of the code.\n"
        with site(0) as made:
            words = ("-m", "django", "db_worker", "--queue-name=*", "--no-startup-delay")
            with made.running(*words) as worker:
                eventually(Worker.objects.exists, "it starts")
                for name in ("tasks", "settings"):
                    # Again and again: the reloader only sees what changes after its first look.
                    write = partial(made.write, name)
                    eventually(
                        lambda write=write: write(broken) or worker.output().endswith(waits),
                        "it waits",
                    )
                    self.assertFalse(Worker.objects.exists())
                    job = make_jobs(task_path="project.tasks.say")[0]
                    write(FILES[name])
                    self.assertEqual(ended(job).status, "SUCCESSFUL")
                self.interrupt(worker)

    def test_a_database_without_tables_is_an_error_that_says_what_to_do(self):
        name = ":memory:"
        if connection.vendor != "sqlite":
            name = f"{connection.settings_dict['NAME']}_empty"
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name}")
                self.addCleanup(self.drop, name)
        self.assert_fails(name, "has no table durable_tasks_job: run manage.py migrate")

    def test_a_database_that_is_not_there_is_an_error(self):
        name = "/no/such/folder/x.sqlite3" if connection.vendor == "sqlite" else "durable_no_such"
        self.assert_fails(name, "The database can't be used: ")

    def drop(self, name):
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")

    def assert_fails(self, database, message):
        done = run_command(
            *("db_worker", *QUICK, "--batch", "--skip-checks"),
            env={"DURABLE_TASKS_TEST_DB_NAME": database},
        )
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertIn("CommandError: ", done.stderr)
        self.assertIn(message, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertNotIn("serves queues", done.stderr)


class Terminal(StringIO):
    def isatty(self):
        return True


class PruneTests(TestCase):
    def setUp(self):
        for queue in ("default", "a", "b"):
            for days in (1, 10, 20):
                for status in ("SUCCESSFUL", "FAILED", "CANCELLED"):
                    self.make(status, days, queue_name=queue)
        self.open = [self.make(status, 100) for status in ("READY", "SCHEDULED", "RUNNING")]
        self.foreign = self.make("SUCCESSFUL", 100, backend_name="second")

    def make(self, status, days, **changes):
        at = timezone.now() - timedelta(days=days, minutes=1)
        ended = status in ("SUCCESSFUL", "FAILED", "CANCELLED")
        values = {
            "id": uuid.uuid4(),
            "backend_name": "default",
            "queue_name": "default",
            "task_path": "tests.app.tasks.add",
            "run_at": at,
            "enqueued_at": at,
            "finished_at": at if ended else None,
        }
        return Job.objects.create(status=status, **values | changes)

    def prune(self, *arguments, stdout=None):
        """Prune, and return how many ended jobs are left by queue, age in days and status."""
        self.said = stdout or StringIO()
        call_command("prune_db_task_results", *arguments, stdout=self.said)
        kept = set(Job.objects.values_list("id", flat=True))
        self.assertLessEqual({job.id for job in [*self.open, self.foreign]}, kept)
        now = timezone.now()
        return {
            (job.queue_name, (now - job.finished_at).days, job.status)
            for job in Job.objects.filter(backend_name="default", finished_at__isnull=False)
        }

    def left(self, removed):
        """Return all that setUp() made but what ``removed(queue, days, status)`` names."""
        return {
            (queue, days, status)
            for queue in ("default", "a", "b")
            for days in (1, 10, 20)
            for status in ("SUCCESSFUL", "FAILED", "CANCELLED")
            if not removed(queue, days, status)
        }

    def test_two_weeks_and_the_default_queue_by_default(self):
        self.assertEqual(
            self.prune(), self.left(lambda queue, days, status: queue == "default" and days > 14)
        )
        self.assertEqual(self.said.getvalue(), "Deleted 3 results.\n")

    def test_the_age_counts_for_failed_ones_too_unless_they_have_their_own(self):
        self.assertEqual(
            self.prune("--min-age-days", "5"),
            self.left(lambda queue, days, status: queue == "default" and days > 5),
        )

    def test_failed_ones_may_be_kept_longer(self):
        self.assertEqual(
            self.prune("--min-age-days", "5", "--failed-min-age-days", "15"),
            self.left(
                lambda queue, days, status: (
                    queue == "default" and days > (15 if status == "FAILED" else 5)
                )
            ),
        )

    def test_an_age_of_zero_counts(self):
        self.assertEqual(
            self.prune("--failed-min-age-days", "0"),
            self.left(
                lambda queue, days, status: queue == "default" and (status == "FAILED" or days > 14)
            ),
        )
        self.assertEqual(self.prune("--min-age-days=0", "--queue-name=*"), set())

    def test_several_queues_and_all_queues(self):
        self.assertEqual(
            self.prune("--queue-name", "a, b"),
            self.left(lambda queue, days, status: queue != "default" and days > 14),
        )
        self.assertEqual(
            self.prune("--queue-name", "*"), self.left(lambda queue, days, status: days > 14)
        )

    def test_a_dry_run_deletes_nothing_and_tells_the_number(self):
        before = Job.objects.count()
        for arguments in ((), ("--queue-name=*", "--min-age-days=5", "--failed-min-age-days=0")):
            with self.subTest(arguments=arguments):
                everything = self.prune("--dry-run", *arguments)
                self.assertEqual(everything, self.left(lambda *job: False))
                would = self.said.getvalue()
                self.assertRegex(would, r"^Would delete \d+ results\.\n$")
        self.prune(*arguments)
        self.assertEqual(self.said.getvalue(), would.replace("Would delete", "Deleted"))
        self.assertLess(Job.objects.count(), before)

    def test_another_backend_has_its_own_results(self):
        with override_settings(TASKS={**tasks_setting(), "second": tasks_setting()["default"]}):
            self.prune("--queue-name=a")
            call_command("prune_db_task_results", "--backend=second", verbosity=0)
        self.assertFalse(Job.objects.filter(backend_name="second").exists())

    def test_on_a_terminal_a_line_shows_the_progress(self):
        self.prune("--queue-name", "*", stdout=Terminal())
        lines = self.said.getvalue().split("\r")
        self.assertEqual(lines[0], "")
        self.assertEqual(lines[-1], "Deleted 9 results.\n")
        self.assertTrue(all(line.endswith("results ...") for line in lines[1:-1]), lines)
        self.assertGreater(len(lines), 2)

    def test_verbosity_zero_says_nothing(self):
        self.prune("-v", "0", stdout=Terminal())
        self.assertEqual(self.said.getvalue(), "")
