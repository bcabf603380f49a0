"""The rows of ``Worker``: who is alive."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ..models import Worker
from .base import Store
from .database import marks

_TABLE = Worker._meta.db_table


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One life of a worker, as its row tells.

    ``last_seen``: database time in microseconds. ``wish``: what somebody wants of it.
    """

    id: str
    life: UUID
    backend_name: str
    host: str
    pid: int
    process_started: str
    last_seen: int
    wish: str | None = None

    def __str__(self) -> str:
        return f"worker {self.id!r} (process {self.pid} on {self.host})"


_COLUMNS = ", ".join(WorkerRow.__slots__)


class Registry:
    """Reads and writes the rows of workers through a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(
        self,
        row: WorkerRow,
        *,
        queues: str,
        threads: int,
        coroutines: int,
        version: str,
        now: datetime,
        memory: int | None = None,
    ) -> None:
        """Insert a worker's row. Raises ``IntegrityError`` if its id is taken."""
        store = self.store
        store.changed(
            f"INSERT INTO {_TABLE} "
            f"({_COLUMNS}, queues, capacity, threads, coroutines, version, memory, "
            f"started_at) VALUES ({marks(len(WorkerRow.__slots__) + 7)})",
            [
                row.id,
                store.to_id(row.life),
                row.backend_name,
                row.host,
                row.pid,
                row.process_started,
                row.last_seen,
                row.wish,
                json.dumps(queues),
                threads + coroutines,
                threads,
                coroutines,
                version,
                memory,
                store.to_time(now),
            ],
        )

    def beat(self, id: str, life: UUID, last_seen: int, memory: int | None = None) -> bool:
        """Write that this life is alive; return whether its row was still there.

        ``memory``: resident, in bytes.
        """
        return bool(
            self.store.changed(
                f"UPDATE {_TABLE} SET last_seen = %s, memory = %s WHERE id = %s AND life = %s",
                [last_seen, memory, id, self.store.to_id(life)],
            )
        )

    def remove(self, row: WorkerRow) -> bool:
        """Delete a row unless it was seen since ``row`` was read; return whether it was."""
        return bool(
            self.store.changed(
                f"DELETE FROM {_TABLE} WHERE id = %s AND life = %s AND last_seen = %s",
                [row.id, self.store.to_id(row.life), row.last_seen],
            )
        )

    def leave(self, id: str, life: UUID) -> None:
        """Delete this life's row."""
        self.store.changed(
            f"DELETE FROM {_TABLE} WHERE id = %s AND life = %s", [id, self.store.to_id(life)]
        )

    def find(self, id: str) -> WorkerRow | None:
        """Return the row of a worker id."""
        return next((row for row in self.all() if row.id == id), None)

    def all(self) -> list[WorkerRow]:
        """Return all rows: a handful."""
        return [
            WorkerRow(id, self.store.from_id(life), *rest)
            for id, life, *rest in self.store.rows(f"SELECT {_COLUMNS} FROM {_TABLE}")
        ]
