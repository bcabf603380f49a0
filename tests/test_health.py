import json
import os
import subprocess
from datetime import timedelta
from importlib.util import find_spec
from io import StringIO
from typing import Any
from unittest import mock

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.base import BaseHandler
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, connections
from django.test import RequestFactory, SimpleTestCase, override_settings

from durable_tasks import health, metrics, state
from durable_tasks.health import Check, Thresholds, report
from durable_tasks.models import Statistic
from durable_tasks.schedules import Duration
from durable_tasks.state import Look

from .helpers import run_command, run_unread, running_worker, tasks_setting
from .store.jobs import make_jobs
from .test_state import BACKEND, StateTestCase, ago, make_schedule, make_worker, pause


def make_statistic(age: float = 300, **changes: Any) -> Statistic:
    """Insert the counts of the minute of so many seconds ago."""
    begins = int(Look().seconds - age) // 60 * 60
    fields = {"backend_name": "default", "period": 60, "begins": begins, "queue_name": "default"}
    fields |= {"task_path": "shop.tasks.pay"}
    return Statistic.objects.create(**fields | changes)


class ThresholdTests(SimpleTestCase):
    def test_texts_and_numbers(self) -> None:
        made = Thresholds.of(
            max_waiting="1h30m", max_failure_rate="2.5%", max_backlog="7", over=600, max_late=None
        )
        self.assertEqual(made.max_waiting, timedelta(minutes=90))
        self.assertEqual(made.max_failure_rate, 0.025)
        self.assertEqual(made.max_backlog, 7)
        self.assertEqual(made.over, Duration("10m"))
        self.assertIsNone(made.max_late)
        self.assertEqual(made.min_workers, 1)

    def test_what_is_wrong_is_named(self) -> None:
        for values, text in (
            ({"max_waiting": "soon"}, "max_waiting: 'soon' is no length of time"),
            ({"max_waiting": True}, "max_waiting: "),
            ({"max_failure_rate": "10"}, 'max_failure_rate: must be a share such as "10%"'),
            ({"max_failure_rate": "nan"}, "max_failure_rate: "),
            ({"max_backlog": -1}, "max_backlog: must be a whole number"),
            ({"min_workers": True}, "min_workers: must be a whole number"),
            ({"over": "4h"}, "over: must be from 1m to 3h"),
            ({"over": None}, "over: "),
            ({"max_size": 1}, "max_size is no threshold. Known: max_backlog, max_beat_age"),
        ):
            with self.subTest(text), self.assertRaises(ImproperlyConfigured) as caught:
                Thresholds.of(**values)
            self.assertIn(text, str(caught.exception))


class ReportTests(StateTestCase):
    def check(self, name: str, queue_names: Any = None, **thresholds: Any) -> Check:
        found = report(Thresholds.of(**thresholds), queue_names=queue_names)
        return next(each for each in found.checks if each.name == name)

    def test_without_a_worker_it_is_not_healthy(self) -> None:
        found = report()
        self.assertFalse(found.is_healthy)
        self.assertEqual(
            {each.name: each.is_ok for each in found.checks},
            {
                "backlog": True,
                "waiting": True,
                "failures": True,
                "workers": False,
                "schedules": True,
            },
        )
        self.assertEqual(
            self.check("workers").text, "no worker is alive and claims jobs (at least 1)"
        )
        make_worker()
        self.assertTrue(report().is_healthy)

    def test_none_leaves_a_check_out(self) -> None:
        names = ("backlog", "waiting", "failure_rate", "late")
        found = report(Thresholds.of(min_workers=None, **{f"max_{name}": None for name in names}))
        self.assertEqual((found.checks, found.is_healthy), ([], True))

    def test_backlog(self) -> None:
        make_jobs(5)
        make_jobs(3, queue_name="mail")
        self.assertTrue(self.check("backlog", max_backlog=8).is_ok)
        check = self.check("backlog", max_backlog=7)
        self.assertEqual((check.is_ok, check.value, check.threshold), (False, 8, 7))
        self.assertEqual(check.text, "8 jobs are due (at most 7)")
        self.assertTrue(self.check("backlog", ["mail"], max_backlog=3).is_ok)

    def test_a_backlog_beyond_the_usual_limit_is_counted_as_far_as_it_decides(self) -> None:
        make_jobs(30)
        make_jobs(30, queue_name="mail")
        with mock.patch.object(state, "MOST", 10):
            self.assertTrue(self.check("backlog", max_backlog=60).is_ok)
            for most in (59, 25, 5):
                with self.subTest(most):
                    check = self.check("backlog", max_backlog=most)
                    self.assertFalse(check.is_ok)
                    self.assertIn(f"(at most {most})", check.text)

    def test_waiting(self) -> None:
        make_jobs(queue_name="mail", run_at=ago(400))
        check = self.check("waiting")
        self.assertFalse(check.is_ok)
        self.assertRegex(
            check.text, r"^the oldest job waits for 6m4\ds in the queue 'mail' \(at most 5m\)$"
        )
        self.assertTrue(self.check("waiting", max_waiting="10m").is_ok)
        self.assertTrue(self.check("waiting", ["default"]).is_ok)

    def test_paused_queues_are_left_out_and_told(self) -> None:
        make_jobs(3, queue_name="mail", run_at=ago(4000))
        pause(queue_name="mail")
        pause(task_path="shop.tasks.pay", paused_by="")
        make_worker()
        found = report(Thresholds.of(max_backlog=2))
        self.assertTrue(found.is_healthy)
        self.assertEqual(
            found.notes,
            [
                "the queue 'mail' is paused by ann: its 3 jobs are left out",
                "the task shop.tasks.pay is paused: 0 jobs held",
            ],
        )

    def test_failures_of_the_last_minutes(self) -> None:
        make_statistic(failed=10, successful=10, cancelled=70)
        make_statistic(queue_name="mail", successful=20)
        make_statistic(age=3000, failed=900)
        check = self.check("failures")
        self.assertEqual((check.is_ok, check.value), (False, 0.25))
        self.assertEqual(
            check.text, "25.0% of 40 jobs that ended in the last 15m failed (at most 10%)"
        )
        self.assertTrue(self.check("failures", max_failure_rate="25%").is_ok)
        self.assertTrue(self.check("failures", ["mail"]).is_ok)
        self.assertFalse(self.check("failures", ["mail", "default"]).is_ok)
        self.assertFalse(self.check("failures", max_failure_rate="90%", over="1h").is_ok)

    def test_few_jobs_have_no_verdict(self) -> None:
        make_statistic(failed=19)
        check = self.check("failures")
        self.assertEqual((check.is_ok, check.value), (True, 1.0))
        self.assertIn("no verdict: 19 jobs ended in the last 15m", check.text)
        self.assertFalse(self.check("failures", min_runs=19).is_ok)

    def test_workers_that_claim_nothing_do_not_count(self) -> None:
        make_worker("lost", 40)
        make_worker("drains", wish="drain")
        self.assertFalse(self.check("workers").is_ok)
        make_worker("works", queues="default, mail")
        self.assertTrue(self.check("workers").is_ok)
        self.assertFalse(self.check("workers", min_workers=2).is_ok)
        self.assertTrue(self.check("workers", ["mail"]).is_ok)
        check = self.check("workers", ["mail", "media"])
        self.assertEqual(
            check.text, "no worker is alive and claims jobs for the queue 'media' (at least 1)"
        )

    def test_each_backend_needs_its_workers_but_for_immediate_ones(self) -> None:
        make_worker()
        other = {"BACKEND": BACKEND, "QUEUES": [], "OPTIONS": {}}
        with override_settings(TASKS={**tasks_setting(), "other": other}):
            self.assertEqual(
                self.check("workers").text,
                "no worker is alive and claims jobs for the backend 'other' (at least 1)",
            )
            self.assertTrue(report(backend_name="default").is_healthy)
        other["OPTIONS"] = {"immediate": True}
        with override_settings(TASKS={**tasks_setting(), "other": other}):
            self.assertTrue(self.check("workers").is_ok)
        with override_settings(TASKS={"default": other}):
            self.assertTrue(report().is_healthy)

    def test_heartbeats(self) -> None:
        make_worker("a", 1)
        make_worker("b", 50)
        check = self.check("heartbeats")
        self.assertFalse(check.is_ok)
        self.assertRegex(check.text, r"^the last one of b is 5\ds old \(at most 30s\)$")
        self.assertTrue(self.check("heartbeats", max_beat_age="2m").is_ok)
        with override_settings(TASKS=tasks_setting(worker_timeout=90)):
            self.assertTrue(self.check("heartbeats").is_ok)

    def test_late_schedules(self) -> None:
        make_schedule("soon", 100)
        self.assertTrue(self.check("schedules").is_ok)
        make_schedule("nightly", 4000, queue_name="mail")
        check = self.check("schedules")
        self.assertFalse(check.is_ok)
        self.assertRegex(check.text, r"^1 late, 'nightly' by 1h6m\d+s \(at most 5m\)$")
        self.assertFalse(self.check("schedules", max_late="1m").is_ok)
        self.assertTrue(self.check("schedules", ["default"]).is_ok)


class ViewTests(StateTestCase):
    def get(self, view: Any, method: str = "get") -> Any:
        return view(getattr(RequestFactory(), method)("/tasks-health/"))

    def test_it_says_which_checks_fail_and_nothing_else(self) -> None:
        make_jobs(3, queue_name="secret", run_at=ago(1000))
        make_worker("secret-host")
        response = self.get(health.view())
        self.assertEqual(response.status_code, 503)
        self.assertNotIn(b"secret", response.content)
        self.assertEqual(
            json.loads(response.content),
            {
                "status": "unhealthy",
                "checks": {
                    "backlog": True,
                    "waiting": False,
                    "failures": True,
                    "workers": True,
                    "heartbeats": True,
                    "schedules": True,
                },
            },
        )
        self.assertIn("no-cache", response["Cache-Control"])
        response = self.get(health.view(max_waiting="1h"))
        self.assertEqual(
            (response.status_code, json.loads(response.content)["status"]), (200, "healthy")
        )
        self.assertEqual(self.get(health.view(queue_names=["default"])).status_code, 200)
        self.assertEqual(self.get(health.view(backend_name="default"), "head").status_code, 503)
        self.assertEqual(self.get(health.view(), "post").status_code, 405)

    def test_a_database_that_is_away_is_unavailable(self) -> None:
        with mock.patch.object(health, "report", side_effect=OperationalError("host db1")):
            response = self.get(health.view())
        self.assertEqual(response.status_code, 503)
        self.assertEqual(json.loads(response.content), {"status": "unknown"})

    def test_no_transaction_is_begun_before_it_can_say_so(self) -> None:
        views = [health.view()]
        if find_spec("prometheus_client"):
            views.append(metrics.view())
        for alias in connections:
            with mock.patch.dict(connections[alias].settings_dict, {"ATOMIC_REQUESTS": True}):
                for view in views:
                    self.assertIs(BaseHandler().make_view_atomic(view), view)

    def test_bad_arguments_are_told_when_the_urls_are_made(self) -> None:
        for arguments, text in (
            ({"max_waiting": "x"}, "max_waiting"),
            ({"backend_name": "gone"}, "'gone' is no backend of durable_tasks in TASKS"),
            ({"queue_names": "mail"}, "queue_names must be a list of names, not 'mail'"),
        ):
            with self.subTest(text), self.assertRaisesMessage(ImproperlyConfigured, text):
                health.view(**arguments)


class CommandTests(StateTestCase):
    def test_exit_codes_of_a_real_process(self) -> None:
        done = run_command("tasks_health")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(
            "FAIL  workers     no worker is alive and claims jobs (at least 1)", done.stdout
        )
        self.assertEqual(done.stdout.count("OK  "), 4)
        with running_worker():
            done = run_command("tasks_health", "--format", "json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads(done.stdout)
        self.assertEqual((found["status"], found["notes"]), ("healthy", []))
        self.assertEqual(
            next(each for each in found["checks"] if each["name"] == "workers"),
            {
                "name": "workers",
                "is_ok": True,
                "value": 1,
                "threshold": 1,
                "text": "1 alive (at least 1)",
            },
        )

    def test_a_database_that_is_away_has_a_code_of_its_own(self) -> None:
        env = {"DURABLE_TASKS_TEST_DB_NAME": os.path.join("/nonexistent", "there")}
        done = run_command("tasks_health", env=env)
        self.assertEqual(done.returncode, 2)
        self.assertIn("The database can't be asked: ", done.stderr)
        done = run_command("tasks_health", "--format", "json", env=env)
        self.assertEqual(done.returncode, 2)
        found = json.loads(done.stdout)
        self.assertEqual(found["status"], "unknown")
        self.assertTrue(found["error"])

    def test_a_reader_that_has_seen_enough_changes_no_verdict(self) -> None:
        for arguments in ([], ["--format", "json"]):
            for buffered in (True, False):
                with self.subTest(arguments, buffered=buffered):
                    done = run_unread("tasks_health", *arguments, buffered=buffered)
                    self.assertEqual((done.returncode, done.stderr), (1, ""))

    def test_bad_options_are_named_and_are_no_verdict(self) -> None:
        def failure(*arguments: str) -> "subprocess.CompletedProcess[str]":
            return run_command("tasks_health", *arguments)

        for arguments, text in (
            (["--max-waiting", "x"], "argument --max-waiting: 'x' is no length of time"),
            (["--backend", "gone"], "There is no task backend 'gone' in TASKS"),
            (["--queue-name", ","], "--queue-name must name at least one queue"),
        ):
            with self.subTest(arguments):
                done = failure(*arguments)
                self.assertEqual(done.returncode, 2)
                self.assertIn(text, done.stderr)

    def run_here(self, **options: Any) -> tuple[str, int]:
        output = StringIO()
        try:
            call_command("tasks_health", stdout=output, no_color=True, **options)
        except SystemExit as end:
            return output.getvalue(), int(str(end.code))
        return output.getvalue(), 0

    def test_thresholds_queues_and_notes(self) -> None:
        make_worker()
        make_jobs(3)
        pause(queue_name="mail")
        output, code = self.run_here(max_backlog=2)
        self.assertEqual(code, 1)
        self.assertIn("FAIL  backlog     3 jobs are due (at most 2)\n", output)
        self.assertIn("NOTE  the queue 'mail' is paused by ann", output)
        self.assertEqual(self.run_here(max_backlog="2", queue_name="default")[1], 1)
        self.assertEqual(self.run_here(max_backlog=2, queue_name="mail,*")[1], 1)
        self.assertEqual(self.run_here(max_backlog=None)[1], 0)
        done = run_command("tasks_health", "--max-backlog", "none", "--queue-name", "default")
        self.assertEqual(done.returncode, 0)
        self.assertNotIn("backlog", done.stdout)
        with self.assertRaises(CommandError) as caught:
            self.run_here(max_backlog="x")
        self.assertEqual(caught.exception.returncode, 2)
