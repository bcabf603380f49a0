"""The backend, and what its results have with django-tasks-db."""

from typing import TYPE_CHECKING

from django.db import router

from durable_tasks.backend import DatabaseBackend
from durable_tasks.results import DurableTaskResult as TaskResult

if TYPE_CHECKING:
    from .models import DBTaskResult

__all__ = ["DatabaseBackend", "TaskResult"]


def _db_result(result: TaskResult) -> "DBTaskResult":
    """The row, read anew. Raises ``DBTaskResult.DoesNotExist`` if it was deleted."""
    from durable_tasks.models import Job

    from .models import DBTaskResult  # late: models can't be imported while apps load

    rows = DBTaskResult._default_manager.using(router.db_for_write(Job))
    return rows.get(pk=result.id)


TaskResult.db_result = property(_db_result)  # type: ignore[attr-defined]
