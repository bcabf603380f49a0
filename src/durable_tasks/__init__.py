"""Durable background tasks for Django, kept in the project's own database.

Nothing is imported until it is asked for: naming this package in ``INSTALLED_APPS`` or in
``TASKS`` must not load a model while Django is still starting.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import DatabaseBackend
    from .exceptions import (
        CannotWait,
        DurableTasksError,
        NotSerializable,
        RefusedByDatabase,
        ResultTimeout,
        ResultTooLarge,
        TaskCancelled,
        TaskNotFound,
        WorkerIdInUse,
        WorkerLost,
    )
    from .results import DurableTaskResult
    from .runner import Runner
    from .tasks import DurableTask, task

__version__ = "0.1.0"

_HOMES = {
    "CannotWait": "exceptions",
    "DatabaseBackend": "backend",
    "DurableTask": "tasks",
    "DurableTaskResult": "results",
    "DurableTasksError": "exceptions",
    "NotSerializable": "exceptions",
    "RefusedByDatabase": "exceptions",
    "ResultTimeout": "exceptions",
    "ResultTooLarge": "exceptions",
    "Runner": "runner",
    "TaskCancelled": "exceptions",
    "TaskNotFound": "exceptions",
    "WorkerIdInUse": "exceptions",
    "WorkerLost": "exceptions",
    "task": "tasks",
}

__all__ = [
    "CannotWait",
    "DatabaseBackend",
    "DurableTask",
    "DurableTaskResult",
    "DurableTasksError",
    "NotSerializable",
    "RefusedByDatabase",
    "ResultTimeout",
    "ResultTooLarge",
    "Runner",
    "TaskCancelled",
    "TaskNotFound",
    "WorkerIdInUse",
    "WorkerLost",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
