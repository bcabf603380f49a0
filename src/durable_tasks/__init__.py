"""Durable background tasks for Django, kept in the project's own database.

Nothing is imported until it is asked for: naming this package in ``INSTALLED_APPS`` or in
``TASKS`` must not load a model while Django is still starting.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import DatabaseBackend
    from .exceptions import (
        Cancel,
        CannotWait,
        DurableTasksError,
        NotSerializable,
        RefusedByDatabase,
        ResultTimeout,
        ResultTooLarge,
        Retry,
        ScheduleExhausted,
        Snooze,
        TaskCancelled,
        TaskNotFound,
        TaskTimeout,
        WorkerIdInUse,
        WorkerLost,
    )
    from .periodic import Periodic
    from .redaction import SECRETS
    from .results import DurableTaskResult
    from .retry import exponential, fixed, steps
    from .runner import Runner
    from .schedules import Crontab, Duration, Every, Schedule
    from .tasks import DurableTask, task

__version__ = "0.1.0"

_HOMES = {
    "Cancel": "exceptions",
    "CannotWait": "exceptions",
    "Crontab": "schedules",
    "DatabaseBackend": "backend",
    "DurableTask": "tasks",
    "DurableTaskResult": "results",
    "DurableTasksError": "exceptions",
    "Duration": "schedules",
    "Every": "schedules",
    "NotSerializable": "exceptions",
    "Periodic": "periodic",
    "RefusedByDatabase": "exceptions",
    "ResultTimeout": "exceptions",
    "ResultTooLarge": "exceptions",
    "Retry": "exceptions",
    "Runner": "runner",
    "SECRETS": "redaction",
    "Schedule": "schedules",
    "ScheduleExhausted": "exceptions",
    "Snooze": "exceptions",
    "TaskCancelled": "exceptions",
    "TaskNotFound": "exceptions",
    "TaskTimeout": "exceptions",
    "WorkerIdInUse": "exceptions",
    "WorkerLost": "exceptions",
    "exponential": "retry",
    "fixed": "retry",
    "steps": "retry",
    "task": "tasks",
}

__all__ = [
    "SECRETS",
    "Cancel",
    "CannotWait",
    "Crontab",
    "DatabaseBackend",
    "DurableTask",
    "DurableTaskResult",
    "DurableTasksError",
    "Duration",
    "Every",
    "NotSerializable",
    "Periodic",
    "RefusedByDatabase",
    "ResultTimeout",
    "ResultTooLarge",
    "Retry",
    "Runner",
    "Schedule",
    "ScheduleExhausted",
    "Snooze",
    "TaskCancelled",
    "TaskNotFound",
    "TaskTimeout",
    "WorkerIdInUse",
    "WorkerLost",
    "exponential",
    "fixed",
    "steps",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
