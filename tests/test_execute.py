"""Running one claim: every ending is a value."""

import json
import threading
import uuid
from datetime import timedelta
from unittest import mock

import pytest
from django.test import SimpleTestCase
from django.utils import timezone

from durable_tasks.execute import Executor
from durable_tasks.options import Options
from durable_tasks.store import Claim

from .app import tasks

pytestmark = pytest.mark.any_database

NOW = timezone.now().replace(microsecond=0)


def claim_of(path, *args, **changes):
    values = {
        "id": uuid.uuid4(),
        "lease": 1,
        "attempts": 1,
        "task_path": path if "." in path else f"tests.app.tasks.{path}",
        "queue_name": "default",
        "priority": 0,
        "args": json.dumps(args),
        "kwargs": "{}",
        "run_after": None,
        "run_at": NOW,
        "enqueued_at": NOW,
        "started_at": None,
        "last_attempted_at": None,
        "lost": 0,
        "errors": None,
        "worker_id": "w",
    }
    return Claim(**values | changes)


class ExecutorTests(SimpleTestCase):
    def setUp(self):
        self.started = []
        self.executor = Executor(
            backend_name="default",
            worker_id="w",
            now=lambda: NOW,
            options=Options(max_result_size=1000),
            database="default",
            on_start=lambda claim, at: self.started.append((claim, at, threading.get_ident())),
        )

    def run_task(self, path, *args, **changes):
        return self.executor.execute(claim_of(path, *args, **changes))

    def test_a_job_whose_start_cannot_be_written_is_left_for_a_moment(self):
        with mock.patch.object(Executor, "_may_start", return_value=False):
            finish = self.run_task("add", 1, 2, lost=1)
        self.assertEqual((finish.status, finish.attempts, self.started), ("SCHEDULED", 0, []))
        self.assertGreater(finish.run_at, NOW)
        self.assertIn("run_at", finish.writes)

    def assertFails(self, finish, exception, text):
        self.assertEqual((finish.status, finish.return_value), ("FAILED", None))
        self.assertIsInstance(finish.exception, exception)
        self.assertEqual(
            finish.exception_class_path, json.loads(finish.errors)[-1]["exception_class_path"]
        )
        self.assertIn(text, json.loads(finish.errors)[-1]["traceback"])

    def test_a_value_is_success(self):
        claim = claim_of("add", 1, 2)
        finish = self.executor.execute(claim)
        self.assertEqual((finish.status, finish.return_value), ("SUCCESSFUL", "3"))
        self.assertEqual((finish.id, finish.fence, finish.claim), (claim.id, claim.lease, claim))
        self.assertEqual((finish.started_at, finish.finished_at), (NOW, NOW))
        self.assertEqual(self.started, [(claim, NOW, threading.get_ident())])

    def test_no_value_is_no_json(self):
        self.assertIsNone(self.run_task("no_value").return_value)
        self.assertEqual(self.run_task("add", "", "").return_value, '""')

    def test_whatever_is_raised_is_a_failure(self):
        for path, exception in (
            ("fail", ValueError),
            ("leave", SystemExit),
            ("interrupt", KeyboardInterrupt),
        ):
            with self.subTest(path=path):
                self.assertFails(self.run_task(path), exception, exception.__name__)

    async def test_whatever_a_coroutine_raises_is_a_failure(self):
        for path, exception in (
            ("async_fail", ValueError),
            ("async_leave", SystemExit),
            ("async_interrupt", KeyboardInterrupt),
        ):
            with self.subTest(path=path):
                finish = await self.executor.aexecute(claim_of(path))
                self.assertFails(finish, exception, exception.__name__)
        finish = await self.executor.aexecute(claim_of("async_add", 1, 2))
        self.assertEqual(finish.return_value, "3")

    def test_a_value_that_json_cannot_carry_is_a_failure_that_names_the_place(self):
        finish = self.run_task("not_a_number")
        self.assertFails(finish, ValueError, "The return value['values'][1] is nan")
        self.assertFails(self.run_task("an_object"), TypeError, "is of type object")

    def test_a_value_that_is_too_large_is_a_failure_that_says_how_large(self):
        self.assertEqual(self.run_task("huge", 998).status, "SUCCESSFUL")
        self.assertFails(self.run_task("huge", 999), ValueError, "takes 1001 bytes of JSON")
        # Bytes count, not characters.
        self.assertFails(self.run_task("add", "ü" * 300, "ü" * 300), ValueError, "takes 1202 bytes")

    def test_an_error_text_that_no_database_takes_is_written_out(self):
        finish = self.run_task("fail_with_bad_text")
        self.assertFails(finish, ValueError, "NUL \\x00 and a lone surrogate \\ud800")

    def test_a_task_that_is_not_there_fails_before_it_starts(self):
        self.assertFails(self.run_task("removed"), LookupError, "renamed or removed")
        self.assertFails(self.run_task("removed"), LookupError, "older than the code: restart it.")
        self.assertFails(self.run_task("no_task"), LookupError, "@task missing")
        self.assertEqual(self.started, [])

    def test_a_task_that_appears_later_is_found(self):
        self.assertFails(self.run_task("late"), LookupError, "renamed or removed")
        tasks.late = tasks.add
        try:
            self.assertEqual(self.run_task("late", 1, 2).return_value, "3")
        finally:
            del tasks.late

    def test_arguments_that_do_not_fit_are_a_failure(self):
        self.assertFails(self.run_task("add", 1, 2, 3), TypeError, "add() takes from 1 to 2")
        self.assertFails(self.run_task("add", kwargs='{"c": 1}'), TypeError, "add()")
        self.assertFails(self.run_task("add", args="not json"), ValueError, "JSONDecodeError")

    def test_the_first_start_is_kept_and_errors_add_up(self):
        first = NOW - timedelta(hours=1)
        old = self.run_task("fail", "the first").errors
        finish = self.run_task("fail", "again", started_at=first, attempts=2, errors=old)
        self.assertEqual((finish.started_at, finish.last_attempted_at), (first, NOW))
        entries = json.loads(finish.errors)
        self.assertEqual([entry["attempt"] for entry in entries], [1, 2])
        self.assertIn("the first", entries[0]["traceback"])
        self.assertEqual(entries[1]["worker_id"], "w")

    def test_the_context_is_the_running_job(self):
        claim = claim_of("describe", "word", attempts=2, errors=self.run_task("fail").errors)
        value = json.loads(self.executor.execute(claim).return_value)
        self.assertEqual(
            value,
            {
                "word": "word",
                "id": str(claim.id),
                "status": "RUNNING",
                "args": ["word"],
                "attempt": 2,
                "workers": ["w", "w"],
                "queue": "default",
                "priority": 0,
            },
        )

    async def test_a_coroutine_gets_the_context_too(self):
        claim = claim_of("async_describe", "word", queue_name="q", priority=3)
        value = json.loads((await self.executor.aexecute(claim)).return_value)
        self.assertEqual(
            (value["id"], value["attempt"], value["queue"], value["priority"], value["workers"]),
            (str(claim.id), 1, "q", 3, ["w"]),
        )

    def test_a_task_keeps_its_own_copy_of_the_arguments(self):
        claim = claim_of("grow", [1])
        self.assertEqual(self.executor.execute(claim).return_value, "[1,2]")
        self.assertEqual(self.executor.result_at_end(self.executor.execute(claim)).args, [[1]])
