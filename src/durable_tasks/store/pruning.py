"""How jobs that have ended leave the table."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from ..statuses import ENDED, JobStatus
from .database import TABLE, Database, marks

_NOT_ENDED = ",".join(f"'{status.value}'" for status in JobStatus if status not in ENDED)


class Deleting(Database):
    """Deletes jobs that are old, or whose time to be deleted has come."""

    @abstractmethod
    def prune(
        self,
        statuses: Sequence[str],
        before: datetime,
        *,
        backend_name: str,
        queue_names: Sequence[str] | None = None,
        limit: int = 5000,
    ) -> int:
        """Delete up to ``limit`` jobs of ``statuses`` that finished before; return how many."""

    def prune_due(
        self,
        now: datetime,
        limit: int,
        *,
        since: datetime | None = None,
        without: Collection[UUID] = (),
    ) -> tuple[int, datetime | None]:
        """Delete up to ``limit`` ended jobs whose ``delete_after`` has come, the longest due first.

        Returns how many, and the ``delete_after`` of the last one. ``since``: pass over those
        before, which the last batch has dealt with: what it deleted may still be in the index.
        ``without``: pass over these.

        Looks without locks before it writes. Waits for no lock but raises ``OperationalError``,
        and does not try again: there is no hurry. Raises ``IntegrityError``, and deletes none, if a
        row of another table refers to one of them. Served by durable_job_delete_after.
        """
        if self.longest_due(now, since=since, without=without) is None:
            return 0, None
        condition, params = self._due(now, since, without)
        return self._prune_due(condition, [*params, limit])

    def longest_due(
        self, now: datetime, *, since: datetime | None = None, without: Collection[UUID] = ()
    ) -> tuple[UUID, datetime] | None:
        """Return what ``prune_due`` would delete first, and its ``delete_after``; or None."""
        condition, params = self._due(now, since, without)
        rows = self.rows(
            f"SELECT id, delete_after FROM {self._DUE} WHERE {condition} "
            "ORDER BY delete_after LIMIT 1",
            params,
        )
        return (self.from_id(rows[0][0]), self.from_time(rows[0][1])) if rows else None

    def _due(
        self, now: datetime, since: datetime | None, without: Collection[UUID]
    ) -> tuple[str, list[Any]]:
        condition, params = "delete_after <= %s", [self.to_time(now)]
        if since is not None:
            condition += " AND delete_after >= %s"
            params.append(self.to_time(since))
        if without:
            condition += f" AND id NOT IN ({marks(len(without))})"
            params += map(self.to_id, without)
        # No job goes that is to run, whatever somebody wrote to its row. A list of the statuses of
        # ended jobs would invite durable_job_ended.
        return f"{condition} AND status NOT IN ({_NOT_ENDED})", params

    # Seconds that a batch may take, or the next one is smaller.
    prune_for: ClassVar[float] = 0.05

    # The table, read by durable_job_delete_after.
    _DUE = TABLE

    @abstractmethod
    def _prune_due(self, condition: str, params: list[Any]) -> tuple[int, datetime | None]:
        """Delete the first jobs under a condition; ``params``: the condition's and the limit."""
