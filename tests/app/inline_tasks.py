"""Tasks for tests in which they run in the test's own thread."""

from django.db import IntegrityError, transaction

from durable_tasks import fixed, task
from durable_tasks.models import Job

from .models import Effect
from .tasks import async_effect, effect


@task
def effect_then_fail(key):
    Effect.objects.create(key=key)
    raise ValueError("after the effect")


@task
def fail_once(key):
    """Leave an effect, and fail if it is the first one of this key."""
    Effect.objects.create(key=key)
    runs = Effect.objects.filter(key=key).count()
    if runs == 1:
        raise ValueError("the first run")
    return runs


@task
def deep():
    """Return what some databases refuse."""
    value = []
    for _ in range(500):
        value = [value]
    return value


@task(takes_context=True)
def row_status(context):
    return Job.objects.get(id=context.task_result.id).status


@task(on_worker_lost="fail")
def once():
    return "once"


def _break(key):
    found = Effect.objects.create(key=key)
    Effect.objects.create(id=found.id, key=key)


@task
def break_constraint(key):
    """Leave an effect, and another one of the same id, which the database refuses."""
    _break(key)


@task
async def async_break_constraint(key):
    found = await Effect.objects.acreate(key=key)
    await Effect.objects.acreate(id=found.id, key=key)


@task
def swallow_error(key):
    try:
        _break(key)
    except IntegrityError:
        return "well"


@task(takes_context=True, max_attempts=2, backoff=fixed(0))
def break_then_succeed(context, key):
    if context.attempt == 1:
        _break(key)
    Effect.objects.create(key=key)


def during():
    """What the test wants to be done while a task runs."""


@task
def call_during():
    during()


@task
def durable(key):
    with transaction.atomic(durable=True):
        Effect.objects.create(key=key)


@task
def for_ever():
    for_ever.enqueue()


@task
def effect_on_commit(key):
    """Leave an effect, and another one by a task that is enqueued after the commit."""
    with transaction.atomic():
        Effect.objects.create(key=key)
        effect_after.enqueue_on_commit(key)


@task
def effect_after(key):
    Effect.objects.create(key=f"{key} after")


@task
async def async_enqueue(keys):
    """Enqueue two tasks for each key, one of either kind."""
    results = []
    for key in keys:
        results += [await effect.aenqueue(key), await async_effect.aenqueue(key)]
    return [result.status for result in results]


@task(atomic=True)
def atomic():
    pass
