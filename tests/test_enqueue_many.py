"""Many jobs in one call: as it is done on every database."""

import uuid
from unittest import mock, skipUnless

from django.db import IntegrityError, connection, models, transaction
from django.db.models import Value
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from durable_tasks import DatabaseBackend, NotSerializable
from durable_tasks.compat import EXPRESSION_IDS, InvalidTask, task_backends, task_enqueued
from durable_tasks.models import Job
from durable_tasks.store.inserting import INSERT_CHUNK

from .app import tasks
from .helpers import WorkerTestCase, heard, tasks_setting, work

# More than one way of inserting is worth while for, and more than are held at once.
MANY = INSERT_CHUNK + 300


def backend():
    return task_backends["default"]


class ManyTests(TestCase):
    def test_results_are_those_of_the_calls_in_order(self):
        calls = ((tasks.add, [n], {"b": str(n)}) for n in range(MANY))
        results = backend().enqueue_many(calls)
        rows = {str(job.id): (job.args, job.kwargs) for job in Job.objects.all()}
        self.assertEqual(len(rows), MANY)
        expected = [([n], {"b": str(n)}) for n in range(MANY)]
        self.assertEqual([rows[result.id] for result in results], expected)
        self.assertEqual([(result.args, result.kwargs) for result in results], expected)
        for result in (results[0], results[-1]):
            self.assertEqual(backend().get_result(result.id), result)

    def test_every_way_of_giving_the_calls_is_taken(self):
        calls = [(tasks.add, (n,), {}) for n in range(3)]
        for given in (calls, tuple(calls), iter(calls), dict.fromkeys(range(3), 0)):
            if isinstance(given, dict):
                given = map(calls.__getitem__, given)
            with self.subTest(type(given).__name__):
                self.assertEqual([r.args for r in backend().enqueue_many(given)], [[0], [1], [2]])

    def test_a_generator_never_has_to_hold_more_than_a_chunk(self):
        ahead = []

        def calls():
            for number in range(2 * INSERT_CHUNK):
                if number % INSERT_CHUNK == 0:
                    ahead.append(number - Job.objects.count())
                yield tasks.add, [number], {}

        backend().enqueue_many(calls())
        self.assertEqual(ahead, [0, 0])

    def test_calls_may_be_made_from_a_query(self):
        backend().enqueue_many([(tasks.add, [n], {}) for n in range(MANY)])
        found = Job.objects.order_by("id").values_list("args", flat=True)
        more = backend().enqueue_many((tasks.add, args, {}) for args in found.iterator())
        self.assertEqual([result.args for result in more], [[n] for n in range(MANY)])

    def test_nothing_of_a_result_is_made_before_it_is_looked_at(self):
        with mock.patch("durable_tasks.results.DurableTaskResult.__post_init__") as made:
            results = backend().enqueue_many([(tasks.add, [n], {}) for n in range(200)])
            self.assertEqual(made.call_count, 0)
            self.assertEqual(results[7].args, [7])
            self.assertEqual(made.call_count, 1)
        with self.assertNumQueries(0):
            self.assertEqual(results[8].args, [8])

    def test_a_result_shows_what_was_stored_whatever_became_of_the_arguments(self):
        values = [1]
        [result] = backend().enqueue_many([(tasks.echo, [values], {})])
        values.append(2)
        self.assertEqual(result.args, [[1]])

    def test_a_refreshed_result_keeps_its_state_when_the_rest_is_looked_at(self):
        results = [tasks.add.enqueue(1), *backend().enqueue_many([(tasks.add, [1], {})])]
        Job.objects.update(status="SUCCESSFUL", return_value=7)
        for result in results:
            result.refresh()
            self.assertEqual(result.args, [1])
            self.assertEqual((result.status, result.return_value), ("SUCCESSFUL", 7))

    @skipUnless(EXPRESSION_IDS, "Django 6.0")
    def test_ids_that_are_expressions_may_be_mixed_with_others(self):
        ids = [uuid.uuid4() for _ in range(6)]
        made = [Value(id, output_field=models.UUIDField()) if id.int % 2 else id for id in ids]
        with override_settings(TASKS=tasks_setting(id_function=iter(made).__next__)):
            results = backend().enqueue_many([(tasks.add, [n], {}) for n in range(6)])
        self.assertEqual([result.id for result in results], [str(id) for id in ids])
        stored = dict(Job.objects.values_list("id", "args"))
        self.assertEqual([stored[id] for id in ids], [[n] for n in range(6)])


class AllOrNoneTests(WorkerTestCase):
    """In real transactions, not in that of a test."""

    def bad_calls(self, number):
        for n in range(number):
            yield tasks.add, [n], {}
        yield tasks.add, [float("nan")], {}

    def test_a_bad_call_late_in_a_generator_inserts_and_announces_nothing(self):
        for number in (0, 150, 1500, INSERT_CHUNK + 1):
            with self.subTest(number), heard(task_enqueued) as calls:
                with self.assertRaises(NotSerializable):
                    backend().enqueue_many(self.bad_calls(number))
                self.assertEqual((Job.objects.count(), calls), (0, []))

    def test_a_transaction_that_catches_the_error_goes_on(self):
        for number in (0, 150, 1500, INSERT_CHUNK + 1):
            with self.subTest(number), transaction.atomic():
                kept = tasks.add.enqueue(1)
                with self.assertRaises(NotSerializable):
                    backend().enqueue_many(self.bad_calls(number))
                self.assertEqual(str(Job.objects.get().id), kept.id)
                transaction.set_rollback(True)

    def test_what_the_database_refuses_in_a_late_chunk_inserts_nothing(self):
        first = uuid.uuid4()
        ids = iter([first, *(uuid.uuid4() for _ in range(INSERT_CHUNK)), first])
        with (
            override_settings(TASKS=tasks_setting(id_function=ids.__next__)),
            self.assertRaises(IntegrityError),
        ):
            backend().enqueue_many([(tasks.add, [n], {}) for n in range(INSERT_CHUNK + 2)])
        self.assertFalse(Job.objects.exists())

    def test_many_are_rolled_back_with_the_callers_transaction(self):
        with self.assertRaises(KeyError), transaction.atomic():
            backend().enqueue_many([(tasks.add, [n], {}) for n in range(MANY)])
            self.assertEqual(Job.objects.count(), MANY)
            raise KeyError
        self.assertFalse(Job.objects.exists())

    def test_many_are_run(self):
        backend().enqueue_many([(tasks.add, [n], {"b": 1}) for n in range(1200)])
        work()
        values = Job.objects.successful().values_list("return_value", flat=True)
        self.assertEqual(sorted(values), list(range(1, 1201)))


class ManySignalsTests(TestCase):
    def test_each_job_is_announced_after_all_were_inserted(self):
        seen = []

        def receiver(sender, task_result, **kwargs):
            if task_result.args in ([0], [MANY - 1]):
                seen.append((sender, task_result.id, Job.objects.count()))

        task_enqueued.connect(receiver)
        self.addCleanup(task_enqueued.disconnect, receiver)
        results = backend().enqueue_many((tasks.add, [n], {}) for n in range(MANY))
        ends = (results[0], results[-1])
        self.assertEqual(seen, [(DatabaseBackend, result.id, MANY) for result in ends])


class ValidationTests(TestCase):
    """What was found valid is not looked at again, and nothing else gets through."""

    def test_a_valid_task_does_not_make_another_one_valid(self):
        tasks.add.enqueue(1)
        made = tasks.add.using(priority=3)
        for name, value in (("queue_name", "q" * 101), ("priority", 101), ("takes_context", True)):
            bad = made.using(priority=4)
            object.__setattr__(bad, name, value)  # as if it were made for another backend
            with self.subTest(name), self.assertRaises(InvalidTask):
                backend().enqueue(bad, [1], {})
        self.assertFalse(Job.objects.filter(priority__gt=0).exists())

    def test_a_backend_of_the_projects_own_is_asked_for_each_job(self):
        path = f"{__name__}.{PickyBackend.__name__}"
        with override_settings(TASKS=tasks_setting(path)):
            tasks.add.enqueue(1)
            with (
                mock.patch.object(PickyBackend, "closed", True),
                self.assertRaisesMessage(InvalidTask, "closed"),
            ):
                tasks.add.enqueue(1)

    def test_what_is_remembered_is_bounded(self):
        with mock.patch("durable_tasks.backend.MAX_VALIDATED", 10):
            for number in range(25):
                tasks.add.using(queue_name=f"q{number}").enqueue(1)
                self.assertLessEqual(len(backend()._validated), 10)


class PickyBackend(DatabaseBackend):
    closed = False

    def validate_task(self, task):
        super().validate_task(task)
        if self.closed:
            raise InvalidTask("closed")


@skipUnless(connection.vendor == "postgresql", "PostgreSQL")
class CopyTests(TestCase):
    def test_a_thousand_jobs_are_copied(self):
        for number, statement in ((999, "INSERT"), (1000, "COPY"), (INSERT_CHUNK, "COPY")):
            with self.subTest(number), CaptureQueriesContext(connection) as queries:
                backend().enqueue_many((tasks.add, [n], {}) for n in range(number))
            verbs = {query["sql"].split()[0] for query in queries}
            self.assertEqual(verbs & {"INSERT", "COPY"}, {statement})

    def test_a_small_rest_of_a_generator_is_inserted(self):
        with CaptureQueriesContext(connection) as queries:
            backend().enqueue_many((tasks.add, [n], {}) for n in range(INSERT_CHUNK + 1))
        verbs = [query["sql"].split()[0] for query in queries]
        self.assertEqual([verb for verb in verbs if verb in ("INSERT", "COPY")], ["COPY", "INSERT"])
        self.assertEqual(Job.objects.count(), INSERT_CHUNK + 1)

    @skipUnless(EXPRESSION_IDS, "Django 6.0")
    def test_never_with_ids_that_the_database_makes(self):
        path = "django.contrib.postgres.functions.RandomUUID"
        with (
            override_settings(TASKS=tasks_setting(id_function=path)),
            CaptureQueriesContext(connection) as queries,
        ):
            results = backend().enqueue_many((tasks.add, [n], {}) for n in range(1001))
        self.assertFalse(any("COPY" in query["sql"] for query in queries))
        self.assertEqual(len({result.id for result in results}), 1001)
