"""Tasks that take too long, each in its own way."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import connection

from durable_tasks import Retry, TaskCancelled, TaskTimeout, fixed, task

from .models import Effect
from .tasks import PATIENCE


def spin(seconds=PATIENCE):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@task(timeout=0.2)
def compute():
    spin()


@task(timeout=0.2)
def sleep(seconds=PATIENCE):
    time.sleep(seconds)


ENDLESS = {
    "postgresql": f"SELECT pg_sleep({PATIENCE})",
    "mysql": f"SELECT SLEEP({PATIENCE})",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    "SELECT count(*) FROM n",
}


@task(timeout=0.2)
def query():
    with connection.cursor() as cursor:
        cursor.execute(ENDLESS[connection.vendor])


@task(timeout=0.2)
def catch(times):
    """Catch so many exceptions; return their texts."""
    texts = []
    while len(texts) < times:
        try:
            spin()
        except Exception as error:
            texts.append(f"{type(error).__name__}: {error}")
    return texts


@task(timeout=0.2)
def catch_all():
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with suppress(Exception):
            spin()


@task(timeout=0.2)
def another_error():
    try:
        spin()
    except Exception as error:
        raise ValueError("wrapped") from error


@task(timeout=0.2, max_attempts=2)
def ask_again():
    if Effect.objects.filter(key="again").exists():
        return "done"
    try:
        spin()
    except TaskTimeout:
        Effect.objects.create(key="again")
        raise Retry(after=0) from None


@task(timeout=0.2, max_attempts=2, backoff=fixed(0))
def slow_at_first(key):
    Effect.objects.create(key=key)
    if Effect.objects.filter(key=key).count() == 1:
        spin()
    return key


@task(timeout=0.2, atomic=True)
def atomic(key):
    Effect.objects.create(key=key)
    spin()


@task(atomic=True)
def atomic_without_limit(key, path):
    Effect.objects.create(key=key)
    Path(path).touch()
    spin()


@task(timeout=1, max_attempts=2, backoff=fixed(0))
def stuck_at_first(key):
    """Hold a thread, the first time, in code that nothing interrupts."""
    Effect.objects.create(key=f"{key} begins")
    if Effect.objects.filter(key=f"{key} begins").count() == 1:
        time.sleep(PATIENCE)
        Effect.objects.create(key=f"{key} goes on")
    return key


@task(timeout=0.2)
async def async_sleep(key):
    try:
        await asyncio.sleep(PATIENCE)
    finally:
        await Effect.objects.acreate(key=f"{key} is tidied")


@task(timeout=0.2)
async def async_catch(times):
    caught = 0
    while caught < times:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            caught += 1
    return caught


@task(timeout=1, max_attempts=2, backoff=fixed(0))
async def async_stuck_at_first(key):
    """Block the event loop, the first time."""
    await Effect.objects.acreate(key=f"{key} begins")
    if await Effect.objects.filter(key=f"{key} begins").acount() == 1:
        time.sleep(PATIENCE)
    return key


@task
async def async_cancelled_by_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(PATIENCE)


@task(timeout=0.01)
def near_its_limit(number, seconds):
    spin(seconds)
    return number


@task(timeout=0.01)
async def async_near_its_limit(number, seconds):
    await asyncio.sleep(seconds)
    return number


@task
def without_limit(number, seconds):
    spin(seconds)
    return number


@task(takes_context=True)
def poll(context, key):
    """Hold ``key`` until the job is cancelled; leave what the context then says."""
    before = context.cancelled
    try:
        Effect.objects.create(key=f"held {key}")
        spin()
    except TaskCancelled as error:
        Effect.objects.create(key=f"{before} {context.cancelled} {error}")
        raise


@task(takes_context=True)
async def async_poll(context, key):
    before = context.cancelled
    try:
        await Effect.objects.acreate(key=f"held {key}")
        await asyncio.sleep(PATIENCE)
    except asyncio.CancelledError:
        await sync_to_async(Effect.objects.create)(key=f"{before} {context.cancelled}")
        raise
