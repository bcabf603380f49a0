"""The exceptions of durable_tasks: each says what happened and what to do."""

from datetime import timedelta


class DurableTasksError(Exception):
    """Base class of all our errors."""


class NotSerializable(DurableTasksError, TypeError, ValueError):
    """An argument or a return value can't be stored as JSON; the message names the place."""


class ResultTooLarge(DurableTasksError, ValueError):
    """A return value is longer than ``OPTIONS["max_result_size"]`` bytes of JSON."""


class RefusedByDatabase(DurableTasksError):
    """The database refused the values of a job's ending; the reason is in the message."""


class ResultTimeout(DurableTasksError, TimeoutError):
    """A job had not ended when the time to wait for it was over; nothing was changed."""


class CannotWait(DurableTasksError, RuntimeError):
    """Something was to be waited for that can't come.

    Inside a transaction no job can be seen to end; where tasks run when they are enqueued, none
    can run later.
    """


class TaskNotFound(DurableTasksError, LookupError):
    """A job's task path does not lead to a task any more."""


class TaskCancelled(DurableTasksError):
    """The job was cancelled."""


class TaskTimeout(DurableTasksError, TimeoutError):
    """The task ran longer than its ``timeout``; raised inside of it."""


class WorkerLost(DurableTasksError):
    """The worker that ran the job was not seen for ``worker_timeout`` seconds, or is gone."""


class WorkerIdInUse(DurableTasksError):
    """A living worker already goes by this worker id."""


class ScheduleExhausted(DurableTasksError):
    """A schedule has no further time, or none before the limit that was given."""


# What a task raises to say what becomes of its job ----------------------------------------------


class Retry(DurableTasksError):
    """Run the job again if its ``max_attempts`` allow it; this run counts.

    ``after``: seconds or a ``timedelta``; None leaves it to ``backoff``.
    """

    def __init__(self, message: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(message or "The task asks for another run.")
        self.after = after


class Snooze(DurableTasksError):
    """Run the job again after so many seconds, or a ``timedelta``; this run does not count."""

    def __init__(self, after: float | timedelta) -> None:
        super().__init__(f"Not now, but in {after}.")
        self.after = after


class Cancel(DurableTasksError):
    """The job is no longer wanted: it ends as CANCELLED, for this reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "The task cancelled its job.")
