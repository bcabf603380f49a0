"""A worker inside another program: a web process, a script, a test."""

import threading
import time
from dataclasses import replace
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import router

from .backend import DatabaseBackend
from .compat import DEFAULT_TASK_BACKEND_ALIAS, AnyTask, AnyTaskResult, task_backends
from .exceptions import WorkerIdInUse
from .ids import new_worker_id
from .models import Job
from .pauses import paused
from .results import DurableTaskResult
from .statuses import JobStatus
from .store import Queues
from .worker.worker import Worker, WorkerSettings

# Seconds: the first and the longest pause between two looks of a method that waits.
FIRST_LOOK, LONGEST_PAUSE = 0.005, 0.25


class Runner:
    """Runs jobs in this process: the same worker as ``db_worker``, to be given a thread.

    ``workers``: sync tasks at once. ``worker_id``: a name that no other living worker has, or None
    to generate one. ``backend``: the alias whose jobs to run. ``queue_names``: the queues to serve,
    or None for all. ``interval``: seconds between two looks when nothing else says that there is
    work. ``coroutines``: async tasks at once. ``periodic``: whether to fire periodic tasks.

    Raises ``InvalidTaskBackend`` or ``ImproperlyConfigured`` if ``backend`` is unknown, not
    ours, or needs no worker.
    """

    def __init__(
        self,
        *,
        workers: int = 4,
        worker_id: str | None = None,
        backend: str = DEFAULT_TASK_BACKEND_ALIAS,
        queue_names: tuple[str, ...] | None = None,
        interval: float = 1.0,
        coroutines: int = 50,
        periodic: bool = True,
    ) -> None:
        kept = task_backends[backend]
        if not isinstance(kept, DatabaseBackend):
            raise ImproperlyConfigured(
                f"TASKS[{backend!r}] is a {type(kept).__name__}, not a durable_tasks backend."
            )
        self.backend = kept
        # The name that the jobs it runs are marked with.
        self.worker_id = worker_id or new_worker_id()
        # The periodic tasks by name; what is changed before run() holds for this runner.
        self.periodic = dict(kept.durable_options.periodic)
        # Set while it works under its name, once it has ended, and while it has nothing to run.
        self.ready = threading.Event()
        self.finished = threading.Event()
        self.empty = threading.Event()
        self._queues = Queues(backend, None if queue_names is None else tuple(queue_names))
        self._settings = WorkerSettings(
            sender=type(self.backend),
            options=replace(kept.durable_options, periodic=self.periodic),
            queues=self._queues,
            interval=interval,
            worker_id=self.worker_id,
            threads=workers,
            coroutines=coroutines,
            periodic=periodic,
        )
        self._lock = threading.Lock()
        self._runs = False
        # The one that runs or ran last, and the one of the next run(); while it runs, the same.
        self._worker = self._next = self._new_worker()

    def _new_worker(self) -> Worker:
        return Worker(self._settings, on_ready=self.ready.set, idle=self.empty)

    @property
    def processed(self) -> int:
        """How many runs have ended since the last ``run()``."""
        return self._worker.processed

    def run(self) -> None:
        """Run jobs until ``stop()``; blocks, so give it to a thread. Once it has ended, it may be
        called again.

        Raises what ``db_worker`` ends with: ``WorkerIdInUse``, ``DurableTasksError`` if the tables
        are missing, ``DatabaseError`` if the database can't be reached at the start. Also
        ``WorkerIdInUse`` if another thread is in it.
        """
        with self._lock:
            if self._runs:
                raise WorkerIdInUse(
                    f"The runner {self.worker_id!r} runs already: give a second thread a runner of "
                    "its own."
                )
            self._runs = True
            self.finished.clear()
            self._worker = self._next
        try:
            self._worker.run()
        finally:
            with self._lock:
                self._runs = False
                self._next = self._new_worker()
                self.ready.clear()
                self.finished.set()

    def stop(self) -> None:
        """Let ``run()`` end once what runs has ended; returns at once, from any thread.

        If it does not run, the next ``run()`` ends at once: its thread may not have come to it yet.
        """
        self._next.stop()

    def reload(self) -> None:
        """Import the modules anew whose tasks it has run; what runs goes on with the old code.

        Raises what the import of a module raises.
        """
        self._worker.reload()

    def submit(self, task: AnyTask, *args: Any, **kwargs: Any) -> DurableTaskResult:
        """Enqueue a task on this runner's backend and return its result.

        The arguments that follow are the task's. Raises what ``enqueue()`` raises.
        """
        return self.backend.enqueue(task, args, kwargs)

    def wait_for(self, result: AnyTaskResult, timeout: float | None = None) -> bool:
        """Wait until the result's job has ended and refresh the result.

        ``timeout``: seconds, or None for as long as this runner runs. Returns whether it ended.
        """

        def ended() -> bool:
            result.refresh()
            return result.is_finished

        return self._wait(ended, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no job of this runner's queues is ready or running.

        Jobs that are scheduled for later, or paused, are not waited for. ``timeout``: seconds, or
        None for as long as this runner runs. Returns whether it came to that.
        """

        def nothing_left() -> bool:
            jobs = Job.objects.using(router.db_for_write(Job)).filter(
                backend_name=self._queues.backend_name,
                status__in=(JobStatus.READY, JobStatus.RUNNING),
            )
            names = {pause.queue_name for pause in paused(self._queues.backend_name)}
            jobs = jobs.exclude(status=JobStatus.READY, queue_name__in=names)
            if self._queues.names is not None:
                jobs = jobs.filter(queue_name__in=self._queues.names)
            return not jobs.exists()

        return self._wait(nothing_left, timeout)

    def _wait(self, condition: Any, timeout: float | None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_LOOK
        while not condition():
            if self.finished.is_set() or (until is not None and time.monotonic() >= until):
                return bool(condition())  # it may have come true since
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        return True
