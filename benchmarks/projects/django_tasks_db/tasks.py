from django.db import transaction
from django.tasks import task


@task
def sync_task(value: int) -> int:
    return value


@task
async def async_task(value: int) -> int:
    return value


def enqueue(kind: str, count: int) -> None:
    task = {"sync": sync_task, "async": async_task}[kind]
    with transaction.atomic():
        for value in range(count):
            task.enqueue(value)
