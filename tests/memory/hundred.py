"""A hundred tests that run tasks, to be run by a test."""

from django.test import TestCase

from durable_tasks.testing import assert_enqueued, run_tasks
from tests.app import tasks
from tests.helpers import effects


class HundredTests(TestCase):
    pass


def run_some(self):
    tasks.effect_then_more.enqueue("x", 1)
    tasks.fail.enqueue()
    assert_enqueued(tasks.fail, count=1)
    self.assertEqual(len(run_tasks()), 3)
    self.assertEqual(effects(), ["x", "x+"])


for number in range(100):
    setattr(HundredTests, f"test_{number}", run_some)
