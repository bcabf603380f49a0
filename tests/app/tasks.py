"""Tasks for the tests, one for each thing that a task may do."""

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection, connections, transaction
from django.db import Error as DatabaseFault
from django.db.models import F, Q

from durable_tasks import Cancel, Retry, Snooze, fixed, task
from durable_tasks.models import Job

from .models import Effect

# Seconds after which a task that waits for the test gives up, so that no failure hangs.
PATIENCE = 30

# Returns and arguments


@task
def add(a, b=0):
    return a + b


@task
def echo(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs}


@task
def no_value():
    pass


@task
def grow(values):
    values.append(2)
    return values


@task
async def async_add(a, b=0):
    return a + b


@task
def huge(size=20_000_000):
    return "x" * size


@task
def not_a_number():
    return {"values": [1.0, float("nan")]}


@task
def an_object():
    return object()


def no_task():
    """Is not decorated."""


async def no_async_task():
    """Is not decorated."""


# Errors


@task
def fail(text="no luck"):
    raise ValueError(text)


@task
async def async_fail(text="no luck"):
    raise ValueError(text)


@task
def fail_with_bad_text():
    raise ValueError("NUL \0 and a lone surrogate \ud800")


@task
def fail_for_a_missing_row():
    Effect.objects.get(key="missing")


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@task
def fail_without_text():
    raise Unprintable


@task
def leave():
    raise SystemExit(3)


@task
def interrupt():
    raise KeyboardInterrupt


@task
async def async_leave():
    raise SystemExit(3)


@task
async def async_interrupt():
    raise KeyboardInterrupt


# Another run


@task(max_attempts=3, backoff=fixed(0))
def fail_until(key, good):
    """Leave the effect KEY and fail, but for the ``good``th run."""
    Effect.objects.create(key=key)
    runs = Effect.objects.filter(key=key).count()
    if runs < good:
        raise ValueError(f"run {runs}")
    return runs


@task(max_attempts=3, backoff=fixed(0))
async def async_fail_until(key, good):
    await Effect.objects.acreate(key=key)
    runs = await Effect.objects.filter(key=key).acount()
    if runs < good:
        raise ValueError(f"run {runs}")
    return runs


@task(max_attempts=2, backoff=fixed(3600))
def fail_for_an_hour():
    raise ValueError("later")


@task(max_attempts=9, backoff=lambda exception, result: "soon")
def fail_with_bad_rules():
    raise ValueError("what happened")


@task(takes_context=True, max_attempts=2)
def ask_again(context, after):
    if context.attempt == 1:
        raise Retry("not yet", after=after)
    return context.attempt


@task(takes_context=True)
def snooze(context, key, times, after=0):
    Effect.objects.create(key=f"{key} {context.attempt}")
    if Effect.objects.filter(key__startswith=key).count() <= times:
        raise Snooze(after)
    return context.attempt


@task
def snooze_for_ever():
    raise Snooze("ever")


@task
def cancel_itself(reason):
    raise Cancel(reason)


@task(atomic=True)
def atomic_effect(key, then=""):
    """Leave an effect and enqueue another job, then do what ``then`` says."""
    Effect.objects.create(key=key)
    effect.enqueue(f"{key} child")
    if then == "fail":
        raise ValueError("after the effect")
    if then == "callback fails":

        def broken():
            raise RuntimeError("after the commit")

        transaction.on_commit(broken)
    if then == "unstorable":
        return "\ud800"
    return key


@task(atomic=True)
def atomic_hold(key, path):
    """Leave an effect, make the file ``path``, and wait for it to go away."""
    Effect.objects.create(key=key)
    Path(path).touch()
    until = time.monotonic() + PATIENCE
    while Path(path).exists():
        if time.monotonic() > until:
            raise TimeoutError(f"nobody removed {path}")
        time.sleep(0.01)


@task(atomic=True)
def atomic_but_lost(key):
    """Leave an effect, and meanwhile lose the job to another worker."""
    Effect.objects.create(key=key)
    with ThreadPoolExecutor(1) as apart:
        apart.submit(_lose_to_another).result()


def _lose_to_another():
    Job.objects.filter(task_path__endswith="atomic_but_lost").update(lease=9, worker_id="another")
    connections.close_all()


def at_once(exception, task_result):
    return 0


# Retention


@task(retain="1d", retain_failed="2d")
def retained(then=""):
    if then == "fail":
        raise ValueError("as asked")
    if then == "cancel":
        raise Cancel("as asked")


@task(retain=None)
def kept():
    pass


@task(atomic=True, retain="1d")
def atomic_retained():
    pass


# The context


@task(takes_context=True)
def describe(context, word):
    return _description(context, word)


@task(takes_context=True)
async def async_describe(context, word):
    return _description(context, word)


def _description(context, word):
    result = context.task_result
    return {
        "word": word,
        "id": result.id,
        "status": result.status,
        "args": result.args,
        "attempt": context.attempt,
        "workers": result.worker_ids,
        "queue": result.task.queue_name,
        "priority": result.task.priority,
    }


# The database


@task
def effect(key):
    Effect.objects.create(key=key)


@task
async def async_effect(key):
    await Effect.objects.acreate(key=key)


@task(queue_name="other", priority=7)
def effect_elsewhere(key):
    Effect.objects.create(key=key)


@task
def effect_then_more(key, more):
    """Enqueue a task from within a task."""
    Effect.objects.create(key=key)
    if more:
        effect_then_more.enqueue(f"{key}+", more - 1)


@task
def connection_id():
    """Return what the server calls this thread's connection."""
    with connection.cursor() as cursor:
        postgres = connection.vendor == "postgresql"
        cursor.execute(f"SELECT {'pg_backend_pid()' if postgres else 'CONNECTION_ID()'}")
        return cursor.fetchone()[0]


@task
async def async_connection_id(people):
    """The same once so many coroutines run at once."""
    await async_meet.func("connection", people)
    return await sync_to_async(connection_id.func)()


@task
def planner_settings():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('enable_seqscan'), current_setting('jit')")
        return cursor.fetchone()


@task
def break_transaction():
    """Leave the thread's connection inside a transaction that can't go on."""
    connection.set_autocommit(False)
    Effect.objects.create(key="never committed")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT no_such_column FROM no_such_table")
    except DatabaseError:
        pass
    connection.needs_rollback = True


@task
def leave_transaction_open(key):
    """Begin a transaction and never end it."""
    transaction.atomic().__enter__()
    Effect.objects.create(key=key)


@task
async def async_leave_transaction_open(key):
    await sync_to_async(leave_transaction_open.func)(key)


@task
def close_connection():
    """Leave a connection whose other end is gone."""
    connection.ensure_connection()
    connection.connection.close()


@task
async def async_close_connection():
    await sync_to_async(close_connection.func)()


# Of every kind, to be counted: each leaves one effect

counted = partial(task, max_attempts=50, backoff=fixed(0.05), retry_on=DatabaseFault)


@counted()
def mark(key, seconds=0.0):
    time.sleep(seconds)
    Effect.objects.create(key=key)


@counted()
async def async_mark(key, seconds=0.0):
    await asyncio.sleep(seconds)
    await Effect.objects.acreate(key=key)


@counted(atomic=True)
def atomic_mark(key, seconds=0.0):
    Effect.objects.create(key=key)
    time.sleep(seconds)


@task(on_worker_lost="fail")
def once_mark(key, seconds=0.0):
    time.sleep(seconds)
    Effect.objects.create(key=key)


@task(takes_context=True, max_attempts=50, backoff=fixed(0.05))
def again_mark(context, key, seconds=0.0):
    """Like mark(), but fails at first."""
    if context.attempt == 1:
        raise ValueError("the first time")
    mark.func(key, seconds)


# Poison


@task
def exit_process():
    os._exit(3)


@task
def crash_process():
    ctypes.string_at(0)


@task
def take_all_memory():
    """Ask for more memory than there is, as a library in C does that then aborts."""
    limit = 64 * 1024 * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        _kept.append(bytearray(2 * limit))
    except MemoryError:
        os.abort()


class LongTrouble(Exception):
    pass


@task
def fail_with_long_traceback(size=1_000_000):
    raise LongTrouble("x" * size + " the end")


# Waiting for the test, or for each other


def _waits(key):
    return not Effect.objects.filter(key__in=[f"go {key}", "go"]).exists()


def _hold(key):
    Effect.objects.create(key=f"held {key}")
    until = time.monotonic() + PATIENCE
    while _waits(key):
        if time.monotonic() > until:
            raise TimeoutError(f"nobody let {key} go")
        time.sleep(0.01)
    Effect.objects.create(key=f"done {key}")
    return key


@task
def hold(key):
    """Leave the effect "held KEY", wait for the effect "go KEY" or "go", leave "done KEY"."""
    return _hold(key)


@task
async def async_hold(key):
    return await sync_to_async(_hold)(key)


@task
def minute(key):
    Effect.objects.create(key=f"held {key}")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.01)


@task
async def async_minute(key):
    await Effect.objects.acreate(key=f"held {key}")
    await asyncio.sleep(60)


@task
def hold_and_fail(key):
    """Like hold(), but then fail."""
    raise ValueError(_hold(key))


@task(on_worker_lost="fail")
def hold_once(key):
    """Like hold(), but never run twice."""
    return _hold(key)


@task
async def async_signal_this_thread():
    """As when the system hands the process's signal to a thread that is not the main one."""
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


@task
def interrupt_twice():
    """As ``timeout -s INT`` does: its signal comes to the process, and to its group."""
    for _ in range(2):
        signal.raise_signal(signal.SIGINT)
    return "finished"


@task
def hold_without_database(key, path):
    """Like hold(), but waits for a file to appear, and uses no connection meanwhile."""
    Effect.objects.create(key=f"held {key}")
    connections.close_all()
    until = time.monotonic() + PATIENCE
    while not Path(path).exists():
        if time.monotonic() > until:
            raise TimeoutError(f"nobody made {path}")
        time.sleep(0.01)


@task
def kill_worker(key):
    Effect.objects.create(key=key)
    os.kill(os.getpid(), signal.SIGKILL)


@task(priority=1)
def kill_worker_beside(others):
    """Kill the worker once so many other runs are known to have begun, or will not."""
    until = time.monotonic() + 2
    known = Q(lost=0) | Q(started_lease=F("lease"))
    while Job.objects.running().filter(known).count() <= others and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


_meeting = threading.Lock()
_barriers: dict[str, threading.Barrier] = {}
_async_barriers: dict[str, asyncio.Barrier] = {}
_present: Counter[str] = Counter()
_most: Counter[str] = Counter()


@task
def meet(name, count):
    """Return once ``count`` jobs are in here at the same time.

    Returns the thread, and how many were ever in here at once. ``name``: who meets, in a process.
    """
    with _meeting:
        barrier = _barriers.setdefault(name, threading.Barrier(count, timeout=PATIENCE))
        _present[name] += 1
        _most[name] = max(_most[name], _present[name])
    barrier.wait()
    with _meeting:
        _present[name] -= 1
        return threading.get_ident(), _most[name]


@task
async def async_meet(name, count):
    """Return, with the thread, once ``count`` jobs are in here at the same time."""
    barrier = _async_barriers.setdefault(name, asyncio.Barrier(count))
    async with asyncio.timeout(PATIENCE):
        await barrier.wait()
    return threading.get_ident()


# What is left behind

_left = ContextVar("left", default="nothing")


@task
def leave_context(text):
    found = _left.get()
    _left.set(text)
    return found


@task
async def async_leave_context(text):
    found = _left.get()
    _left.set(text)
    await asyncio.sleep(0)
    return found


_kept = []


@task
def hold_memory(key, mib):
    """Like hold(), and keep memory for ever."""
    _kept.append(b"x" * (mib * 1024 * 1024))
    return _hold(key)


@task
def lock_enabled():
    """Return whether the interpreter has its lock, which a late import may turn on."""
    return sys._is_gil_enabled()


@task
def read_standard_input():
    return sys.stdin.read()
