"""Tests beside a runner with a database in memory, to be run by a test."""

from django.db import connection
from django.test import TestCase

from durable_tasks.models import Job
from durable_tasks.testing import RunnerTestCase, run_tasks
from tests.app import tasks
from tests.app.models import Effect
from tests.helpers import effects


class BesideTests(RunnerTestCase):
    def setUp(self):
        Effect.objects.create(key="before the runner")
        super().setUp()

    def run_many(self):
        """Write at the same time as the runner, on connections of both."""
        self.assertEqual(effects(), ["before the runner"])
        results = [tasks.effect.enqueue(f"theirs {number}") for number in range(50)]
        for number in range(50):
            Effect.objects.create(key=f"mine {number}")
        for result in results:
            self.runner.wait_for(result)
            self.assertEqual(result.worker_ids, [self.runner.worker_id])
        self.assertEqual(len(effects("theirs")), 50)

    def test_both_write(self):
        self.run_many()

    def test_the_next_test_finds_nothing_of_it(self):
        self.run_many()


class AfterwardsTests(TestCase):
    def test_the_database_is_in_memory_again(self):
        self.assertTrue(connection.is_in_memory_db())
        self.assertFalse(Job.objects.exists())
        tasks.effect.enqueue("x")
        run_tasks()
        self.assertEqual(effects(), ["x"])


class LastTests(RunnerTestCase):
    def test_it_works_once_more(self):
        self.assertFalse(connection.is_in_memory_db())
        self.runner.submit(tasks.effect, "x")
        self.runner.wait()
        self.assertEqual(effects(), ["x"])
