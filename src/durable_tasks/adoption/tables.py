"""The tables of django-tasks-db and django-dbtasks, whatever version made them."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from uuid import UUID

from django.db import connections

from .. import clock
from ..exceptions import DurableTasksError
from ..statuses import ENDED
from ..store import Store, store_for
from .rows import BadRow, OldRow

WORKERS = "dbtasks_worker"
# A taskrunner renews its row four times in its ``worker_timeout``, which is 60 seconds unless the
# settings say otherwise: one that was not seen for half of that is gone.
WORKER_TIMEOUT = 60.0
# Seconds between two looks at whether a worker renews its row.
LOOK = 0.5

# What django-dbtasks calls its columns, and what they are called here.
_NAMES = {
    "queue": "queue_name",
    "backend": "backend_name",
    "exception_path": "exception_class_path",
}
_TABLES = (
    ("django-tasks-db", "django_tasks_database_dbtaskresult"),
    ("django-dbtasks", "dbtasks_scheduledtask", WORKERS),
)
_NEEDED = {"id", "status", "task_path", "queue_name", "backend_name", "enqueued_at"}
_TIMES = ("run_after", "enqueued_at", "started_at", "finished_at", "delete_after")
_FINISHED = "status IN ('SUCCESSFUL', 'FAILED')"


class CannotAdopt(DurableTasksError):
    """Something is in the way; nothing was moved."""


@dataclass
class OldTable:
    """One of the tables. ``columns``: what it calls its columns, by what they are called here.

    ``drops``: all that can be dropped when this can. ``is_view``: its rows can't be locked.
    """

    package: str
    name: str
    store: Store
    columns: dict[str, str]
    drops: tuple[str, ...]
    is_view: bool

    @property
    def alias(self) -> str:
        return self.store.connection.alias

    @cached_property
    def counts(self) -> Counter[tuple[str, str]]:
        """How many rows there are of each status and backend; read once, since it scans."""
        backend = self._quote("backend_name")
        rows = self.store.rows(
            f"SELECT status, {backend}, COUNT(*) FROM {self.name} GROUP BY status, {backend}"
        )
        return Counter({(status, name): count for status, name, count in rows})

    def count(self, *, finished: bool) -> int:
        """Return how many rows have not ended; ``finished``: count those that have, too."""
        return sum(n for (status, _), n in self.counts.items() if finished or status not in ENDED)

    def ids(self, *, finished: bool, after: object, limit: int) -> dict[object, str]:
        """Return the next rows that have or have not ended: statuses by ids, as they are stored."""
        condition = _FINISHED if finished else f"NOT {_FINISHED}"
        params: list[object] = [limit]
        if after is not None:
            condition += " AND id > %s"
            params.insert(0, after)
        rows = self.store.rows(
            f"SELECT id, status FROM {self.name} WHERE {condition} ORDER BY id LIMIT %s", params
        )
        return dict(rows)

    def rows(self, ids: Sequence[object], *, lock: bool) -> list[OldRow]:
        """Return these rows as the database has them; ``lock``: until the transaction's end."""
        if not ids:
            return []
        columns = ", ".join(map(self._quote, self.columns))
        locks = lock and not self.is_view and self.store.connection.features.has_select_for_update
        locking = "FOR UPDATE" if locks else ""
        marks = ",".join(["%s"] * len(ids))
        rows = self.store.rows(
            f"SELECT {columns} FROM {self.name} WHERE id IN ({marks}) ORDER BY id {locking}", ids
        )
        return [dict(zip(self.columns, row, strict=True)) for row in rows]

    def read(self, row: OldRow) -> OldRow:
        """Return a row with its id and its times as Python has them. Raises ``ValueError``."""
        made = {"id": UUID(str(row["id"]))}
        for name in _TIMES:
            value = row.get(name)
            if value is not None:
                made[name] = self.store.from_time(value)
                if not isinstance(made[name], datetime):
                    raise BadRow(f"{name} is {value!r}")
        return {**row, **made}

    def run_since(self, when: datetime) -> int:
        """Return how many of the rows a worker has started or ended since then."""
        times = [name for name in ("started_at", "finished_at") if name in self.columns]
        if not times:
            return 0
        condition = " OR ".join(f"{name} >= %s" for name in times)
        [count] = self.store.row(
            f"SELECT COUNT(*) FROM {self.name} WHERE {condition}",
            [self.store.to_time(when)] * len(times),
        )
        return int(count)

    def _quote(self, name: str) -> str:
        return str(self.store.connection.ops.quote_name(self.columns[name]))


def has_tables(alias: str) -> bool:
    """Return whether this database has one of the tables."""
    there = connections[alias].introspection.table_names(include_views=True)
    return any(table in there for _, table, *_ in _TABLES)


def find_tables(alias: str) -> list[OldTable]:
    """Return those of the tables that this database has. Raises ``CannotAdopt``."""
    connection = connections[alias]
    store = store_for(connection)
    tables = set(connection.introspection.table_names())
    there = set(connection.introspection.table_names(include_views=True))
    found = []
    for package, table, *others in _TABLES:
        if table not in there:
            continue
        with connection.cursor() as cursor:
            described = connection.introspection.get_table_description(cursor, table)
        columns = {_NAMES.get(column.name, column.name): column.name for column in described}
        missing = _NEEDED - columns.keys()
        if not ("args_kwargs" in columns or {"args", "kwargs"} <= columns.keys()):
            missing.add("args")
        if missing:
            raise CannotAdopt(
                f"The table {table} has no column {', '.join(sorted(missing))}: it is of a version "
                f"of {package} that is not known here."
            )
        drops = (table, *(other for other in others if other in there))
        found.append(OldTable(package, table, store, columns, drops, table not in tables))
    return found


def wait_until_gone(table: OldTable, *, gone_after: float, say: Callable[[str], None]) -> None:
    """Return once none of a table's workers has been seen for ``gone_after`` seconds.

    ``say``: is told once if this has to wait. Raises ``CannotAdopt`` as soon as a worker is seen
    to renew its row. Where the package keeps no such rows, nothing can be known.
    """
    if WORKERS not in table.drops:
        return
    first = _last_seen(table.store)
    until = time.monotonic() + gone_after
    waits = False
    while True:
        seen = _last_seen(table.store)
        if alive := sorted(id for id, at in seen.items() if first.get(id) != at):
            raise CannotAdopt(
                f"A taskrunner of {table.package} is alive: {', '.join(map(repr, alive))}. Stop "
                "all of them, then run this again. Nothing was moved."
            )
        recent = [id for id, at in seen.items() if (clock.now() - at).total_seconds() < gone_after]
        # A host whose clock is ahead is no reason to wait any longer.
        if not recent or time.monotonic() > until:
            return
        if not waits:
            names = ", ".join(map(repr, sorted(recent)))
            say(
                f"The taskrunner {names} was seen less than {gone_after:.0f} s ago: waiting to see "
                "whether it is alive ..."
            )
        waits = True
        time.sleep(LOOK)


def _last_seen(store: Store) -> dict[str, datetime]:
    rows = store.rows(f"SELECT id, last_seen FROM {WORKERS}")
    return {id: store.from_time(at) for id, at in rows}
