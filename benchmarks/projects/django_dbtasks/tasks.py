from typing import Any

from clock import note
from django.db import transaction
from django.tasks import task


@task
def sync_task(value: int) -> int:
    return value


@task
def clock_task(mark: int) -> None:
    note(mark)


TASKS = {"sync": sync_task, "clock": clock_task}


def enqueue(kind: str, count: int) -> None:
    task = TASKS[kind]
    with transaction.atomic():
        for value in range(count):
            task.enqueue(value)


def send(kind: str, value: Any) -> None:
    TASKS[kind].enqueue(value)
