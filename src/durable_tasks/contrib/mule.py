"""A worker in a uWSGI mule: ``mule = durable_tasks.contrib.mule:taskrunner``.

Options of uWSGI, or variables of its environment, say how it works:

- ``durable-tasks-threads``, ``DURABLE_TASKS_THREADS``: sync tasks at once; 4 if nothing is said.
- ``durable-tasks-queues``, ``DURABLE_TASKS_QUEUES``: the queues to serve, separated by commas; all
  if nothing is said.
- ``durable-tasks-backend``, ``DURABLE_TASKS_BACKEND``: the key in ``TASKS`` whose tasks to run.
- ``durable-tasks-worker-id``, ``DURABLE_TASKS_WORKER_ID``: a name; the worker is called NAME-1 in
  the first mule, and so on. Generated if nothing is said.
"""

import logging
import os
import signal
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DatabaseError

from ..compat import DEFAULT_TASK_BACKEND_ALIAS
from ..exceptions import DurableTasksError

if TYPE_CHECKING:
    from ..worker.worker import WorkerSettings

logger = logging.getLogger("durable_tasks")

# What uWSGI sends a mule: to stop, and to reload. Others may send SIGTERM.
STOP_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)
# Seconds after which a worker that can't work ends: uWSGI starts the next one at once.
PAUSE = 5.0


def taskrunner() -> None:
    """Run a worker until uWSGI stops this mule, or reloads it."""
    import uwsgi  # uWSGI's own: it is nowhere else

    try:
        if not apps.ready:  # without an application
            django.setup()
        # Not sooner: they import models.
        from ..management.commands.db_worker import set_up_logging
        from ..worker.stopping import STUCK
        from ..worker.worker import Worker

        set_up_logging(verbosity=1)
        settings = settings_from({**os.environ, **from_options(uwsgi.opt)}, uwsgi.mule_id())
        worker = Worker(settings, exit=partial(os._exit, STUCK))
        signals: SimpleQueue[int] = SimpleQueue()

        def stop(number: int, frame: Any) -> None:
            worker.stop()
            signals.put(number)

        for number in STOP_SIGNALS:
            signal.signal(number, stop)
        worker.run()
    except Exception as error:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        told = isinstance(error, DurableTasksError | ImproperlyConfigured | DatabaseError)
        logger.error("The mule can't run tasks: %s", str(error).strip(), exc_info=not told)
        time.sleep(PAUSE)
    else:
        logger.info("Worker %s has stopped.", worker.id, extra={"worker_id": worker.id})
        if worker.dismissed and signals.empty():
            # Should the mule end, uWSGI would start another in its place.
            logger.info("This mule is idle until uWSGI reloads it.")
            signals.get()


def from_options(options: Mapping[str, bytes | list[bytes] | bool]) -> dict[str, str]:
    """Return those of uWSGI's options that are for us, as if the environment had them."""
    found = {}
    for name, value in options.items():
        if name.startswith("durable-tasks-"):
            last = value[-1] if isinstance(value, list) else value
            text = last.decode() if isinstance(last, bytes) else ""
            found[name.upper().replace("-", "_")] = text
    return found


def settings_from(environment: Mapping[str, str], number: int) -> "WorkerSettings":
    """Return what the worker has to know. ``number``: which of uWSGI's mules it is in, from 1.

    Raises ``ImproperlyConfigured``, naming the variable, if a value is wrong.
    """
    from ..management import durable_backend, queue_names
    from ..management.commands.db_worker import above_zero, worker_id
    from ..store import Queues
    from ..worker.worker import WorkerSettings

    def read[T](name: str, default: str, parse: Callable[[str], T]) -> T:
        name = f"DURABLE_TASKS_{name}"
        try:
            return parse(environment.get(name) or default)
        except (ArgumentTypeError, CommandError) as error:
            raise ImproperlyConfigured(f"{name}: {error}") from error

    backend = read("BACKEND", DEFAULT_TASK_BACKEND_ALIAS, durable_backend)
    name = environment.get("DURABLE_TASKS_WORKER_ID")
    return WorkerSettings(
        sender=type(backend),
        options=backend.durable_options,
        queues=Queues(backend.alias, read("QUEUES", "*", lambda text: queue_names(text, "it"))),
        threads=read("THREADS", "4", above_zero),
        worker_id=name and read("WORKER_ID", "", lambda text: worker_id(f"{text}-{number}")),
    )
