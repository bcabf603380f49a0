"""Sending Django's task signals: only when somebody listens, and never failing."""

from collections.abc import Callable
from logging import DEBUG, ERROR, INFO
from typing import Any

from django.dispatch import Signal

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
_LOG_ONLY: dict[int, tuple[int, int]] = {
    id(task_enqueued): (id(log_task_enqueued), DEBUG),
    id(task_started): (id(log_task_started), INFO),
    id(task_finished): (id(log_task_finished), INFO),
}


def announce(
    signal: Signal, sender: type, make_result: Callable[[], AnyTaskResult], *, failed: bool = False
) -> None:
    """Send ``signal`` with the result that ``make_result`` returns, if anyone would notice.

    ``failed``: the result is a failure, which Django logs as an error.
    A receiver that raises is logged by Django and disturbs neither the others nor the caller.
    """
    if is_heard(signal, failed=failed):
        signal.send_robust(sender=sender, task_result=make_result())


def is_heard(signal: Any, *, failed: bool = False) -> bool:
    """Return whether sending ``signal`` could have any effect."""
    receivers = signal.receivers
    log_receiver, level = _LOG_ONLY[id(signal)]
    if len(receivers) == 1 and receivers[0][0][0] == log_receiver:
        return tasks_logger.isEnabledFor(ERROR if failed else level)
    return bool(receivers)
