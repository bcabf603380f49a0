"""The fixtures in use, to be run by a test."""

import pytest

from tests.app import tasks


def test_run_tasks(run_tasks):
    tasks.add.enqueue(1, 2)
    [result] = run_tasks()
    assert result.return_value == 3


def test_runner(task_runner):
    result = task_runner.submit(tasks.add, 1, 2)
    task_runner.wait_for(result)
    assert result.worker_ids == [task_runner.worker_id]


@pytest.mark.task_runner(workers=2, queue_names=("mine",))
def test_runner_with_settings(task_runner):
    other = tasks.add.enqueue(1)
    result = tasks.add.using(queue_name="mine").enqueue(1)
    task_runner.wait()
    assert (result.job.status, other.job.status) == ("SUCCESSFUL", "READY")
