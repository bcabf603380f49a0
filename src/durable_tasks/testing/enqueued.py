"""Looking at what waits."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from ..backend import DatabaseBackend
from ..compat import DEFAULT_TASK_BACKEND_ALIAS, AnyTask, Task, task_backends
from ..models import Job
from ..results import DurableTaskResult, dumps, to_result
from ..statuses import WAITING, JobStatus

# A failure is shown where the test asserts, by unittest; and so by pytest: __tracebackhide__.
__unittest = True

# So many lines of what was enqueued instead.
MAX_LINES = 20

# An argument that was left out, where None means something.
_ANYTHING: Any = object()


def durable_backend(alias: str) -> DatabaseBackend:
    """Return the backend ``alias``, if jobs wait there; raises ``ImproperlyConfigured``."""
    backend = task_backends[alias]
    if not isinstance(backend, DatabaseBackend):
        raise ImproperlyConfigured(
            f"TASKS[{alias!r}] is a {type(backend).__name__}, not a durable_tasks backend: nothing "
            "that is enqueued there waits in the database."
        )
    if backend.durable_options.immediate:
        raise ImproperlyConfigured(
            f'{backend.durable_options.where}["immediate"] is on: tasks have run once enqueue() '
            "returns, and none waits. Switch it off in the test's settings."
        )
    return backend


def is_of_test(connection: BaseDatabaseWrapper) -> bool | None:
    """Return whether the innermost transaction is a ``TestCase``'s; None if there is none."""
    blocks: Any = connection.atomic_blocks
    return bool(blocks[-1]._from_testcase) if blocks else None


def called_before() -> None:
    """What is left of a function that has been called in place of a commit."""


def is_to_be_called(connection: BaseDatabaseWrapper, waiting: Any) -> bool:
    """Return whether an item of ``run_on_commit`` is the test's, and has not been called yet.

    What ``setUpTestData()`` has left belongs to no test: no rollback would bring it back.
    """
    savepoints, function, _ = waiting
    return function is not called_before and savepoints.issuperset(connection.savepoint_ids)


def enqueued_tasks(
    task: AnyTask | None = None, *, backend: str | None = None
) -> list[DurableTaskResult]:
    """Return the results of the jobs that wait, ready or scheduled, in order of their enqueuing.

    ``task``: only its jobs. ``backend``: its alias; None: the task's, or the default one.
    """
    return [to_result(job) for job in _waiting(_alias(task, backend), task)]


def assert_enqueued(
    task: AnyTask,
    *,
    args: Iterable[Any] = _ANYTHING,
    kwargs: dict[str, Any] = _ANYTHING,
    queue_name: str = _ANYTHING,
    run_after: datetime | None = _ANYTHING,
    priority: int = _ANYTHING,
    count: int | None = None,
    backend: str | None = None,
) -> list[DurableTaskResult]:
    """Assert that jobs of a task wait which are like this; return their results.

    What is left out may be anything. ``args`` and ``kwargs`` are compared as they are stored, in
    JSON. ``count``: so many jobs; None: one or more. ``backend``: its alias; None: the task's.

    Raises ``AssertionError`` that shows what was enqueued instead, and ``TypeError`` or
    ``ValueError`` that names the argument for what no job can have.
    """
    __tracebackhide__ = True
    wanted = _wanted(args, kwargs, queue_name, run_after, priority)
    alias = _alias(task, backend)
    found = [job for job in _waiting(alias, task) if _is_like(job, wanted)]
    if found if count is None else len(found) == count:
        return [to_result(job) for job in found]
    number = f"{len(found) or 'No'} job{'s' * (len(found) > 1)}"
    asked = "" if count is None else f", not {count}"
    raise AssertionError(
        f"{number} of {task.module_path}{_with(wanted)} waiting{asked}.\n{_all(alias)}"
    )


def refute_enqueued(
    task: AnyTask | None = None,
    *,
    args: Iterable[Any] = _ANYTHING,
    kwargs: dict[str, Any] = _ANYTHING,
    queue_name: str = _ANYTHING,
    run_after: datetime | None = _ANYTHING,
    priority: int = _ANYTHING,
    backend: str | None = None,
) -> None:
    """Assert that no job waits which is like this; without ``task``, of any task.

    See ``assert_enqueued()``.
    """
    __tracebackhide__ = True
    wanted = _wanted(args, kwargs, queue_name, run_after, priority)
    alias = _alias(task, backend)
    found = [job for job in _waiting(alias, task) if _is_like(job, wanted)]
    if found:
        path = "any task" if task is None else task.module_path
        lines = "\n".join(f"  {described(job)}" for job in found)
        raise AssertionError(
            f"No job of {path}{_with(wanted)} should be waiting, but there is:\n{lines}"
        )


def _alias(task: AnyTask | None, backend: str | None) -> str:
    if task is not None and not isinstance(task, Task):
        raise TypeError(f"task must be a task, made with @task, not {task!r}.")
    alias = backend or (DEFAULT_TASK_BACKEND_ALIAS if task is None else task.backend)
    durable_backend(alias)
    return alias


def _waiting(alias: str, task: AnyTask | None = None) -> list[Job]:
    jobs = Job.objects.using(router.db_for_write(Job)).filter(
        backend_name=alias, status__in=WAITING
    )
    if task is not None:
        jobs = jobs.filter(task_path=task.module_path)
    return sorted(jobs, key=lambda job: (job.enqueued_at, job.id.int))


def _wanted(
    args: Any, kwargs: Any, queue_name: Any, run_after: Any, priority: Any
) -> dict[str, Any]:
    """Return the columns that are compared, with the values that they should have."""
    if isinstance(args, str):
        raise TypeError(f"args must be the positional arguments, such as [{args!r}].")
    wanted = {
        "args": args if args is _ANYTHING else _stored(list(args), "args"),
        "kwargs": kwargs if kwargs is _ANYTHING else _stored(kwargs, "kwargs"),
        "queue_name": queue_name,
        "run_after": run_after,
        "priority": priority,
    }
    if isinstance(run_after, datetime):
        if settings.USE_TZ and timezone.is_naive(run_after):
            raise ValueError(
                f"run_after must be an aware datetime, as USE_TZ is on, not {run_after!r}."
            )
        if not settings.USE_TZ and timezone.is_aware(run_after):
            wanted["run_after"] = timezone.make_naive(run_after)
    return {name: value for name, value in wanted.items() if value is not _ANYTHING}


def _stored(value: Any, name: str) -> Any:
    return json.loads(dumps(value, name))


def _is_like(job: Job, wanted: dict[str, Any]) -> bool:
    return all(getattr(job, name) == value for name, value in wanted.items())


def _with(wanted: dict[str, Any]) -> str:
    facts = ", ".join(
        f"{name}={value.isoformat(' ') if isinstance(value, datetime) else repr(value)}"
        for name, value in wanted.items()
    )
    return f" with {facts}" if facts else ""


def _all(alias: str) -> str:
    """Return what waits, for a message."""
    waiting = _waiting(alias)
    number = "1 job waits:" if len(waiting) == 1 else f"{len(waiting)} jobs wait:"
    lines = [number] if waiting else ["Nothing is enqueued."]
    lines += [f"  {described(job)}" for job in waiting[:MAX_LINES]]
    if len(waiting) > MAX_LINES:
        lines.append(f"  ... and {len(waiting) - MAX_LINES} more")
    if later := sum(map(_awaiting_commit, connections.all(initialized_only=True))):
        lines.append(
            f"Functions that wait for a commit: {later}. captureOnCommitCallbacks(execute=True) "
            "and run_tasks() call them."
        )
    return "\n".join(lines)


def _awaiting_commit(connection: BaseDatabaseWrapper) -> int:
    """Return how many functions wait for the commit of a test's transaction, but for our own."""
    waiting: list[Any] = connection.run_on_commit if is_of_test(connection) else []
    ours = "durable_tasks.store."
    return sum(
        is_to_be_called(connection, each)
        and not str(getattr(each[1], "__module__", "")).startswith(ours)
        for each in waiting
    )


def described(job: Job) -> str:
    """Return a job as one line of a message: its call, then its status, queue and priority."""
    arguments = [repr(value) for value in job.args]
    arguments += [f"{name}={value!r}" for name, value in job.kwargs.items()]
    status = job.status
    if status == JobStatus.SCHEDULED:
        status += f" for {job.run_at.isoformat(' ')}"
    return (
        f"{job.task_path}({', '.join(arguments)}), {status}, queue {job.queue_name!r}, "
        f"priority {job.priority}"
    )
