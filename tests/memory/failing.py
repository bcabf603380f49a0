"""Tests that fail, run by ``tests.test_testing`` with pytest."""

from datetime import timedelta
from unittest import mock

from django.utils import timezone

from durable_tasks.testing import assert_enqueued, live, refute_enqueued
from tests.app import tasks


def later():
    return timezone.now() + timedelta(hours=1)


def test_something_is_missing(db):
    assert_enqueued(tasks.add)


def test_something_should_not_be_there(db):
    tasks.add.enqueue(1)
    refute_enqueued()


def test_nobody_runs_it(task_runner):
    result = tasks.add.using(run_after=later()).enqueue(1)
    with mock.patch.object(live, "PATIENCE", 0.1):
        task_runner.wait_for(result)
