"""The backend, as ``django.tasks`` and a project see it."""

import pickle
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from unittest import skipUnless

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import DatabaseError, IntegrityError, connection, connections, models, transaction
from django.db.models import Value
from django.test import SimpleTestCase, TestCase, override_settings
from django.utils import timezone

import durable_tasks
from durable_tasks import DatabaseBackend, DurableTask, DurableTaskResult, NotSerializable, task
from durable_tasks.compat import (
    EXPRESSION_IDS,
    InvalidTask,
    Task,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
    tasks_logger,
)
from durable_tasks.exceptions import DurableTasksError, TaskNotFound
from durable_tasks.models import Job

from .app import tasks
from .app.models import Effect
from .helpers import (
    ROOT,
    WorkerTestCase,
    broken_receiver,
    from_django,
    heard,
    run_worker,
    statuses,
    tasks_setting,
    work,
)

if EXPRESSION_IDS:
    from django.tasks import task as django_task
else:
    from django_tasks import task as django_task


def backend():
    return task_backends["default"]


class EnqueueTests(TestCase):
    def test_enqueue_inserts_one_ready_job_with_the_call(self):
        with self.assertNumQueries(1):
            result = tasks.echo.enqueue(1, "zwei", drei=[3.5, None, True])
        job = Job.objects.get()
        self.assertEqual(str(job.id), result.id)
        self.assertEqual(
            (job.status, job.task_path, job.args, job.kwargs, job.backend_name, job.queue_name),
            (
                "READY",
                "tests.app.tasks.echo",
                [1, "zwei"],
                {"drei": [3.5, None, True]},
                "default",
                "default",
            ),
        )
        self.assertEqual((job.attempts, job.lost, job.lease, job.worker_id), (0, 0, 0, None))
        self.assertEqual(job.run_at, job.enqueued_at)

    def test_the_result_of_enqueue_equals_the_one_read_back(self):
        result = tasks.echo.using(priority=5, queue_name="q").enqueue([1], word={"a": "ü"})
        self.assertIsInstance(result, DurableTaskResult)
        self.assertEqual(tasks.echo.get_result(result.id), result)
        self.assertEqual(result.status, TaskResultStatus.READY)
        self.assertFalse(result.is_finished)
        self.assertEqual((result.args, result.kwargs), ([[1]], {"word": {"a": "ü"}}))
        self.assertEqual((result.errors, result.worker_ids, result.attempts), ([], [], 0))

    async def test_the_async_twins_do_the_same(self):
        result = await tasks.async_add.aenqueue(1, b=2)
        self.assertEqual(await tasks.async_add.aget_result(result.id), result)
        job = await Job.objects.aget()
        job.status, job.return_value, job.attempts = "SUCCESSFUL", 3, 1
        await job.asave()
        await result.arefresh()
        self.assertEqual((result.return_value, result.attempts), (3, 1))
        for unknown in (str(uuid.uuid4()), "no id"):
            with self.assertRaises(TaskResultDoesNotExist):
                await tasks.async_add.aget_result(unknown)

    def test_refresh_reads_the_state_anew(self):
        result = tasks.add.enqueue(1, 2)
        Job.objects.update(
            status="RUNNING", attempts=4, worker_id="w", started_at=timezone.now(), errors=[]
        )
        result.refresh()
        self.assertEqual(result.status, TaskResultStatus.RUNNING)
        self.assertEqual((result.attempts, result.worker_ids), (4, ["w"]))
        self.assertIsNotNone(result.started_at)

    def test_unknown_and_malformed_ids_have_no_result(self):
        for unknown in (str(uuid.uuid4()), "", "1", "x" * 5000, "not-a-uuid", "\0", "é"):
            with self.subTest(id=unknown[:20]), self.assertRaises(TaskResultDoesNotExist):
                backend().get_result(unknown)

    def test_refresh_of_a_deleted_job_says_that_it_is_gone(self):
        result = tasks.add.enqueue(1, 2)
        Job.objects.all().delete()
        with self.assertRaises(TaskResultDoesNotExist):
            result.refresh()
        with self.assertRaises(TaskResultDoesNotExist):
            _ = result.job

    def test_the_result_of_another_task_is_a_mismatch(self):
        result = tasks.add.enqueue(1, 2)
        with self.assertRaises(TaskResultMismatch):
            tasks.echo.get_result(result.id)

    def test_the_results_job_is_the_row_read_anew(self):
        result = tasks.add.enqueue(1, 2)
        self.assertEqual(result.job, Job.objects.get())
        Job.objects.update(priority=9)
        self.assertEqual(result.job.priority, 9)

    def test_enqueue_is_part_of_the_callers_transaction(self):
        with self.assertRaises(KeyError), transaction.atomic():
            lost = tasks.add.enqueue(1, 2)
            self.assertEqual(Job.objects.count(), 1)
            raise KeyError
        self.assertFalse(Job.objects.exists())
        with self.assertRaises(TaskResultDoesNotExist):
            backend().get_result(lost.id)
        with transaction.atomic():
            kept = tasks.add.enqueue(1, 2)
        self.assertEqual(kept.job.status, "READY")

    def test_a_job_belongs_to_its_backends_alias(self):
        both = {**tasks_setting(), "second": tasks_setting()["default"]}
        with override_settings(TASKS=both):
            result = tasks.add.using(backend="second").enqueue(1, 2)
            self.assertEqual(result.job.backend_name, "second")
            self.assertEqual(task_backends["second"].get_result(result.id), result)
            with self.assertRaises(TaskResultDoesNotExist):
                task_backends["default"].get_result(result.id)

    def test_queues_of_the_settings_bound_the_queue_names(self):
        setting = tasks_setting()["default"]
        cases = (
            ({**setting, "QUEUES": ["a", "b"]}, {"a": True, "c": False}),
            ({**setting, "QUEUES": []}, {"anything at all": True}),
            ({"BACKEND": setting["BACKEND"]}, {"default": True, "a": False}),
        )
        for backend_setting, queues in cases:
            with override_settings(TASKS={"default": backend_setting}):
                for name, allowed in queues.items():
                    with self.subTest(setting=backend_setting.get("QUEUES"), name=name):
                        if allowed:
                            job = (
                                backend().enqueue(tasks.add.using(queue_name=name), [1, 2], {}).job
                            )
                            self.assertEqual(job.queue_name, name)
                        else:
                            with self.assertRaises(InvalidTask):
                                tasks.add.using(queue_name=name)

    def test_what_the_columns_cannot_hold_is_refused_at_once(self):
        self.assertEqual(tasks.add.using(queue_name="ü" * 100).enqueue(1).job.queue_name, "ü" * 100)
        with self.assertRaisesMessage(InvalidTask, "queue_name is 101 characters long"):
            tasks.add.using(queue_name="q" * 101).enqueue(1)
        with self.assertRaisesMessage(InvalidTask, "queue_name must not be empty"):
            tasks.add.using(queue_name="").enqueue(1)

        def long():
            pass

        long.__qualname__ = "l" * 250
        with self.assertRaisesMessage(InvalidTask, "path is "):
            task(long)

    def test_priorities_are_kept_and_bounded(self):
        for priority in (-100, 0, 100):
            self.assertEqual(tasks.add.using(priority=priority).enqueue(1).job.priority, priority)
        for priority in (-101, 101, 1.5):
            with self.subTest(priority=priority), self.assertRaises(InvalidTask):
                tasks.add.using(priority=priority).enqueue(1)

    def test_the_declared_queue_and_priority_are_the_jobs(self):
        job = tasks.effect_elsewhere.enqueue("x").job
        self.assertEqual((job.queue_name, job.priority), ("other", 7))

    def test_the_backend_says_what_it_supports(self):
        for ability in ("defer", "async_task", "get_result", "priority"):
            self.assertIs(getattr(DatabaseBackend, f"supports_{ability}"), True)


class RunAfterTests(TestCase):
    def test_a_future_job_is_scheduled_and_shown_as_ready(self):
        due = timezone.now() + timedelta(hours=1)
        result = tasks.add.using(run_after=due).enqueue(1, 2)
        job = result.job
        self.assertEqual((job.status, job.run_after, job.run_at), ("SCHEDULED", due, due))
        self.assertEqual(result.status, TaskResultStatus.READY)
        self.assertEqual(backend().get_result(result.id).status, TaskResultStatus.READY)
        self.assertEqual(backend().get_result(result.id).task.run_after, due)

    def test_a_job_whose_time_has_come_is_ready_and_ordered_by_it(self):
        due = timezone.now() - timedelta(hours=1)
        job = tasks.add.using(run_after=due).enqueue(1, 2).job
        self.assertEqual((job.status, job.run_after, job.run_at), ("READY", due, due))

    def test_an_aware_time_works_with_and_without_time_zones(self):
        due = datetime.now(UTC) + timedelta(hours=1)
        job = tasks.add.using(run_after=due).enqueue(1, 2).job
        self.assertEqual(job.status, "SCHEDULED")
        self.assertEqual(job.run_at, due if settings.USE_TZ else timezone.make_naive(due))

    @skipUnless(settings.USE_TZ, "about time zones")
    def test_a_naive_time_is_refused_where_time_zones_are_used(self):
        with self.assertRaises(InvalidTask):
            tasks.add.using(run_after=datetime(2030, 1, 1))


class ArgumentTests(TestCase):
    def test_what_json_cannot_carry_is_refused_by_name_and_nothing_is_inserted(self):
        loop = []
        loop.append(loop)
        cases = (
            (([float("nan")],), {}, "args[0][0] is nan"),
            ((float("inf"),), {}, "args[0] is inf"),
            ((), {"low": float("-inf")}, "kwargs['low'] is -inf"),
            ((1, "a\0b"), {}, "args[1] contains a NUL"),
            ((), {"text": {"deep": ["\ud800"]}}, "kwargs['text']['deep'][0] contains a lone"),
            (({"k\0": 1},), {}, "a key of args[0] contains a NUL"),
            (({"\udfff": 1},), {}, "a key of args[0] contains a lone"),
            ((), {"thing": object()}, "kwargs['thing'] is of type object"),
            ((), {"when": datetime(2030, 1, 1)}, "kwargs['when'] is of type datetime"),
            (({1, 2},), {}, "args[0] is of type set"),
            (({(1, 2): 3},), {}, "args[0] has a key of type tuple"),
            ((b"\xff",), {}, "args[0] is bytes that are not UTF-8"),
            ((loop,), {}, "args is nested too deeply"),
        )
        for args, kwargs, message in cases:
            with self.subTest(message=message):
                with self.assertRaisesMessage(NotSerializable, message):
                    tasks.echo.enqueue(*args, **kwargs)
                with self.assertRaisesMessage(NotSerializable, message):
                    backend().enqueue_many([(tasks.add, [1], {}), (tasks.echo, args, kwargs)])
        self.assertFalse(Job.objects.exists())

    def test_the_refusal_is_a_type_error_and_a_value_error(self):
        for kind in (TypeError, ValueError, DurableTasksError):
            with self.assertRaises(kind):
                tasks.echo.enqueue(float("nan"))

    def test_what_json_can_carry_comes_back_as_it_was(self):
        values = ["", "ü€😀", "\\u0000", "\x01\x7f", 0, -1, 2**53, 1.5, -0.5, True, None, [], {}]
        result = tasks.echo.enqueue(*values, nested={"a": [{"b": None}]})
        self.assertEqual(result.job.args, values)
        self.assertEqual(result.job.kwargs, {"nested": {"a": [{"b": None}]}})
        self.assertEqual(backend().get_result(result.id).args, values)

    def test_tuples_and_bytes_are_taken_as_djangos_api_takes_them(self):
        result = tasks.echo.enqueue((1, 2), b"abc")
        self.assertEqual(result.args, [[1, 2], "abc"])
        self.assertEqual(result.job.args, [[1, 2], "abc"])

    def test_keyword_names_must_be_text(self):
        with self.assertRaisesMessage(NotSerializable, "kwargs has a key that is no string: 1"):
            backend().enqueue_many([(tasks.echo, [], {1: 2})])


class EnqueueManyTests(TestCase):
    def test_results_come_in_the_order_of_the_calls(self):
        calls = [(tasks.add, [number], {"b": 1}) for number in range(250)]
        results = backend().enqueue_many(calls)
        self.assertEqual([result.args for result in results], [[n] for n in range(250)])
        rows = dict(Job.objects.values_list("id", "args"))
        self.assertEqual([rows[uuid.UUID(r.id)] for r in results], [[n] for n in range(250)])
        self.assertEqual([result.id for result in results], sorted(r.id for r in results))

    def test_a_hundred_jobs_are_one_insert(self):
        with self.assertNumQueries(1):
            backend().enqueue_many([(tasks.add, [1], {})] * 100)

    def test_tasks_may_be_mixed_and_come_from_a_generator(self):
        kinds = (tasks.add, tasks.async_add, tasks.effect_elsewhere)
        results = backend().enqueue_many((kind, [1], {}) for kind in kinds)
        self.assertEqual([r.task.module_path for r in results], [k.module_path for k in kinds])
        self.assertEqual([r.job.queue_name for r in results], ["default", "default", "other"])

    def test_no_calls_are_no_query(self):
        with self.assertNumQueries(0):
            self.assertEqual(backend().enqueue_many([]), [])

    def test_one_bad_call_inserts_nothing_and_announces_nothing(self):
        calls = [(tasks.add, [n], {}) for n in range(150)] + [(tasks.add, [float("nan")], {})]
        with heard(task_enqueued) as calls_heard, self.assertRaises(NotSerializable):
            backend().enqueue_many(calls)
        self.assertEqual((Job.objects.count(), calls_heard), (0, []))

    def test_what_the_database_refuses_halfway_inserts_nothing(self):
        made = []

        def first_ids_are_new():
            made.append(uuid.uuid4() if len(made) < 120 else made[0])
            return made[-1]

        with (
            override_settings(TASKS=tasks_setting(id_function=first_ids_are_new)),
            self.assertRaises(IntegrityError),
            transaction.atomic(),
        ):
            backend().enqueue_many([(tasks.add, [1], {})] * 150)
        self.assertEqual(len(made), 150)
        self.assertFalse(Job.objects.exists())

    async def test_the_async_form_does_the_same(self):
        results = await backend().aenqueue_many((tasks.add, [n], {}) for n in range(3))
        self.assertEqual([result.args for result in results], [[0], [1], [2]])
        self.assertEqual(await Job.objects.acount(), 3)


class EnqueuedSignalTests(TestCase):
    def test_every_job_is_announced_with_the_backends_class_as_sender(self):
        with heard(task_enqueued) as calls:
            one = tasks.add.enqueue(1)
            many = backend().enqueue_many([(tasks.add, [2], {}), (tasks.add, [3], {})])
        self.assertEqual(calls, [(DatabaseBackend, result) for result in [one, *many]])

    def test_a_subclass_is_the_sender_of_its_own_jobs(self):
        path = f"{__name__}.{OwnBackend.__name__}"
        with override_settings(TASKS=tasks_setting(path)), heard(task_enqueued) as calls:
            tasks.add.enqueue(1)
        self.assertEqual([sender for sender, _ in calls], [OwnBackend])

    def test_a_broken_receiver_is_logged_and_the_job_is_saved(self):
        with broken_receiver(task_enqueued), self.assertLogs("django.dispatch", "ERROR") as logs:
            result = tasks.add.enqueue(1)
        self.assertIn("a broken receiver", logs.output[0])
        self.assertEqual(result.job.status, "READY")

    def test_djangos_own_log_line_appears(self):
        with self.assertLogs(tasks_logger, "DEBUG") as logs:
            result = tasks.add.enqueue(1)
        self.assertEqual(len(logs.records), 1)
        self.assertIn(result.id, logs.output[0])


class OwnBackend(DatabaseBackend):
    """A project may extend ours."""


class WorkSignalTests(WorkerTestCase):
    def test_start_and_end_are_announced_with_the_backends_class_as_sender(self):
        good, bad = tasks.add.enqueue(1, 2), tasks.fail.enqueue()
        with (
            heard(task_started) as started,
            heard(task_finished) as finished,
            self.assertLogs(tasks_logger) as logs,
        ):
            work(worker_id="w")
        self.assertEqual(
            [(sender, result.id, result.status) for sender, result in started],
            [(DatabaseBackend, result.id, TaskResultStatus.RUNNING) for result in (good, bad)],
        )
        self.assertEqual(
            {(sender, result.id, result.status) for sender, result in finished},
            {
                (DatabaseBackend, good.id, TaskResultStatus.SUCCESSFUL),
                (DatabaseBackend, bad.id, TaskResultStatus.FAILED),
            },
        )
        told = {result.id: result for _, result in finished}
        for result in (good, bad):
            self.assertEqual(told[result.id], backend().get_result(result.id))
            self.assertEqual(told[result.id].worker_ids, ["w"])
        error = next(record for record in logs.records if record.levelname == "ERROR")
        self.assertIs(error.exc_info[0], ValueError)

    def test_broken_receivers_change_nothing_that_was_saved(self):
        good, bad = tasks.add.enqueue(1, 2), tasks.async_fail.enqueue()
        with (
            broken_receiver(task_started, task_finished),
            self.assertLogs("django.dispatch", "ERROR") as logs,
        ):
            work()
        self.assertEqual(len(logs.records), 4)
        self.assertEqual(statuses([good, bad]), ["SUCCESSFUL", "FAILED"])
        self.assertEqual(good.job.return_value, 3)


class IdFunctionTests(TestCase):
    fixed = uuid.UUID("01234567-89ab-7def-8123-456789abcdef")

    def enqueue_with(self, id_function):
        with override_settings(TASKS=tasks_setting(id_function=id_function)):
            result = tasks.add.enqueue(1, 2)
            self.assertEqual(backend().get_result(result.id), result)
        self.assertEqual(str(Job.objects.get().id), result.id)
        return uuid.UUID(result.id)

    def test_ids_are_time_ordered_by_default(self):
        ids = [uuid.UUID(tasks.add.enqueue(1).id) for _ in range(20)]
        self.assertEqual({id.version for id in ids}, {7})
        self.assertEqual(ids, sorted(ids))

    def test_a_callable(self):
        self.assertEqual(self.enqueue_with(lambda: self.fixed), self.fixed)

    def test_a_string_of_a_uuid(self):
        self.assertEqual(self.enqueue_with(lambda: str(self.fixed).upper()), self.fixed)

    def test_a_dotted_path(self):
        self.assertEqual(self.enqueue_with("uuid.uuid4").version, 4)

    def test_uuid7_by_name_on_every_python(self):
        self.assertEqual(self.enqueue_with("uuid.uuid7").version, 7)

    def test_anything_else_is_an_error_that_shows_it(self):
        for wrong in ("hello", 7, None, b"x"):
            with (
                self.subTest(wrong=wrong),
                override_settings(TASKS=tasks_setting(id_function=lambda wrong=wrong: wrong)),
                self.assertRaisesMessage(DurableTasksError, f"not {wrong!r}."),
            ):
                tasks.add.enqueue(1)
        self.assertFalse(Job.objects.exists())

    @skipUnless(EXPRESSION_IDS, "Django 6.0")
    def test_a_database_expression(self):
        made = self.enqueue_with(lambda: Value(self.fixed, output_field=models.UUIDField()))
        self.assertEqual(made, self.fixed)

    @skipUnless(EXPRESSION_IDS and connection.vendor == "postgresql", "Django 6.0, PostgreSQL")
    def test_random_uuid_of_postgresql(self):
        path = "django.contrib.postgres.functions.RandomUUID"
        self.assertEqual(self.enqueue_with(path).version, 4)
        with override_settings(TASKS=tasks_setting(id_function=path)):
            results = backend().enqueue_many([(tasks.add, [n], {}) for n in range(3)])
            self.assertEqual(len({result.id for result in results}), 3)
            self.assertEqual([result.job.args for result in results], [[0], [1], [2]])

    @skipUnless(not EXPRESSION_IDS, "Django 5.2")
    def test_an_expression_on_an_old_django_is_a_clear_error(self):
        expression = Value(self.fixed, output_field=models.UUIDField())
        cases = ((Value, ImproperlyConfigured), (lambda: expression, DurableTasksError))
        for function, error in cases:
            with (
                override_settings(TASKS=tasks_setting(id_function=function)),
                self.assertRaisesMessage(error, "need Django 6.0"),
            ):
                tasks.add.enqueue(1)


class DecoratorTests(TestCase):
    def test_ours_is_usable_bare_and_with_arguments(self):
        for made in (task(tasks.no_task), task()(tasks.no_task)):
            self.assertIsInstance(made, DurableTask)
            self.assertEqual((made.queue_name, made.priority), ("default", 0))
            self.assertEqual((made.on_worker_lost, made.takes_context), ("retry", False))
        made = task(queue_name="q", priority=3, on_worker_lost="fail")(tasks.no_task)
        self.assertEqual((made.queue_name, made.priority, made.on_worker_lost), ("q", 3, "fail"))

    def test_djangos_decorator_makes_our_tasks_too(self):
        made = django_task(tasks.no_task)
        self.assertIsInstance(made, DurableTask)
        self.assertEqual(made, task(tasks.no_task))
        made = django_task(queue_name="q")(tasks.no_task)
        self.assertEqual(made.enqueue().job.queue_name, "q")

    def test_an_unknown_option_is_a_type_error(self):
        with self.assertRaisesMessage(TypeError, "max_atempts"):
            task(max_atempts=3)(tasks.no_task)
        with self.assertRaises(TypeError):
            task(run_after=timezone.now())(tasks.no_task)

    def test_an_impossible_option_is_an_invalid_task(self):
        with self.assertRaisesMessage(InvalidTask, 'on_worker_lost must be "retry" or "fail"'):
            task(on_worker_lost="ignore")(tasks.no_task)
        for options, text in (
            ({"max_attempts": 0}, "max_attempts must be a whole number above 0, not 0."),
            ({"max_attempts": True}, "max_attempts must be a whole number above 0, not True."),
            ({"backoff": 5}, "backoff must be a callable, not 5."),
            ({"retry_on": "ValueError"}, "retry_on must be exception classes, not 'ValueError'."),
            ({"give_up_on": (int,)}, "give_up_on must be exception classes"),
            ({"timeout": 0}, "timeout must be above 0."),
            ({"timeout": "5"}, "timeout must be seconds or a timedelta, not '5'."),
        ):
            with self.subTest(options), self.assertRaisesMessage(InvalidTask, text):
                task(**options)(tasks.no_task)
        with self.assertRaisesMessage(InvalidTask, "atomic=True is for sync tasks"):
            task(atomic=True)(tasks.no_async_task)
        self.assertEqual(task(retry_on=KeyError)(tasks.no_task).retry_on, (KeyError,))

    def test_only_functions_at_module_level_are_tasks(self):
        with self.assertRaises(InvalidTask):
            task(lambda: None)
        with self.assertRaises(InvalidTask):
            task(takes_context=True)(tasks.no_task)

    def test_using_keeps_our_options(self):
        made = tasks.hold_once.using(priority=5, queue_name="q")
        self.assertIsInstance(made, DurableTask)
        self.assertEqual(
            (made.on_worker_lost, made.priority, tasks.hold_once.priority), ("fail", 5, 0)
        )

    def test_a_task_can_still_be_called(self):
        self.assertEqual(tasks.add.call(1, b=2), 3)
        self.assertEqual(tasks.async_add.call(1, b=2), 3)

    @skipUnless(hasattr(Task, "_reconstruct"), "Django 6.1")
    def test_a_task_survives_pickling(self):
        made = tasks.hold_once.using(priority=5)
        self.assertEqual(pickle.loads(pickle.dumps(made)), made)

    @override_settings(TASKS=tasks_setting(from_django("immediate.ImmediateBackend")))
    def test_our_tasks_run_on_djangos_immediate_backend(self):
        self.assertIsInstance(task(on_worker_lost="fail")(tasks.no_task), DurableTask)
        self.assertEqual(tasks.add.enqueue(1, 2).return_value, 3)
        result = tasks.async_describe.enqueue("w")
        self.assertEqual(result.return_value["word"], "w")
        self.assertFalse(Job.objects.exists())

    @override_settings(TASKS=tasks_setting(from_django("dummy.DummyBackend")))
    def test_our_tasks_go_to_djangos_dummy_backend(self):
        result = tasks.add.using(priority=3).enqueue(1, 2)
        self.assertEqual([kept.id for kept in backend().results], [result.id])
        self.assertFalse(Job.objects.exists())


class LostTaskTests(WorkerTestCase):
    """Jobs whose task is not what it was."""

    def make(self, path, **changes):
        result = tasks.echo.enqueue(**changes)
        Job.objects.filter(id=result.id).update(task_path=path)
        return backend().get_result(result.id)

    def test_the_result_of_a_removed_task_can_still_be_read(self):
        result = self.make("tests.app.tasks.removed", word=1)
        self.assertEqual(result.task.module_path, "tests.app.tasks.removed")
        self.assertEqual((result.kwargs, result.status), ({"word": 1}, TaskResultStatus.READY))
        with self.assertRaisesMessage(TaskNotFound, "renamed or removed"):
            result.task.func()
        with self.assertRaises(TaskResultMismatch):
            tasks.echo.get_result(result.id)

    def test_corrupt_rows_fail_with_a_clear_error_and_nothing_else_does(self):
        cases = {
            "tests.app.tasks.removed": "can't be imported",
            "no_such_package.task": "can't be imported",
            "nodots": "can't be imported",
            "": "can't be imported",
            "tests.app.explodes.task": "RuntimeError: boom at import",
            "tests.app.exits.task": "SystemExit: this is a script",
            "tests.app.tasks.no_task": "is no task but function: is @task missing?",
            "tests.app.models.Effect": "is no task but ModelBase",
        }
        results = {path: self.make(path) for path in cases}
        too_many = tasks.add.enqueue(1, 2, 3)
        unknown = tasks.add.enqueue(1, c=2)
        no_list = tasks.add.enqueue(1)
        Job.objects.filter(id=no_list.id).update(args={"a": 1})
        good = tasks.add.enqueue(1, 2)
        work()
        for path, message in cases.items():
            with self.subTest(path=path):
                results[path].refresh()
                self.assertEqual(results[path].status, TaskResultStatus.FAILED)
                (error,) = results[path].errors
                self.assertIs(error.exception_class, TaskNotFound)
                self.assertIn(message, error.traceback)
        for result in (too_many, unknown, no_list):
            result.refresh()
            self.assertEqual([e.exception_class for e in result.errors], [TypeError])
        self.assertEqual(statuses([good]), ["SUCCESSFUL"])

    def test_a_job_with_yesterdays_options_runs_with_them(self):
        # What is valid now is asked at enqueue, not when the job runs.
        result = tasks.describe.using(queue_name="gone", priority=9).enqueue("w")
        setting = tasks_setting()
        setting["default"]["QUEUES"] = ["default"]
        with override_settings(TASKS=setting):
            self.assertEqual(backend().get_result(result.id).task.queue_name, "gone")
            work(None)
            result.refresh()
        self.assertEqual(result.return_value["queue"], "gone")
        self.assertEqual(result.return_value["priority"], 9)


class OptionErrorTests(TestCase):
    databases = ("default", "other")  # the checks look at both

    def test_a_wrong_option_is_named_at_enqueue_and_by_the_checks(self):
        cases = (
            ({"worker_timeot": 3}, '["worker_timeot"] is not an option. Did you mean "worker'),
            ({"worker_timeout": "soon"}, '["worker_timeout"] must be a number of seconds'),
            ({"id_function": "no.such"}, '["id_function"] can\'t be imported'),
        )
        for options, text in cases:
            message = f'TASKS["default"]["OPTIONS"]{text}'
            with self.subTest(options=options), override_settings(TASKS=tasks_setting(**options)):
                with self.assertRaisesMessage(ImproperlyConfigured, message):
                    tasks.add.enqueue(1)
                with self.assertRaisesMessage(SystemCheckError, "durable_tasks.E002"):
                    call_command("check")
                with self.assertRaisesMessage(SystemCheckError, message):
                    call_command("check")
        self.assertFalse(Job.objects.exists())


@override_settings(DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"])
class SecondDatabaseTests(WorkerTestCase):
    databases = ("default", "other")
    env = {"DURABLE_TASKS_TEST_ROUTERS": "tests.app.router.JobsElsewhere"}

    def test_a_job_goes_its_whole_way_in_a_second_database(self):
        result = tasks.describe.enqueue("w")
        side = tasks.effect.enqueue("from the second database")
        self.assertTrue(Job.objects.using("other").filter(id=result.id).exists())
        self.assertFalse(Job.objects.using("default").exists())
        done = run_worker("--worker-id", "w2", env=self.env)
        self.assertIn("Worker w2 has stopped.", done.stderr)
        result.refresh()
        self.assertEqual(result.return_value["word"], "w")
        self.assertEqual(result.worker_ids, ["w2"])
        self.assertEqual(side.job.status, "SUCCESSFUL")
        # The task's own writes went where its models live.
        self.assertEqual(Effect.objects.using("default").count(), 1)

    def test_enqueue_is_part_of_the_second_databases_transaction(self):
        with self.assertRaises(KeyError), transaction.atomic(using="other"):
            tasks.add.enqueue(1)
            raise KeyError
        with self.assertRaises(KeyError), transaction.atomic(using="default"):
            tasks.add.enqueue(2)
            raise KeyError
        self.assertEqual([job.args for job in Job.objects.using("other").all()], [[2]])

    def test_many_at_once_go_there_in_one_transaction(self):
        made = [uuid.uuid4()] * 150
        with (
            override_settings(TASKS=tasks_setting(id_function=made.pop)),
            self.assertRaises(DatabaseError),
        ):
            backend().enqueue_many([(tasks.add, [n], {}) for n in range(150)])
        self.assertFalse(Job.objects.using("other").exists())
        backend().enqueue_many([(tasks.add, [n], {}) for n in range(150)])
        self.assertEqual(Job.objects.using("other").count(), 150)
        self.assertFalse(connections["other"].in_atomic_block)


class PublicApiTests(SimpleTestCase):
    def test_every_public_name_is_there_and_nothing_else_is(self):
        for name in durable_tasks.__all__:
            value = getattr(durable_tasks, name)
            if callable(value):
                self.assertEqual(value.__name__, name)
        with self.assertRaisesMessage(AttributeError, "has no attribute 'no_such_name'"):
            _ = durable_tasks.no_such_name

    def test_importing_the_package_loads_no_model(self):
        code = (
            "import sys, durable_tasks; assert 'django' not in sys.modules;"
            "from durable_tasks import DatabaseBackend, DurableTaskResult, task;"
            "assert 'durable_tasks.models' not in sys.modules;"
            "assert task and DatabaseBackend and DurableTaskResult"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
