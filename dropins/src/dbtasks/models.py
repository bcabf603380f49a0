"""The model: ``Job`` by the names of django-dbtasks."""

from django.db.models import Case, When

from durable_tasks.compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_QUEUE_NAME,
    AnyTask,
    BaseTaskBackend,
    task_backends,
)
from durable_tasks.results import DurableTaskResult
from durable_tasks_dropins import rows

__all__ = ["ScheduledTask"]


class ScheduledTask(rows.JobRow):
    """The row of an enqueued task: to be read, and deleted."""

    id = rows.column("id")
    status = rows.ShownStatus()
    enqueued_at = rows.column("enqueued_at")
    started_at = rows.column("started_at")
    finished_at = rows.column("finished_at")
    args = rows.column("args")
    kwargs = rows.column("kwargs")
    task_path = rows.column("task_path")
    priority = rows.column("priority")
    queue = rows.column("queue_name", default=DEFAULT_TASK_QUEUE_NAME)
    backend = rows.column("backend_name", default=DEFAULT_TASK_BACKEND_ALIAS)
    run_after = rows.column("run_after")
    delete_after = rows.column("delete_after")
    periodic = rows.ShownBoolean(
        default=False, shows=Case(When(schedule__isnull=False, then=True), default=False)
    )
    worker_id = rows.column("worker_id")
    worker_ids = rows.ShownJson(default=list, shows=rows.WORKER_IDS)
    return_value = rows.column("return_value")
    exception_path = rows.ShownText(shows=rows.EXCEPTION_PATH)
    traceback = rows.ShownText(shows=rows.TRACEBACK)

    class Meta(rows.JobRow.Meta):
        verbose_name = "scheduled task"
        verbose_name_plural = "scheduled tasks"

    def __str__(self) -> str:
        return f"{self.task_path} ({self.pk})"

    @property
    def task_id(self) -> str:
        """The id of the task's result."""
        return str(self.pk)

    @property
    def task(self) -> AnyTask:
        """The task as it was enqueued; a stand-in if it can't be imported any more."""
        return self._task(queue_name=self.queue, backend=self.backend, run_after=self.run_after)

    @property
    def result(self) -> DurableTaskResult:
        """Django's ``TaskResult``, read anew."""
        return self._result()

    @property
    def task_backend(self) -> BaseTaskBackend:
        """The backend. Raises ``InvalidTaskBackend`` if the settings have it no more."""
        return task_backends[self.backend]
