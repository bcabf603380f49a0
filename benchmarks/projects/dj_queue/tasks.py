from typing import Any

from clock import note
from django.tasks import task, task_backends


@task
def sync_task(value: int) -> int:
    return value


@task
async def async_task(value: int) -> int:
    return value


@task
def clock_task(mark: int) -> None:
    note(mark)


TASKS = {"sync": sync_task, "async": async_task, "clock": clock_task}


def enqueue(kind: str, count: int) -> None:
    task = TASKS[kind]
    task_backends["default"].enqueue_all([(task, [value], {}) for value in range(count)])


def send(kind: str, value: Any) -> None:
    TASKS[kind].enqueue(value)
