"""How jobs come into the table."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

from ..models import Job
from .database import TABLE, Database, marks
from .messages import NewJob

# Rows of one multi-row INSERT, and rows that are held at once.
INSERT_BATCH = 100
INSERT_CHUNK = 5000


class Inserting(Database):
    """Inserts jobs in the caller's transaction."""

    def insert(self, rows: Iterable[NewJob]) -> list[UUID]:
        """Insert jobs, all or none, in the caller's transaction; return their ids, in order.

        Takes the rows in chunks. What they are made from may use the connection, and may raise:
        then nothing is inserted.
        """
        rows = iter(rows)
        chunk = list(islice(rows, INSERT_CHUNK))
        if len(chunk) <= 1 or (len(chunk) <= INSERT_BATCH and _have_ids(chunk)):
            self._insert_chunk(chunk)  # one statement needs no transaction
            return [row.id for row in chunk]
        ids = []
        with self._transaction():
            while chunk:
                self._insert_chunk(chunk)
                ids += [row.id for row in chunk]
                chunk = list(islice(rows, INSERT_CHUNK))
        return ids

    def _insert_chunk(self, rows: Sequence[NewJob]) -> None:
        if _have_ids(rows):
            self._insert_many(rows)
        else:
            self._insert_expressions(rows)

    def _insert_many(self, rows: Sequence[NewJob]) -> None:
        for start in range(0, len(rows), INSERT_BATCH):
            batch = rows[start : start + INSERT_BATCH]
            params = [value for row in batch for value in self._insert_params(row)]
            with self.connection.cursor() as cursor:
                cursor.execute(self._INSERT + ",".join([self._INSERT_ROW] * len(batch)), params)

    # Those without a default of the database are 0.
    _INSERT_COLUMNS = ", ".join([*NewJob.__slots__, "attempts", "lost", "lease"])
    _INSERT = f"INSERT INTO {TABLE} ({_INSERT_COLUMNS}) VALUES "
    _INSERT_ROW = f"({marks(len(NewJob.__slots__))},0,0,0)"

    def _insert_params(self, row: NewJob) -> tuple[Any, ...]:
        to_time = self.to_time
        return (
            self.to_id(row.id),
            row.status,
            row.backend_name,
            row.queue_name,
            row.priority,
            row.task_path,
            row.args,
            row.kwargs,
            to_time(row.run_after),
            to_time(row.run_at),
            to_time(row.enqueued_at),
            row.schedule,
        )

    def _insert_expressions(self, rows: Sequence[NewJob]) -> None:
        """One by one: the database makes the ids, and each row gets what it made."""
        for row in rows:
            values = {name: getattr(row, name) for name in NewJob.__slots__}
            values |= {"args": json.loads(row.args), "kwargs": json.loads(row.kwargs)}
            job = Job(**values)
            job.save(using=self.connection.alias, force_insert=True)
            row.id = job.id


def _have_ids(rows: Sequence[NewJob]) -> bool:
    """Return whether the database has to make none of the ids."""
    return all(isinstance(row.id, UUID) for row in rows)
