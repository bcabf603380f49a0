"""Pausing queues and tasks: their jobs stay where they are until somebody resumes them.

Every worker follows within a second of the commit. What runs already goes on.
"""

import logging
from typing import Any

from django.db import router
from django.db.models import QuerySet

from . import clock
from .compat import InvalidTaskBackend, task_backends
from .models import MAX_NAME, MAX_PATH, Job, Pause

logger = logging.getLogger("durable_tasks")


def pause_queue(backend_name: str, queue_name: str, by: str = "") -> bool:
    """Let no worker start a job of this queue; return whether it was not paused before.

    ``by``: who wants it so. Part of the caller's transaction. Raises ``ValueError`` for a backend
    that is not ours, or a queue that it does not have.
    """
    queues = _backend(backend_name).queues
    _check("The queue's name", queue_name, MAX_NAME)
    if queues and queue_name not in queues:
        raise ValueError(
            f"The backend {backend_name!r} has no queue {queue_name!r}; it has "
            f"{', '.join(sorted(queues))}."
        )
    return _pause(backend_name, by, queue_name=queue_name)


def pause_task(backend_name: str, task_path: str, by: str = "") -> bool:
    """Let no worker start a job of this task; return whether it was not paused before.

    ``task_path``: its module and name, such as ``shop.tasks.send``; this process need not be able
    to import it. ``by``: who wants it so. Part of the caller's transaction. Raises ``ValueError``
    for a backend that is not ours, or what is no path.
    """
    _backend(backend_name)
    _check("The task's path", task_path, MAX_PATH)
    if not all(part.isidentifier() for part in task_path.split(".")) or "." not in task_path:
        raise ValueError(
            f"{task_path!r} is no path of a task: it is the module and the name, such as "
            "shop.tasks.send."
        )
    return _pause(backend_name, by, task_path=task_path)


def resume(backend_name: str, *, queue_name: str = "", task_path: str = "", by: str = "") -> bool:
    """Let workers start the jobs of this queue, or of this task; return whether it was paused.

    Part of the caller's transaction. Raises ``ValueError`` unless one of the two is named.
    """
    if bool(queue_name) == bool(task_path):
        raise ValueError("resume() needs either queue_name or task_path.")
    if "\0" in f"{backend_name}{queue_name}{task_path}":
        return False  # not all databases can be asked for it
    rows = _rows().filter(backend_name=backend_name, queue_name=queue_name, task_path=task_path)
    deleted, _ = rows.delete()
    if deleted:
        _log("resumed", backend_name, queue_name, task_path, by)
    return bool(deleted)


def paused(backend_name: str) -> list[Pause]:
    """Return what is paused of a backend: queues, then tasks, by name."""
    return list(_rows().filter(backend_name=backend_name).order_by("task_path", "queue_name"))


def _rows() -> "QuerySet[Pause]":
    # Where the jobs are, and where it was written: a replica may not have it yet.
    return Pause.objects.using(router.db_for_write(Job))


def _backend(backend_name: str) -> Any:
    try:
        backend = task_backends[backend_name]
    except InvalidTaskBackend:
        backend = None
    if not hasattr(backend, "durable_options"):
        raise ValueError(f"{backend_name!r} is no backend of durable_tasks in TASKS.")
    return backend


def _check(what: str, value: str, limit: int) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be a text that is not empty, not {value!r}.")
    if "\0" in value:
        raise ValueError(f"{what} contains a NUL character.")
    if len(value) > limit:
        raise ValueError(
            f"{what} is {len(value)} characters long, {limit} at most: {value[:60]!r}..."
        )


def _pause(backend_name: str, by: str, *, queue_name: str = "", task_path: str = "") -> bool:
    _, created = _rows().get_or_create(
        backend_name=backend_name,
        queue_name=queue_name,
        task_path=task_path,
        defaults={"paused_at": clock.now(), "paused_by": by[:MAX_PATH]},
    )
    if created:
        _log("paused", backend_name, queue_name, task_path, by)
    return created


def _log(what: str, backend_name: str, queue_name: str, task_path: str, by: str) -> None:
    logger.info(
        "%s of the backend %r was %s%s.",
        f"The queue {queue_name!r}" if queue_name else f"The task {task_path}",
        backend_name,
        what,
        f" by {by}" if by else "",
    )
