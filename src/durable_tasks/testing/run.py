"""Running jobs in the test's own thread and transaction."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections

from .. import clock
from ..backend import DatabaseBackend
from ..chores import promote
from ..chores.pause import Pausing
from ..chores.schedule import Timetable
from ..compat import DEFAULT_TASK_BACKEND_ALIAS, AnyTaskResult
from ..exceptions import DurableTasksError
from ..inline import Inline
from ..results import DurableTaskResult
from ..store import Pauses, Queues
from ..timetable import entry_of
from .enqueued import (
    called_before,
    described,
    durable_backend,
    is_of_test,
    is_to_be_called,
)

logger = logging.getLogger("durable_tasks")


def run_tasks(
    *,
    queue_names: Iterable[str] | None = None,
    backend: str = DEFAULT_TASK_BACKEND_ALIAS,
    limit: int = 1000,
    on_commit: bool = True,
    periodic: bool = False,
) -> list[DurableTaskResult]:
    """Run what is ready, and what becomes ready by it, until nothing is left.

    In this thread, on the test's connection, inside a ``TestCase`` too, and in the order in which a
    worker would begin: jobs of higher priority first, then those that were due earlier. What is due
    later stays; ``frozen_time()`` can make it due. Runs have no time limit.

    What is paused stays as well, and what was resumed runs.

    ``queue_names``: only these queues, or None for all. ``backend``: its alias. ``limit``: so many
    runs at most. ``on_commit``: before each run, call what waits for the commit of a ``TestCase``'s
    transaction, as ``captureOnCommitCallbacks(execute=True)`` does. ``periodic``: first enqueue the
    periodic tasks that are due; a new one is due at its first time after the first such call.

    Returns the result of each job that has run, as it is at the end, in the order of their first
    runs. Raises ``DurableTasksError`` if jobs are still ready after ``limit`` runs, if a periodic
    task can't be enqueued, and inside an ``atomic()`` block; ``ImproperlyConfigured`` if the
    backend is not ours or is immediate; and what is wrong with a periodic task, such as
    ``TaskNotFound``.
    """
    if isinstance(queue_names, str):
        raise TypeError(f"queue_names must be several names, such as [{queue_names!r}].")
    kept = durable_backend(backend)
    inline = _inline(kept, "run_tasks()")
    served = Queues(backend, None if queue_names is None else tuple(queue_names))
    runs: Counter[str] = Counter()
    ran: dict[UUID, None] = {}
    if periodic:
        _fire(kept)
    while True:
        _get_ready(inline, on_commit=on_commit)
        queues = _unpaused(inline, served)
        if runs.total() >= limit and inline.store.peek(queues).ready:
            raise DurableTasksError(
                f"run_tasks() stopped after {limit} runs, and jobs are still ready. It ran "
                + ", ".join(f"{path} {_times(count)}" for path, count in runs.most_common(5))
                + ". Do tasks enqueue each other for ever? Otherwise raise its limit."
            )
        claim = inline.claim(queues)
        if claim is None:
            return [kept.get_result(str(id)) for id in ran]
        runs[claim.task_path] += 1
        ran[claim.id] = None
        inline.run(claim)


async def arun_tasks(**arguments: Any) -> list[DurableTaskResult]:
    """See ``run_tasks()``."""
    return await sync_to_async(run_tasks)(**arguments)


def run_task[R: AnyTaskResult](result: R, *, on_commit: bool = True) -> R:
    """Run the job of this result once, and return the result, refreshed.

    ``on_commit``: as for ``run_tasks()``, before and after the run. Raises what that raises, and
    ``DurableTasksError`` if the job is not ready.
    """
    kept = durable_backend(result.backend)
    inline = _inline(kept, "run_task()")
    _get_ready(inline, on_commit=on_commit)
    claim = inline.take(UUID(result.id))
    if claim is None:
        raise DurableTasksError(
            f"This job is not ready to run: {described(kept.get_job(result.id))}. "
            "One that is due later can be run once frozen_time() has moved the clock."
        )
    inline.run(claim)
    if on_commit:
        _call_on_commit()
    result.refresh()
    return result


async def arun_task[R: AnyTaskResult](result: R, *, on_commit: bool = True) -> R:
    """See ``run_task()``."""
    return await sync_to_async(run_task)(result, on_commit=on_commit)


def _fire(backend: DatabaseBackend) -> None:
    """Enqueue the periodic tasks that are due; raise where a worker goes on with the others."""
    periodic = backend.durable_options.periodic
    for name, each in periodic.items():
        try:
            entry_of(backend.alias, name, each)
        except Exception as error:
            error.add_note(f'In {backend.durable_options.where}["periodic"]["{name}"].')
            raise
    timetable = Timetable.of(backend.alias, backend.durable_options)
    now = clock.now()
    timetable.sync(now)
    timetable.tick(now)
    rows = {row.name: row.next_run_at for row in timetable.rows()}
    for name in periodic:
        # One that was fired has a later time, or None.
        if (due := rows.get(name, now)) is not None and due <= now:
            raise DurableTasksError(
                f"The periodic task {name!r} could not be enqueued; the reason is in the log "
                '"durable_tasks".'
            )


def _inline(backend: DatabaseBackend, caller: str) -> Inline:
    inline = backend.inline()
    if is_of_test(connections[inline.database]) is False:
        raise DurableTasksError(
            f"{caller} was called inside a transaction.atomic() block: no worker could see what is "
            "enqueued in it. Call it after the block."
        )
    return inline


def _get_ready(inline: Inline, *, on_commit: bool) -> None:
    if on_commit:
        _call_on_commit()
    promote.tick(inline.store, clock.now())


def _unpaused(inline: Inline, served: Queues) -> Queues:
    """Do with jobs of paused tasks what a worker does; return the queues that are not paused."""
    pausing = Pausing(inline.store, served, Pauses())
    pausing.look(0.0)
    while pausing.has_work:
        pausing.step()
    return pausing.queues


def _call_on_commit() -> None:
    """Call what waits for the commit of a ``TestCase``'s transaction, which never comes."""
    for connection in connections.all(initialized_only=True):
        index = 0
        while is_of_test(connection) and index < len(connection.run_on_commit):
            waiting: list[Any] = connection.run_on_commit
            savepoints, function, robust = waiting[index]
            if is_to_be_called(connection, waiting[index]):
                # In its place, since captureOnCommitCallbacks() counts what is there.
                waiting[index] = (savepoints, called_before, robust)
                try:
                    function()
                except Exception:
                    if not robust:
                        raise
                    logger.exception("A function that waited for a commit failed.")
            index += 1


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
