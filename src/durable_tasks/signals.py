"""Sending Django's task signals: only when somebody listens, and never failing."""

import logging
from collections.abc import Callable
from logging import DEBUG, ERROR, INFO
from types import FunctionType
from typing import Any

from django.conf import settings
from django.dispatch import Signal
from django.utils.log import RequireDebugFalse, RequireDebugTrue

from .compat import (
    AnyTaskResult,
    log_task_enqueued,
    log_task_finished,
    log_task_started,
    task_enqueued,
    task_finished,
    task_started,
    tasks_logger,
)

# Django's own receiver of each signal, which only logs, and the level it needs to do anything.
_LOG_ONLY: dict[int, tuple[Callable[..., None], int]] = {
    id(task_enqueued): (log_task_enqueued, DEBUG),
    id(task_started): (log_task_started, INFO),
    id(task_finished): (log_task_finished, INFO),
}


def announce(
    signal: Signal, sender: type, make_result: Callable[[], AnyTaskResult], *, failed: bool = False
) -> None:
    """Send ``signal`` with the result that ``make_result`` returns, if anyone would notice.

    ``failed``: the result is a failure, which Django logs as an error.
    A receiver that raises is logged by Django and disturbs neither the others nor the caller.
    """
    if not is_heard(signal, failed=failed):
        return
    if _only_logs(signal):  # the same as sending it, at a third of the cost
        _LOG_ONLY[id(signal)][0](sender=sender, task_result=make_result())
    else:
        signal.send_robust(sender=sender, task_result=make_result())


def is_heard(signal: Any, *, failed: bool = False) -> bool:
    """Return whether sending ``signal`` could have any effect."""
    if _only_logs(signal):
        return _is_taken(tasks_logger, ERROR if failed else _LOG_ONLY[id(signal)][1])
    return bool(signal.receivers)


def _only_logs(signal: Any) -> bool:
    # A receiver's entry starts with the ids of the receiver and of the sender it listens to.
    receivers = signal.receivers
    return len(receivers) == 1 and receivers[0][0][0] == id(_LOG_ONLY[id(signal)][0])


def _is_taken(logger: logging.Logger, level: int) -> bool:
    """Return whether a record of this level could leave a trace.

    With Django's own settings and DEBUG off it could not: its handlers take errors only. Whatever
    is not known for sure, such as a filter of the project's, might let it pass.
    """
    if not logger.isEnabledFor(level):
        return False
    if not _is_plain(logger):
        return True
    found = False
    each: logging.Logger | None = logger
    while each is not None:
        for handler in each.handlers:
            found = True
            if level >= handler.level and not any(map(_rejects_all, handler.filters)):
                return True
        each = each.parent if each.propagate else None
    return not found  # then there is logging's handler of last resort


def _is_plain(logger: logging.Logger) -> bool:
    """Return whether records reach handlers and nothing else: error trackers patch themselves in,
    and a factory may count."""
    kind = type(logger)
    steps = (kind._log, kind.makeRecord, kind.handle, kind.callHandlers)
    return (
        not logger.filters
        and logging.getLogRecordFactory() is logging.LogRecord
        and all(type(step) is FunctionType and step.__module__ == "logging" for step in steps)
    )


def _rejects_all(filter: Any) -> bool:
    kind = type(filter)
    return (kind is RequireDebugTrue and not settings.DEBUG) or (
        kind is RequireDebugFalse and settings.DEBUG
    )
