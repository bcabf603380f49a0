"""How queues and tasks are paused: what no worker claims, and what becomes of its jobs."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..models import Pause
from .database import TABLE, Database, marks
from .messages import MAX_BATCH, LockedJob
from .queues import Pauses, Queues, Resumed, Stamp

if TYPE_CHECKING:
    from .claiming import Part

_PAUSES = Pause._meta.db_table
# Served by durable_pause_of, and durable_job_paused (MySQL: any index that begins with the status).
# The sum, not the greatest: of two pauses that are made at once the later id may be there first.
# The condition on the path is always true: SQLite reads no partial index without one of its column.
STAMP = (
    f"(SELECT COUNT(*) FROM {_PAUSES} WHERE backend_name = %s), "
    f"(SELECT SUM(id) FROM {_PAUSES} WHERE backend_name = %s), "
    f"EXISTS (SELECT 1 FROM {TABLE} WHERE status = 'PAUSED' AND task_path >= '')"
)


class Pausing(Database):
    """Tells what is paused, and moves jobs of paused tasks out of the way of claims and back."""

    def stamp(self, backend_name: str) -> Stamp:
        """Return what changes with the pauses of a backend; ``peek()`` brings it as well."""
        return self.to_stamp(self.row(f"SELECT {STAMP}", [backend_name] * 2))

    @staticmethod
    def to_stamp(row: Sequence[Any]) -> Stamp:
        count, sum, parked = row
        return Stamp(count, int(sum or 0), bool(parked))  # some databases make it a Decimal

    def pauses(self, backend_name: str) -> Pauses:
        """Return what is paused of a backend."""
        rows = self.rows(
            f"SELECT queue_name, task_path FROM {_PAUSES} WHERE backend_name = %s", [backend_name]
        )
        return Pauses(
            frozenset(name for name, path in rows if name and not path),
            frozenset(path for name, path in rows if path and not name),
        )

    def pause(self, queues: Queues, task_paths: Collection[str], limit: int = MAX_BATCH) -> int:
        """Of the best ``limit`` READY jobs of each queue, make those of these tasks PAUSED.

        Returns how many. So a worker passes by many at once instead of claiming each. Looks without
        locks, served by durable_job_ready, and takes what it found with SKIP LOCKED.
        """
        ids: list[UUID] = []
        for condition, params in self._parts(queues):
            rows = self.rows(
                f"SELECT id, task_path FROM {self._READY} "
                f"WHERE status = 'READY' AND backend_name = %s{condition} "
                "ORDER BY priority DESC, run_at, id LIMIT %s",
                [queues.backend_name, *params, limit],
            )
            ids += [self.from_id(id) for id, path in rows if path in task_paths]
        return self._move(ids[:limit], "READY", "PAUSED")

    def resume(
        self,
        backend_name: str,
        task_paths: Collection[str],
        after: Any = None,
        limit: int = MAX_BATCH,
    ) -> Resumed:
        """Make up to ``limit`` PAUSED jobs READY whose task is none of these, which are paused.

        ``after``: of the step before; None: from the start. Rows that others have locked are passed
        over. Priority and due time stay: each job is where it was in the order.
        """
        ids, after = self._to_resume(backend_name, task_paths, after, limit)
        jobs = self._move(ids, "PAUSED", "READY")
        # Without a cursor, what others have locked would be found again and again.
        return Resumed(jobs, after if jobs or not ids else None)

    def _to_resume(
        self, backend_name: str, task_paths: Collection[str], after: Any, limit: int
    ) -> tuple[list[UUID], Any]:
        """Hop along durable_job_paused: one look-up for each task, however many jobs it has."""
        for path in self._hops("task_path", "status = 'PAUSED'", []):
            if path in task_paths:
                continue
            rows = self.rows(
                f"SELECT id FROM {TABLE} WHERE status = 'PAUSED' AND task_path = %s "
                "AND backend_name = %s LIMIT %s",
                [path, backend_name, limit],
            )
            if rows:
                return [self.from_id(row[0]) for row in rows], path
        return [], None

    def _move(self, ids: Sequence[UUID], before: str, after: str) -> int:
        """Give waiting jobs another status; their lease stays, since nobody holds them."""
        if not ids:
            return 0

        def work() -> int:
            with self._transaction():
                found = [job.id for job in self.lock(ids, wait=False) if job.status == before]
                if not found:
                    return 0
                return self.changed(
                    f"UPDATE {self._BY_KEY} SET status = %s WHERE id IN ({marks(len(found))})",
                    [after, *map(self.to_id, found)],
                )

        return self._retried(work)

    # Of the store

    _READY: str
    _BY_KEY: str

    @abstractmethod
    def _parts(self, queues: Queues) -> "list[Part]": ...

    @abstractmethod
    def lock(self, ids: Sequence[UUID], *, wait: bool = True) -> list[LockedJob]: ...
