from django.tasks import task, task_backends


@task
def sync_task(value: int) -> int:
    return value


@task
async def async_task(value: int) -> int:
    return value


def enqueue(kind: str, count: int) -> None:
    task = {"sync": sync_task, "async": async_task}[kind]
    task_backends["default"].enqueue_many([(task, [value], {}) for value in range(count)])
