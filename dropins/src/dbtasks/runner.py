"""The runner, and the task that deletes what has ended."""

from dataclasses import replace
from typing import Any

from django.db import connections, router

from durable_tasks import clock, runner, task
from durable_tasks.backend import DatabaseBackend
from durable_tasks.chores.prune import Pruning, prune
from durable_tasks.chores.schedule import Timetable
from durable_tasks.compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_QUEUE_NAME,
    task_backends,
)
from durable_tasks.exceptions import WorkerIdInUse
from durable_tasks.models import Job
from durable_tasks.results import DurableTaskResult, find_task
from durable_tasks.schedules import Duration
from durable_tasks.statuses import ENDED, JobStatus
from durable_tasks.store import Store, store_for

from .defaults import DEFAULT_RUNNER_LOOP_DELAY
from .models import ScheduledTask

__all__ = ["DuplicateWorker", "Runner", "cleanup"]

DuplicateWorker = WorkerIdInUse


class Runner(runner.Runner):
    """Runs tasks in this process: give its ``run()`` to a thread.

    ``workers``: sync tasks at once. ``worker_id``: a name that no other living worker has, or None
    to generate one. ``backend``: the alias whose tasks to run. ``loop_delay``: seconds between two
    looks for work. ``init_periodic``: whether to fire periodic tasks. ``more``: other arguments of
    ``durable_tasks.Runner``.
    """

    def __init__(
        self,
        workers: int = 4,
        worker_id: str | None = None,
        backend: str = DEFAULT_TASK_BACKEND_ALIAS,
        loop_delay: float = DEFAULT_RUNNER_LOOP_DELAY,
        init_periodic: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(
            workers=workers,
            worker_id=worker_id,
            backend=backend,
            interval=loop_delay,
            periodic=init_periodic,
            **more,
        )
        self.workers = workers
        self.loop_delay = loop_delay

    @property
    def should_delete_tasks(self) -> bool:
        """Whether ``run()`` deletes tasks whose time to stay is over; to be set before."""
        return self._settings.prunes

    @should_delete_tasks.setter
    def should_delete_tasks(self, value: bool) -> None:
        self._settings = self._next.settings = replace(self._settings, prunes=value)

    def init_periodic(self) -> None:
        """Bring the schedules in the database up to date with ``periodic``, as ``run()`` does."""
        Timetable(self.backend.alias, self.periodic).sync(clock.now())

    def delete_tasks(self) -> int:
        """Delete the tasks whose time to stay is over; return how many there were."""
        return Pruning().finish(_store(), clock.now())

    def submit_task(self, task: ScheduledTask, start: bool = True) -> DurableTaskResult:
        """Let a task run, and return its result.

        ``task``: one that waits, or a new one, which is enqueued. ``start``: without waiting until
        it is due.
        """
        if task._state.adding:
            options = {"priority": task.priority, "queue_name": task.queue}
            if not start:
                options["run_after"] = task.run_after
            given = {name: value for name, value in options.items() if value}
            return self.submit(find_task(task.task_path).using(**given), *task.args, **task.kwargs)
        if start:
            jobs = Job.objects.using(task._state.db).filter(pk=task.pk, status=JobStatus.SCHEDULED)
            jobs.update(run_at=clock.now())
        return self.backend.get_result(task.task_id)


def _store() -> Store:
    return store_for(connections[router.db_for_write(Job)])


def _place() -> dict[str, Any]:
    """Return a backend of the project's, and a queue of it, that ``cleanup`` can be in."""
    for alias in task_backends.settings:
        backend = task_backends[alias]
        if isinstance(backend, DatabaseBackend):
            queues = backend.queues or {DEFAULT_TASK_QUEUE_NAME}
            default = DEFAULT_TASK_QUEUE_NAME in queues
            name = DEFAULT_TASK_QUEUE_NAME if default else min(queues)
            return {"backend": alias, "queue_name": name}
    return {}


@task(takes_context=True, **_place())
def cleanup(context: Any, seconds: float) -> int:
    """Delete the tasks of this one's backend that ended so many seconds ago, or longer.

    Returns how many there were.
    """
    return sum(
        prune(
            _store(),
            statuses=[status.value for status in ENDED],
            before=clock.now() - Duration(seconds),
            backend_name=context.task_result.backend,
            queue_names=None,
        )
    )
