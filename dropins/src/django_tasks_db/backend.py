"""The backend, and what its results have with django-tasks-db."""

from typing import TYPE_CHECKING

from durable_tasks.backend import DatabaseBackend
from durable_tasks.results import DurableTaskResult as TaskResult

if TYPE_CHECKING:
    from .models import DBTaskResult

__all__ = ["DatabaseBackend", "TaskResult"]


def _db_result(result: TaskResult) -> "DBTaskResult":
    """The row as the result has it, made without a query; the same one at each access."""
    from .models import DBTaskResult  # late: models can't be imported while apps load

    row: DBTaskResult | None = getattr(result, "_row", None)
    if row is None:
        row = DBTaskResult.of(result)
        object.__setattr__(result, "_row", row)
    return row


TaskResult.db_result = property(_db_result)  # type: ignore[attr-defined]
