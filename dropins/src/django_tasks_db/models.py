"""The model: ``Job`` by the names of django-tasks-db."""

from typing import Self
from uuid import UUID

from django.db import router
from django.db.models import F

from durable_tasks.compat import DEFAULT_TASK_QUEUE_NAME, AnyTask, TaskError, TaskResultStatus
from durable_tasks.exceptions import TaskCancelled
from durable_tasks.models import Job
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

    @classmethod
    def of(cls, result: DurableTaskResult) -> Self:
        """Return the row as a result has it, without a query."""
        errors = [] if result.status == TaskResultStatus.SUCCESSFUL else result.errors
        # Who cancels a job that waits leaves no error in its row.
        stored = [each for each in errors if each.traceback or not _is_cancelling(each)]
        last = stored[-1] if stored else None
        row = cls(
            id=UUID(result.id),
            status=result.status.value,
            enqueued_at=result.enqueued_at,
            started_at=result.started_at,
            finished_at=result.finished_at,
            args_kwargs={"args": result.args, "kwargs": result.kwargs},
            priority=result.task.priority,
            task_path=result.task.module_path,
            worker_ids=result.worker_ids,
            queue_name=result.task.queue_name,
            backend_name=result.backend,
            run_after=result.task.run_after or rows.never(),
            return_value=result._return_value,
            exception_class_path=last.exception_class_path if last else "",
            traceback=last.traceback if last else "",
        )
        row._state.adding = False
        row._state.db = router.db_for_write(Job)
        return row

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


def _is_cancelling(error: TaskError) -> bool:
    return error.exception_class_path == f"{TaskCancelled.__module__}.{TaskCancelled.__qualname__}"
