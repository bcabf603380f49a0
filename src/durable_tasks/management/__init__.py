"""What our commands share: each parses, calls, and prints."""

from django.core.management.base import CommandError

from ..backend import DatabaseBackend
from ..compat import InvalidTaskBackend, task_backends


def durable_backend(alias: str) -> DatabaseBackend:
    """Return the backend ``alias``. Raises ``CommandError`` if it is unknown or not ours."""
    try:
        backend = task_backends[alias]
    except InvalidTaskBackend as error:
        known = ", ".join(task_backends.settings)
        raise CommandError(
            f"There is no task backend {alias!r} in TASKS. Known: {known}."
        ) from error
    if not isinstance(backend, DatabaseBackend):
        raise CommandError(
            f"TASKS[{alias!r}] is a {type(backend).__name__}, not a durable_tasks backend."
        )
    return backend


def queue_names(text: str, option: str, *, empty: bool = False) -> tuple[str, ...] | None:
    """Parse a list of queues separated by commas; None stands for ``*``, all queues."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if "*" in names:
        if len(names) > 1:
            raise CommandError(f"{option}: '*' means all queues and stands alone.")
        return None
    if not names and not empty:
        raise CommandError(f"{option} must name at least one queue.")
    return names
