"""The exceptions of durable_tasks: each says what happened and what to do."""


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
    """A job was to be waited for inside a transaction, which can't see it end."""


class TaskNotFound(DurableTasksError, LookupError):
    """A job's task path does not lead to a task any more."""


class TaskCancelled(DurableTasksError):
    """The job was cancelled."""


class WorkerLost(DurableTasksError):
    """The worker that ran the job was not seen for ``worker_timeout`` seconds, or is gone."""


class WorkerIdInUse(DurableTasksError):
    """A living worker already goes by this worker id."""
