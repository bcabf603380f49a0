"""The model: ``Job`` by the names of django-tasks-db."""

from django.db.models import F

from durable_tasks.compat import DEFAULT_TASK_QUEUE_NAME, AnyTask
from durable_tasks.results import DurableTaskResult
from durable_tasks_dropins import rows

__all__ = ["DBTaskResult"]


class DBTaskResult(rows.JobRow):
    """The row of an enqueued task: to be read, and deleted."""

    id = rows.column("id")
    status = rows.ShownStatus()
    enqueued_at = rows.column("enqueued_at")
    started_at = rows.column("started_at")
    finished_at = rows.column("finished_at")
    args_kwargs = rows.ShownJson(shows=rows.ARGS_KWARGS)
    priority = rows.column("priority")
    task_path = rows.column("task_path")
    worker_ids = rows.ShownJson(default=list, shows=rows.WORKER_IDS)
    queue_name = rows.column("queue_name", default=DEFAULT_TASK_QUEUE_NAME)
    backend_name = rows.column("backend_name")
    run_after = rows.ShownTime(shows=rows.RUN_AFTER_OR_NEVER)
    return_value = rows.column("return_value")
    exception_class_path = rows.ShownText(shows=rows.EXCEPTION_PATH)
    traceback = rows.ShownText(shows=rows.TRACEBACK)

    class Meta(rows.JobRow.Meta):
        verbose_name = "Task Result"
        verbose_name_plural = "Task Results"
        ordering = [F("priority").desc(), F("run_after").asc(), F("enqueued_at").asc()]

    @property
    def task(self) -> AnyTask:
        """The task as it was enqueued; a stand-in if it can't be imported any more."""
        return self._task(
            queue_name=self.queue_name,
            backend=self.backend_name,
            run_after=None if self.run_after == rows.never() else self.run_after,
        )

    @property
    def task_result(self) -> DurableTaskResult:
        """Django's ``TaskResult``, read anew."""
        return self._result()

    @property
    def task_name(self) -> str:
        """The name of the task's function."""
        return str(self.task_path).rpartition(".")[2]
