"""What ``durable_tasks.testing`` gives to a project's tests."""

import subprocess
import sys
import threading
import tomllib
import unittest
from datetime import UTC, datetime, timedelta
from importlib import import_module
from unittest import SkipTest

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test import SimpleTestCase, TestCase, override_settings
from django.utils import timezone

from durable_tasks import (
    DurableTasksError,
    NotSerializable,
    Periodic,
    TaskNotFound,
    clock,
    testing,
)
from durable_tasks.compat import InvalidTask, TaskResultStatus, task_finished, task_started
from durable_tasks.models import Job, PeriodicTask, Worker
from durable_tasks.testing import (
    LiveRunner,
    RunnerTestCase,
    arun_task,
    arun_tasks,
    assert_enqueued,
    enqueued_tasks,
    frozen_time,
    live_runner,
    refute_enqueued,
    run_task,
    run_tasks,
)

from .app import inline_tasks, tasks
from .app.models import Effect
from .helpers import (
    PATIENCE,
    ROOT,
    WorkerTestCase,
    effects,
    environment,
    eventually,
    from_django,
    heard,
    held,
    let_go,
    tasks_setting,
)

NOON = "2026-03-01 12:00"
HOURLY = {"tick": Periodic("1h", task="tests.app.tasks.effect", args=["tick"])}


def local(*parts):
    """Return a time in the project's time zone, as its settings want it."""
    value = datetime(*parts)
    return timezone.make_aware(value) if settings.USE_TZ else value


class RunContract:
    """What ``run_tasks()`` does inside a ``TestCase`` and outside."""

    def test_it_runs_what_is_ready_and_what_becomes_so(self):
        first = tasks.effect_then_more.enqueue("x", 2)
        results = run_tasks()
        self.assertEqual(effects(), ["x", "x+", "x++"])
        self.assertEqual([result.status for result in results], [TaskResultStatus.SUCCESSFUL] * 3)
        self.assertEqual([result.args[0] for result in results], ["x", "x+", "x++"])
        self.assertEqual(results[0].id, first.id)
        self.assertEqual(first.job.attempts, 1)
        self.assertEqual(run_tasks(), [])

    def test_in_the_order_of_a_worker(self):
        for key, priority in (("low", -5), ("first", 0), ("second", 0), ("high", 5)):
            tasks.effect.using(priority=priority).enqueue(key)
        tasks.effect_elsewhere.enqueue("highest")  # in another queue
        run_tasks()
        self.assertEqual(effects(), ["highest", "high", "first", "second", "low"])

    def test_of_some_queues_or_of_all(self):
        tasks.effect.enqueue("here")
        tasks.effect_elsewhere.enqueue("there")
        self.assertEqual(run_tasks(queue_names=["nowhere"]), [])
        run_tasks(queue_names=["other"])
        self.assertEqual(effects(), ["there"])
        run_tasks()
        self.assertEqual(effects(), ["there", "here"])

    def test_a_failure_is_a_result(self):
        tasks.fail.enqueue("no luck")
        tasks.async_fail.enqueue("none")
        results = run_tasks()
        self.assertEqual([result.status for result in results], [TaskResultStatus.FAILED] * 2)
        self.assertIs(results[0].errors[0].exception_class, ValueError)

    def test_the_value_of_a_failure_says_why_there_is_none(self):
        failed, waiting = tasks.fail.enqueue("no luck"), tasks.add.enqueue(1)
        run_task(failed)
        with self.assertRaisesMessage(ValueError, "Task failed") as raised:
            _ = failed.return_value
        [note] = raised.exception.__notes__
        self.assertEqual(note, failed.errors[-1].traceback.rstrip())
        self.assertIn("in fail\n", note)
        self.assertTrue(note.endswith("ValueError: no luck"))
        with self.assertRaisesMessage(ValueError, "not finished") as raised:
            _ = waiting.return_value
        self.assertFalse(hasattr(raised.exception, "__notes__"))
        waiting.cancel()
        waiting.refresh()
        with self.assertRaisesMessage(ValueError, "Task failed") as raised:
            _ = waiting.return_value
        self.assertIn("TaskCancelled: Cancelled while it waited", raised.exception.__notes__[0])

    def test_a_row_that_is_not_there_is_found_as_the_error(self):
        result = run_task(tasks.fail_for_a_missing_row.enqueue())
        self.assertIs(result.errors[0].exception_class, Effect.DoesNotExist)

    def test_retries_that_are_due_run_too(self):
        tasks.fail_until.enqueue("x", 3)
        [result] = run_tasks()
        self.assertEqual((result.return_value, result.attempts), (3, 3))
        tasks.fail_for_an_hour.enqueue()
        [result] = run_tasks()
        self.assertEqual((result.status, result.job.status), ("READY", "SCHEDULED"))
        self.assertEqual(run_tasks(), [])

    def test_coroutines_and_atomic_tasks_run_too(self):
        tasks.async_effect.enqueue("a")
        tasks.atomic_effect.enqueue("b")
        tasks.atomic_effect.enqueue("c", "fail")
        run_tasks()
        self.assertEqual(effects(), ["a", "b", "b child"])

    def test_a_task_may_ask_for_a_durable_transaction(self):
        inline_tasks.durable.enqueue("x")
        [result] = run_tasks()
        self.assertEqual((result.status, effects()), (TaskResultStatus.SUCCESSFUL, ["x"]))

    def test_a_database_error_does_not_end_it(self):
        inline_tasks.break_constraint.enqueue("x")
        tasks.effect.enqueue("y")
        results = run_tasks()
        self.assertEqual([result.status for result in results], ["FAILED", "SUCCESSFUL"])
        self.assertIn("y", effects())

    def test_signals_are_sent(self):
        tasks.add.enqueue(1, 2)
        with heard(task_started) as started, heard(task_finished) as finished:
            [result] = run_tasks()
        self.assertEqual([each.id for _, each in started + finished], [result.id] * 2)

    def test_it_ends_at_its_limit_and_names_what_runs_for_ever(self):
        for _ in range(3):
            tasks.add.enqueue(1, 2)
        self.assertEqual(len(run_tasks(limit=3)), 3)
        tasks.add.enqueue(1, 2)
        inline_tasks.for_ever.enqueue()
        with self.assertRaisesMessage(
            DurableTasksError,
            "stopped after 10 runs, and jobs are still ready. It ran "
            "tests.app.inline_tasks.for_ever 9 times, tests.app.tasks.add once.",
        ):
            run_tasks(limit=10)

    def test_what_waits_for_a_commit_is_called(self):
        with transaction.atomic():
            tasks.effect.enqueue_on_commit("a")
        inline_tasks.effect_on_commit.enqueue("b")
        run_tasks()
        self.assertEqual(sorted(effects()), ["a", "b", "b after"])
        run_tasks()
        self.assertEqual(len(effects()), 3)

    def test_inside_a_block_of_the_test_it_is_refused(self):
        result = tasks.add.enqueue(1, 2)
        for run in (run_tasks, lambda: run_task(result)):
            with (
                self.assertRaisesMessage(DurableTasksError, "inside a transaction.atomic() block"),
                transaction.atomic(),
            ):
                run()

    def test_one_job_alone(self):
        tasks.effect.enqueue("other")
        result = tasks.effect.enqueue("this")
        self.assertIs(run_task(result), result)
        self.assertEqual(result.status, TaskResultStatus.SUCCESSFUL)
        self.assertEqual(effects(), ["this"])

    def test_one_job_that_is_not_ready_is_told(self):
        result = tasks.add.enqueue(1, b=2)
        run_task(result)
        later = tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1)
        for each, text in (
            (result, "tests.app.tasks.add(1, b=2), SUCCESSFUL, queue 'default'"),
            (later, "tests.app.tasks.add(1), SCHEDULED for "),
        ):
            with self.assertRaisesMessage(DurableTasksError, f"not ready to run: {text}"):
                run_task(each)

    @override_settings(TASKS=tasks_setting(periodic=HOURLY))
    def test_periodic_tasks_that_are_due(self):
        with frozen_time(NOON) as clock:
            self.assertEqual(run_tasks(periodic=True), [])
            clock.tick(timedelta(hours=1))
            self.assertEqual(run_tasks(), [])
            [result] = run_tasks(periodic=True)
            self.assertEqual((effects(), result.job.schedule), (["tick"], "tick"))
            self.assertEqual(run_tasks(periodic=True), [])

    def test_a_periodic_task_that_can_not_be_made_is_told(self):
        for bad, error in (
            (Periodic("1h", task="tests.app.tasks.gone"), TaskNotFound),
            (Periodic("1h", task="tests.app.tasks.effect", args=[{1}]), NotSerializable),
            (Periodic("1h", task="tests.app.tasks.effect", priority=1000), InvalidTask),
        ):
            with (
                self.subTest(bad),
                override_settings(TASKS=tasks_setting(periodic={**HOURLY, "bad": bad})),
                self.assertRaises(error) as raised,
            ):
                run_tasks(periodic=True)
            self.assertEqual(
                raised.exception.__notes__, ['In TASKS["default"]["OPTIONS"]["periodic"]["bad"].']
            )

    def test_a_periodic_task_that_can_not_be_enqueued_is_told(self):
        bad = Periodic("1h", task="tests.app.tasks.effect", args=lambda: 1 / 0)
        with (
            override_settings(TASKS=tasks_setting(periodic={**HOURLY, "bad": bad})),
            frozen_time(NOON) as clock,
        ):
            self.assertEqual(run_tasks(periodic=True), [])
            clock.tick(timedelta(hours=1))
            with (
                self.assertLogs("durable_tasks", "ERROR"),
                self.assertRaisesMessage(DurableTasksError, "task 'bad' could not be enqueued"),
            ):
                run_tasks(periodic=True)

    async def test_async_tests_can_run_them(self):
        await tasks.async_effect.aenqueue("a")
        result = await tasks.effect.aenqueue("b")
        await arun_task(result)
        self.assertEqual(len(await arun_tasks(limit=5)), 1)
        self.assertEqual(await Effect.objects.acount(), 2)

    def test_backends_without_waiting_jobs_are_refused(self):
        for setting, text in (
            (tasks_setting(immediate=True), '["immediate"] is on'),
            (tasks_setting(from_django("dummy.DummyBackend")), "is a DummyBackend, not a durable"),
        ):
            for call in (
                run_tasks,
                enqueued_tasks,
                lambda: assert_enqueued(tasks.add),
                lambda: refute_enqueued(tasks.add),
                lambda: LiveRunner().run(),
            ):
                with (
                    override_settings(TASKS=setting),
                    self.assertRaisesMessage(ImproperlyConfigured, text),
                ):
                    call()

    def test_one_name_is_not_several(self):
        with self.assertRaisesMessage(TypeError, "such as ['mail']"):
            run_tasks(queue_names="mail")


class RunInTestCaseTests(RunContract, TestCase):
    def test_what_waits_for_a_commit_is_left_if_asked_for(self):
        tasks.effect.enqueue_on_commit("a")
        self.assertEqual(run_tasks(on_commit=False), [])
        self.assertEqual(len(run_tasks()), 1)

    def test_callbacks_may_fail_as_djangos_own_helper_has_it(self):
        called = []
        transaction.on_commit(lambda: 1 / 0, robust=True)
        transaction.on_commit(lambda: called.append(1))
        with self.assertLogs("durable_tasks", "ERROR"):
            run_tasks()
        self.assertEqual(called, [1])
        transaction.on_commit(lambda: 1 / 0)
        with self.assertRaises(ZeroDivisionError):
            run_tasks()

    def test_what_is_registered_after_it_is_captured(self):
        called = []
        transaction.on_commit(lambda: called.append(1))
        with self.captureOnCommitCallbacks() as callbacks:
            transaction.on_commit(lambda: called.append(2))
            run_tasks()
            transaction.on_commit(lambda: called.append(3))
        self.assertEqual(called, [1, 2])
        for callback in callbacks:
            callback()
        self.assertEqual(called, [1, 2, 3])

    def test_what_was_captured_is_not_enqueued_again(self):
        with self.captureOnCommitCallbacks(execute=True):
            tasks.effect.enqueue_on_commit("a")
        run_tasks()
        self.assertEqual(effects(), ["a"])


class ForAllTestsTests(TestCase):
    """What ``setUpTestData()`` leaves is the same for each test, whichever comes first."""

    called = 0

    @classmethod
    def setUpTestData(cls):
        def call():
            cls.called += 1

        tasks.effect.enqueue("ready")
        with cls.captureOnCommitCallbacks(execute=True):
            tasks.effect.enqueue_on_commit("captured")
        transaction.on_commit(call)
        tasks.effect.enqueue_on_commit("of no test")

    def check(self):
        run_tasks()
        self.assertEqual(sorted(effects()), ["captured", "ready"])
        self.assertEqual(self.called, 0)
        with self.assertRaises(AssertionError) as raised:
            assert_enqueued(tasks.effect)
        self.assertNotIn("commit", str(raised.exception))

    def test_once(self):
        self.check()

    def test_and_again(self):
        self.check()


class RunForAllTestsTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        tasks.effect.enqueue_on_commit("a")
        run_tasks()

    def test_it_has_run(self):
        self.assertEqual((effects(), run_tasks()), (["a"], []))


class RunInTransactionTestCaseTests(RunContract, WorkerTestCase):
    pass


class EnqueuedTests(TestCase):
    def test_what_waits_in_order(self):
        due = timezone.now() + timedelta(hours=1)
        added = tasks.add.enqueue(1)
        later = tasks.add.using(run_after=due).enqueue(2)
        echoed = tasks.echo.using(priority=9).enqueue("x")
        run_task(tasks.effect.enqueue("ended"))
        self.assertEqual([each.id for each in enqueued_tasks()], [added.id, later.id, echoed.id])
        self.assertEqual([each.id for each in enqueued_tasks(tasks.add)], [added.id, later.id])

    def test_what_is_left_out_is_not_compared(self):
        due = timezone.now() + timedelta(hours=1)
        one = tasks.echo.using(queue_name="mail", priority=3).enqueue((1, 2), word={"a": None})
        two = tasks.echo.using(run_after=due).enqueue()
        for facts, found in (
            ({}, [one, two]),
            ({"args": [[1, 2]]}, [one]),
            ({"args": ((1, 2),)}, [one]),  # as it is stored
            ({"kwargs": {"word": {"a": None}}}, [one]),
            ({"args": [], "kwargs": {}}, [two]),
            ({"queue_name": "mail", "priority": 3}, [one]),
            ({"run_after": None}, [one]),
            ({"run_after": due}, [two]),
            ({"count": 2}, [one, two]),
            ({"queue_name": "mail", "count": 1}, [one]),
            ({"queue_name": "no such", "count": 0}, []),
        ):
            with self.subTest(facts):
                results = assert_enqueued(tasks.echo, **facts)
                self.assertEqual([each.id for each in results], [each.id for each in found])
        for facts in (
            {"args": [1, 2]},
            {"args": []} | {"queue_name": "mail"},
            {"kwargs": {"word": {}}},
            {"priority": 4},
            {"run_after": due + timedelta(seconds=1)},
        ):
            with self.subTest(facts):
                refute_enqueued(tasks.echo, **facts)
                with self.assertRaises(AssertionError):
                    assert_enqueued(tasks.echo, **facts)

    def test_a_failure_shows_what_was_enqueued_instead(self):
        tasks.add.enqueue(1, b="two")
        tasks.echo.using(queue_name="mail", priority=5, run_after=local(2999, 1, 2)).enqueue()
        tasks.add.enqueue_on_commit(3)
        with self.assertRaises(AssertionError) as raised:
            assert_enqueued(tasks.add, args=[2], queue_name="mail")
        lines = str(raised.exception).splitlines()
        zone = "+00:00" if settings.USE_TZ else ""
        self.assertEqual(
            lines[:4],
            [
                "No job of tests.app.tasks.add with args=[2], queue_name='mail' waiting.",
                "2 jobs wait:",
                "  tests.app.tasks.add(1, b='two'), READY, queue 'default', priority 0",
                f"  tests.app.tasks.echo(), SCHEDULED for 2999-01-02 00:00:00{zone}, "
                "queue 'mail', priority 5",
            ],
        )
        self.assertEqual(
            lines[4:],
            [
                "Functions that wait for a commit: 1. captureOnCommitCallbacks(execute=True) and "
                "run_tasks() call them."
            ],
        )

    def test_a_failure_says_how_many_there_are(self):
        tasks.add.enqueue(1)
        with self.assertRaisesMessage(
            AssertionError, "1 job of tests.app.tasks.add waiting, not 2"
        ):
            assert_enqueued(tasks.add, count=2)
        with self.assertRaisesMessage(AssertionError, "No job of tests.app.tasks.echo waiting.\n"):
            assert_enqueued(tasks.echo)
        with self.assertRaises(AssertionError) as raised:
            assert_enqueued(tasks.echo)
        self.assertIn("\n1 job waits:\n", str(raised.exception))
        self.assertNotIn("commit", str(raised.exception))
        run_tasks()
        with self.assertRaisesMessage(AssertionError, "Nothing is enqueued."):
            assert_enqueued(tasks.add)
        tasks.add.get_backend().enqueue_many((tasks.add, [n], {}) for n in range(30))
        with self.assertRaisesMessage(AssertionError, "  ... and 10 more"):
            assert_enqueued(tasks.echo)

    def test_a_failure_is_shown_where_the_test_asserts(self):
        class Case(SimpleTestCase):
            databases = ("default",)

            def test(self):
                assert_enqueued(tasks.add)

        result = unittest.TestResult()
        Case("test")(result)
        [(_, text)] = result.failures
        self.assertIn("    assert_enqueued(tasks.add)\n", text)
        self.assertNotIn("enqueued.py", text)

    def test_a_result_shows_no_options_that_are_not_there(self):
        self.assertNotIn("UNSET", repr(tasks.add.enqueue(1)))

    def test_what_should_not_be_there_is_shown(self):
        refute_enqueued()
        tasks.add.enqueue(1)
        refute_enqueued(tasks.echo)
        refute_enqueued(tasks.add, args=[2])
        for call in (
            refute_enqueued,
            lambda: refute_enqueued(tasks.add),
            lambda: refute_enqueued(tasks.add, args=[1]),
        ):
            with self.assertRaisesMessage(AssertionError, "there is:\n  tests.app.tasks.add(1), "):
                call()

    def test_arguments_that_make_no_sense_are_told(self):
        with self.assertRaisesMessage(TypeError, "must be a task, made with @task"):
            assert_enqueued("tests.app.tasks.add")
        with self.assertRaisesMessage(TypeError, "such as ['word']"):
            assert_enqueued(tasks.echo, args="word")
        with self.assertRaisesMessage(NotSerializable, "args[0] is of type object"):
            assert_enqueued(tasks.echo, args=[object()])
        if settings.USE_TZ:
            for look in (assert_enqueued, refute_enqueued):
                with self.assertRaisesMessage(ValueError, "run_after must be an aware datetime"):
                    look(tasks.echo, run_after=datetime(2026, 3, 1, 12))


class FrozenTimeTests(TestCase):
    def test_it_is_what_the_engine_writes(self):
        with frozen_time(NOON) as clock:
            result = tasks.add.enqueue(1, 2)
            run_tasks()
            job = result.job
            noon = local(2026, 3, 1, 12)
            self.assertEqual(clock.now, noon)
            self.assertEqual([job.enqueued_at, job.run_at, job.started_at], [noon] * 3)
            clock.tick(90)
            self.assertEqual(tasks.add.enqueue(1).job.enqueued_at, noon + timedelta(seconds=90))
        self.assertGreater(tasks.add.enqueue(1).job.enqueued_at, noon + timedelta(seconds=90))

    def test_what_is_due_later_runs_when_it_is_due(self):
        with frozen_time(NOON) as clock:
            tasks.effect.using(run_after=clock.now + timedelta(hours=2)).enqueue("x")
            self.assertEqual(run_tasks(), [])
            clock.tick(timedelta(hours=2) - timedelta(seconds=1))
            self.assertEqual(run_tasks(), [])
            clock.tick()
            self.assertEqual(len(run_tasks()), 1)

    def test_a_retry_comes_when_it_is_due(self):
        with frozen_time(NOON) as clock:
            result = tasks.fail_for_an_hour.enqueue()
            run_tasks()
            self.assertEqual(result.job.run_at, local(2026, 3, 1, 13))
            clock.move_to("2026-03-01 13:00")
            run_task(result)
        self.assertEqual((result.status, result.attempts), (TaskResultStatus.FAILED, 2))

    def test_it_may_be_any_kind_of_time(self):
        for when in (
            NOON,
            datetime(2026, 3, 1, 12),
            datetime(2026, 3, 1, 12, tzinfo=UTC),
            "2026-03-01T14:00+02:00",
        ):
            with self.subTest(when), frozen_time(when) as clock:
                self.assertEqual(clock.now, local(2026, 3, 1, 12))
        before = timezone.now()
        with frozen_time() as clock:
            self.assertTrue(before <= clock.now <= timezone.now())
            with frozen_time(NOON) as inner:
                self.assertNotEqual(inner.now, clock.now)
            self.assertEqual(tasks.add.enqueue(1).job.enqueued_at, clock.now)

    def test_what_is_no_time_is_told(self):
        for when, error, text in (
            ("noon", ValueError, "'noon' is no time such as"),
            (12, TypeError, "must be a datetime or the text of one, not 12"),
        ):
            with self.assertRaisesMessage(error, text), frozen_time(when):
                pass
        with frozen_time() as clock, self.assertRaisesMessage(ValueError, "by"):
            clock.tick(-1)

    @frozen_time(NOON)
    def test_it_decorates_functions(self):
        self.assertEqual(tasks.add.enqueue(1).job.enqueued_at, local(2026, 3, 1, 12))

    def test_it_decorates_coroutine_functions(self):
        ran = []

        class Case(SimpleTestCase):
            @frozen_time(NOON)
            async def test(self):
                ran.append(clock.now())

        result = unittest.TestResult()
        Case("test")(result)
        self.assertTrue(result.wasSuccessful(), result.errors)
        self.assertEqual(ran, [local(2026, 3, 1, 12)])
        self.assertIsNone(clock.source)

    def test_it_decorates_no_classes_whose_tests_would_be_lost(self):
        with self.assertRaisesMessage(TypeError, "self.enterContext(frozen_time(...))"):
            frozen_time(NOON)(TestCase)

    def test_cancelling_and_retrying_write_it(self):
        with frozen_time(NOON) as clock:
            result = tasks.add.enqueue(1)
            clock.tick(60)
            result.cancel()
            self.assertEqual(result.job.finished_at, clock.now)
            result.retry()
            self.assertEqual(result.job.run_at, clock.now)


class LiveRunnerTests(RunnerTestCase):
    available_apps = WorkerTestCase.available_apps

    def test_it_runs_what_the_test_enqueues(self):
        self.assertTrue(self.runner.ready.is_set())
        results = [tasks.effect.enqueue("a"), tasks.async_effect.enqueue("b")]
        for result in results:
            self.assertIs(self.runner.wait_for(result), True)
            self.assertEqual(result.status, TaskResultStatus.SUCCESSFUL)
            self.assertEqual(result.worker_ids, [self.runner.worker_id])
        self.assertEqual(sorted(effects()), ["a", "b"])

    def test_a_call_can_be_submitted(self):
        result = self.runner.submit(tasks.add, 1, b=2)
        self.assertTrue(self.runner.wait_for(result, timeout=PATIENCE))
        self.assertEqual(result.return_value, 3)
        self.runner.submit(tasks.effect_then_more, "x", 3)
        self.assertIs(self.runner.wait(), True)
        self.assertEqual(len(effects()), 4)

    def test_waiting_for_a_time_says_whether_it_came(self):
        result = tasks.hold.enqueue("x")
        held("x")
        self.assertIs(self.runner.wait_for(result, timeout=0.01), False)
        self.assertIs(self.runner.wait(timeout=0.01), False)
        let_go()
        self.assertIs(self.runner.wait(), True)

    def test_its_clock_can_be_moved(self):
        with frozen_time(NOON) as clock:
            result = tasks.add.using(run_after=clock.now + timedelta(hours=2)).enqueue(1, 2)
            other = tasks.fail_for_an_hour.enqueue()
            self.assertTrue(self.runner.wait())
            self.assertEqual((result.job.status, other.job.attempts), ("SCHEDULED", 1))
            clock.tick(timedelta(hours=1))
            self.runner.wait_for(other)
            self.assertEqual((other.attempts, other.started_at), (2, local(2026, 3, 1, 12)))
            self.assertEqual(result.job.status, "SCHEDULED")
            clock.move_to("2026-03-01 14:00")
            self.runner.wait_for(result)
            self.assertEqual(result.started_at, local(2026, 3, 1, 14))


class SettingsOfRunnerTests(RunnerTestCase):
    available_apps = WorkerTestCase.available_apps
    workers = 2
    queue_names = ("mine",)

    def test_it_has_as_many_threads_and_only_these_queues(self):
        meeting = [tasks.meet.using(queue_name="mine").enqueue("settings", 2) for _ in range(2)]
        other = tasks.add.enqueue(1, 2)
        self.assertTrue(self.runner.wait())
        for result in meeting:
            self.runner.wait_for(result)
            self.assertEqual(result.return_value[1], 2)
        self.assertEqual(other.job.status, "READY")

    def test_what_nobody_runs_is_told(self):
        other = tasks.add.enqueue(1, 2)
        with (
            self.settings(),
            patience(0.1),
            self.assertRaisesMessage(
                AssertionError, "with a runner that serves these queues: mine.\n  tests.app"
            ),
        ):
            self.runner.wait_for(other)


def patience(seconds):
    from unittest import mock

    return mock.patch.object(testing.live, "PATIENCE", seconds)


@override_settings(TASKS=tasks_setting(periodic=HOURLY))
class PeriodicTasksTests(RunnerTestCase):
    available_apps = WorkerTestCase.available_apps
    periodic = True

    def test_they_follow_the_clock_of_the_test(self):
        eventually(PeriodicTask.objects.exists, "the runner has read the settings")
        with frozen_time() as clock:
            for hours in (1, 2):
                clock.tick(timedelta(hours=1))
                eventually(lambda hours=hours: len(effects("tick")) == hours, "it is fired")
        self.assertEqual(Job.objects.filter(schedule="tick").count(), 2)


@override_settings(TASKS=tasks_setting(periodic=HOURLY))
class NoPeriodicTasksTests(RunnerTestCase):
    available_apps = WorkerTestCase.available_apps

    def test_none_is_fired_unless_it_is_asked_for(self):
        with frozen_time() as clock:
            clock.tick(timedelta(days=1))
            self.runner.wait_for(self.runner.submit(tasks.effect, "mine"))
        self.assertEqual((effects(), PeriodicTask.objects.count()), (["mine"], 0))


class OfRunnerTests(WorkerTestCase):
    """How a runner of a test begins and ends."""

    def run_case(self, case):
        """Run the tests of a case and return what they came to."""
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
        return result

    def test_what_ends_the_runner_fails_the_test(self):
        class Case(RunnerTestCase):
            available_apps = WorkerTestCase.available_apps

            def test(self):
                self.runner.submit(tasks.add, 1)
                self.runner.wait()
                raise_in(self.runner)
                try:
                    self.runner.wait_for(tasks.add.enqueue(1))
                except AssertionError as error:
                    self.told = error
                else:
                    self.fail("waited for a runner that has ended")
                assert "has ended before:\n  tests.app.tasks.add(1)" in str(self.told)

        result = self.run_case(Case)
        self.assertEqual((len(result.errors), result.failures), (1, []), result)
        self.assertIn("RuntimeError: the loop broke", result.errors[0][1])

    def test_a_runner_that_does_not_start_fails_the_test(self):
        with live_runner(worker_id="taken"):

            class Case(RunnerTestCase):
                available_apps = None

                def setUp(self):
                    self.enterContext(live_runner(worker_id="taken"))

                def test(self):
                    raise AssertionError("must not run")

            case = Case("test")
            with self.assertRaisesMessage(Exception, "worker 'taken'"):
                case.setUp()

    def test_nothing_of_it_is_left(self):
        before = threading.active_count()
        with live_runner() as runner:
            runner.wait_for(tasks.effect.enqueue("x"))
        self.assertTrue(runner.finished.is_set())
        self.assertFalse(Worker.objects.exists())
        names = {thread.name for thread in threading.enumerate()}
        self.assertFalse({"test runner", "loop", "heartbeat", "announcer"} & names, names)
        self.assertLessEqual(threading.active_count(), before + 1)

    def test_one_that_does_not_stop_is_told(self):
        with (
            self.assertRaisesMessage(AssertionError, "What goes on:\n  tests.app.tasks.hold('x')"),
            live_runner() as runner,
        ):
            tasks.hold.enqueue("x")
            held("x")
            self.enterContext(patience(0.1))
        let_go()
        self.assertTrue(runner.finished.wait(PATIENCE))

    @override_settings(DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"])
    def test_a_database_that_the_test_does_not_name_is_told(self):
        class Case(RunnerTestCase):
            def test(self):
                pass

        with self.assertRaisesMessage(
            ImproperlyConfigured, "in the database 'other': add it to Case.databases"
        ):
            Case("test").setUp()


class NoRunnerTests(TestCase):
    def test_a_transaction_is_no_place_for_a_runner(self):
        with (
            self.assertRaisesMessage(DurableTasksError, "Use RunnerTestCase, TransactionTestCase"),
            live_runner(),
        ):
            self.fail("must not begin")
        self.assertTrue(connection.in_atomic_block)


def raise_in(runner):
    """Let the runner's loop end with an error."""

    def broken():
        raise RuntimeError("the loop broke")

    loop = runner._worker._loop
    loop._turn = broken
    loop.ring()
    assert runner.finished.wait(PATIENCE)


def time_machine():
    """Return the package that moves the clock of the whole process, or skip the test."""
    try:
        return import_module("time_machine")
    except ImportError as error:
        raise SkipTest("time-machine is not installed") from error


class TimeMachineTests(TestCase):
    def test_run_tasks_follows_it(self):
        with time_machine().travel("2026-03-01 12:00 +0000", tick=False) as traveller:
            tomorrow = timezone.now() + timedelta(days=1)
            result = tasks.add.using(run_after=tomorrow).enqueue(1, 2)
            self.assertEqual(run_tasks(), [])
            traveller.shift(timedelta(days=1))
            self.assertEqual([each.id for each in run_tasks()], [result.id])
            self.assertEqual(result.job.started_at, tomorrow)


class TimeMachineWithRunnerTests(RunnerTestCase):
    available_apps = WorkerTestCase.available_apps

    def test_the_runner_follows_it(self):
        machine = time_machine()
        tomorrow = timezone.now() + timedelta(days=1)
        result = tasks.add.using(run_after=tomorrow).enqueue(1, 2)
        self.runner.wait()
        self.assertEqual(result.job.status, "SCHEDULED")
        with machine.travel(datetime.now(UTC) + timedelta(days=2)):
            self.runner.wait_for(result)
        self.assertGreater(result.started_at, tomorrow)


@pytest.mark.any_database
class InMemoryTests(TestCase):
    """SQLite in memory, in a test run of its own."""

    def run_tests(self, name):
        done = subprocess.run(
            [sys.executable, "-m", "django", "test", name, "-v", "2"],
            cwd=ROOT,
            env=environment({"DJANGO_SETTINGS_MODULE": "tests.memory.settings"}),
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def test_a_runner_works_beside_the_test(self):
        self.assertIn("\nOK", self.run_tests("tests.memory.live"))

    def test_a_hundred_tests_run_their_tasks(self):
        self.assertIn("\nRan 100 tests", self.run_tests("tests.memory.hundred"))


@pytest.mark.any_database
class PytestPluginTests(TestCase):
    def pytest(self, *arguments, **variables):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "durable_tasks.pytest_plugin", *arguments],
            cwd=ROOT,
            env=environment({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}),
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )

    def test_the_fixtures_work(self):
        done = self.pytest("-p", "pytest_django.plugin", "tests/memory/fixtures.py")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("3 passed", done.stdout)

    def test_failures_are_shown_where_the_test_asserts(self):
        done = self.pytest("-p", "pytest_django.plugin", "tests/memory/failing.py")
        self.assertIn("3 failed", done.stdout, done.stderr)
        for line in ("tests/memory/failing.py:", "AssertionError: No job of tests.app.tasks.add"):
            self.assertIn(line, done.stdout)
        self.assertNotIn("durable_tasks/testing", done.stdout)

    def test_it_needs_no_django_while_nobody_asks_for_a_fixture(self):
        code = (
            "import sys, durable_tasks.pytest_plugin; "
            "print([name for name in sys.modules if 'django' in name])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual(done.stdout.strip(), "[]", done.stderr)

    def test_it_is_registered(self):
        with open(ROOT / "pyproject.toml", "rb") as file:
            points = tomllib.load(file)["project"]["entry-points"]["pytest11"]
        self.assertEqual(points, {"durable_tasks": "durable_tasks.pytest_plugin"})
        import_module(points["durable_tasks"])
