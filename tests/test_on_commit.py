"""``enqueue_on_commit()``: jobs that must not be there before something else is."""

import uuid
from contextlib import contextmanager
from datetime import timedelta

from django.db import IntegrityError, connections, transaction
from django.test import TestCase, override_settings
from django.utils import timezone
from django.utils.connection import ConnectionDoesNotExist

from durable_tasks import NotSerializable, task
from durable_tasks.compat import EXPRESSION_IDS, task_backends, task_enqueued
from durable_tasks.models import Job

from .app import tasks
from .app.models import Effect
from .helpers import WorkerTestCase, from_django, heard, tasks_setting

if EXPRESSION_IDS:
    from django.tasks import task as django_task
else:
    from django_tasks import task as django_task


def enqueued(using=None):
    """Return the arguments of all jobs."""
    return list(Job.objects.using(using).order_by("enqueued_at").values_list("args", flat=True))


@contextmanager
def rolled_back(alias):
    """A transaction, or a part of one, that comes to nothing."""
    with transaction.atomic(using=alias):
        yield
        transaction.set_rollback(True, using=alias)


class OneDatabaseTests(WorkerTestCase):
    def test_the_job_is_there_once_the_transaction_is(self):
        with heard(task_enqueued) as calls:
            with transaction.atomic():
                with transaction.atomic():
                    self.assertIsNone(tasks.add.enqueue_on_commit(1, b=2))
                self.assertEqual((enqueued(), calls), ([], []))
            self.assertEqual([result.args for _, result in calls], [[1]])
        job = Job.objects.get()
        self.assertEqual((job.args, job.kwargs, job.status), ([1], {"b": 2}, "READY"))

    def test_a_rollback_leaves_no_job(self):
        with self.assertRaises(KeyError), transaction.atomic():
            tasks.add.enqueue_on_commit(1)
            raise KeyError
        with transaction.atomic():
            with self.assertRaises(KeyError), transaction.atomic():
                tasks.add.enqueue_on_commit(2)
                raise KeyError
            tasks.add.enqueue_on_commit(3)
        self.assertEqual(enqueued(), [[3]])

    def test_outside_a_transaction_it_is_there_at_once(self):
        self.assertIsNone(tasks.add.enqueue_on_commit(1))
        tasks.add.enqueue_on_commit(2, using="default")
        self.assertEqual(enqueued(), [[1], [2]])

    def test_what_is_wrong_with_the_call_is_raised_by_the_call(self):
        with transaction.atomic():
            with self.assertRaises(NotSerializable):
                tasks.add.enqueue_on_commit(float("nan"))
            Effect.objects.create(key="saved")
        self.assertTrue(Effect.objects.exists())
        self.assertEqual(enqueued(), [])

    def test_the_arguments_are_those_of_the_call(self):
        values = [1]
        with transaction.atomic():
            tasks.echo.enqueue_on_commit(values)
            values.append(2)
        self.assertEqual(enqueued(), [[[1]]])

    def test_the_times_are_those_of_the_commit(self):
        with transaction.atomic():
            tasks.add.enqueue_on_commit(1)
            before = timezone.now()
        job = Job.objects.get()
        self.assertGreaterEqual(job.enqueued_at, before)
        self.assertEqual(job.run_at, job.enqueued_at)

    def test_a_time_that_was_asked_for_is_kept(self):
        due = timezone.now() + timedelta(hours=1)
        with transaction.atomic():
            tasks.add.using(run_after=due).enqueue_on_commit(1)
        job = Job.objects.get()
        self.assertEqual((job.status, job.run_after, job.run_at), ("SCHEDULED", due, due))

    def test_what_goes_wrong_at_the_insert_is_raised_where_the_transaction_ends(self):
        taken = uuid.uuid4()
        with override_settings(TASKS=tasks_setting(id_function=lambda: taken)):
            tasks.add.enqueue(1)
            with self.assertRaises(IntegrityError), transaction.atomic():
                Effect.objects.create(key="saved")
                tasks.add.enqueue_on_commit(2)
        # It is committed by then, as Django documents for on_commit().
        self.assertTrue(Effect.objects.filter(key="saved").exists())
        self.assertEqual(enqueued(), [[1]])

    def test_djangos_decorator_makes_tasks_that_can_do_it(self):
        with transaction.atomic():
            django_task(tasks.no_task).enqueue_on_commit()
            self.assertEqual(enqueued(), [])
        self.assertEqual(enqueued(), [[]])

    @override_settings(TASKS=tasks_setting(from_django("dummy.DummyBackend")))
    def test_it_waits_on_other_backends_as_well(self):
        results = task_backends["default"].results
        values = [1]
        with transaction.atomic():
            tasks.echo.enqueue_on_commit(values, word="w")
            values.append(2)
            self.assertEqual(results, [])
        self.assertEqual([(r.args, r.kwargs) for r in results], [([[1]], {"word": "w"})])
        with self.assertRaises(TypeError), transaction.atomic():
            tasks.echo.enqueue_on_commit(object())

    def test_an_argument_of_the_same_name_is_not_taken_for_a_database(self):
        with self.assertRaisesMessage(TypeError, 'takes_using() has an argument "using"'):
            task(takes_using).enqueue_on_commit(using="default")
        task(takes_using).enqueue_on_commit("default")
        self.assertEqual(enqueued(), [["default"]])


def takes_using(using):
    pass


class InTestCaseTests(TestCase):
    def test_djangos_own_helper_runs_it(self):
        with self.captureOnCommitCallbacks(execute=True):
            tasks.add.enqueue_on_commit(1)
            self.assertEqual(enqueued(), [])
        self.assertEqual(enqueued(), [[1]])


@override_settings(DATABASE_ROUTERS=["tests.app.router.JobsElsewhere"])
class JobsElsewhereTests(WorkerTestCase):
    """The rows that a job is about are in ``default``; jobs are in ``other``."""

    databases = ("default", "other")

    def test_it_waits_for_the_transaction_that_is_open(self):
        for alias in ("default", "other"):
            Job.objects.using("other").all().delete()
            with self.subTest(alias), transaction.atomic(using=alias):
                tasks.add.enqueue_on_commit(1)
                self.assertEqual(enqueued("other"), [])
            self.assertEqual(enqueued("other"), [[1]])
        self.assertEqual(enqueued("default"), [])

    def test_of_two_it_waits_for_both(self):
        for first, second in (("default", "other"), ("other", "default")):
            Job.objects.using("other").all().delete()
            with self.subTest(first), transaction.atomic(using=first):
                with transaction.atomic(using=second):
                    tasks.add.enqueue_on_commit(1)
                self.assertEqual(enqueued("other"), [])
            self.assertEqual(enqueued("other"), [[1]])

    def test_a_rollback_of_either_leaves_no_job(self):
        def atomic(alias, roll_back=False):
            return rolled_back(alias) if roll_back else transaction.atomic(using=alias)

        for outer, inner in (("default", "other"), ("other", "default")):
            with self.subTest("inner", of=outer), atomic(outer), atomic(inner, True):
                tasks.add.enqueue_on_commit(1)
            with self.subTest("outer", of=outer), atomic(outer, True), atomic(inner):
                tasks.add.enqueue_on_commit(1)
            part = atomic(outer, True)
            with self.subTest("a part", of=outer), atomic(outer), atomic(inner), part:
                tasks.add.enqueue_on_commit(1)
        self.assertEqual(enqueued("other"), [])

    def test_a_database_that_is_named_is_the_one_to_wait_for(self):
        with transaction.atomic(using="other"), transaction.atomic(using="default"):
            tasks.add.enqueue_on_commit(1, using="default")
        with transaction.atomic(using="default"):
            tasks.add.enqueue_on_commit(2, using="other")  # has none open
            self.assertEqual(enqueued("other"), [[1], [2]])
            with self.assertRaises(ConnectionDoesNotExist):
                tasks.add.enqueue_on_commit(3, using="no such")
        self.assertFalse(connections["other"].in_atomic_block)
