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
        return tasks_logger.isEnabledFor(ERROR if failed else _LOG_ONLY[id(signal)][1])
    return bool(signal.receivers)


def _only_logs(signal: Any) -> bool:
    # A receiver's entry starts with the ids of the receiver and of the sender it listens to.
    receivers = signal.receivers
    return len(receivers) == 1 and receivers[0][0][0] == id(_LOG_ONLY[id(signal)][0])
