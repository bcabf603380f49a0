from typing import Any

from clock import note
from procrastinate.contrib.django import app


@app.task
def sync_task(value: int) -> int:
    return value


@app.task
async def async_task(value: int) -> int:
    return value


@app.task
def clock_task(value: int) -> None:
    note(value)


TASKS = {"sync": sync_task, "async": async_task, "clock": clock_task}


def enqueue(kind: str, count: int) -> None:
    TASKS[kind].batch_defer(*({"value": value} for value in range(count)))


def send(kind: str, value: Any) -> None:
    TASKS[kind].defer(value=value)
