"""The rows of ``Statistic`` and ``ErrorGroup``: what workers have counted is added to them.

Nothing here waits for another's transaction, since it is done by the thread that says that a worker
is alive: rows that another worker has locked are left for the next time.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import batched, islice
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models.constants import OnConflict

from ..histogram import add, whole
from ..models import ErrorGroup, Statistic
from .base import Store
from .database import TABLE, marks
from .queues import Queues

# Rows that one transaction writes, and how many of these one call makes: a beat may be due.
BATCH, MOST_BATCHES = 50, 20
# Rows that one statement deletes, and how many of these one call makes.
DELETED, MOST_DELETIONS = 500, 20
# Seconds of a period, and seconds for which its rows stay.
KEPT = {60: 3 * 3600, 600: 3 * 86400, 3600: 30 * 86400}
# The period of the sums of all time, which begin at 0 and stay: counters for monitoring never fall.
ALL_TIME = 0
# For how long groups of errors stay, and seconds for which their hours do.
ERRORS_KEPT, HOURS_KEPT = timedelta(days=30), 8 * 86400
# The counts of READY jobs in a queue, and of RUNNING and SCHEDULED jobs in all, stop here.
MOST_READY, MOST_RUNNING, MOST_SCHEDULED = 100_000, 100_000, 10_000

_STATISTICS, _ERRORS = Statistic._meta.db_table, ErrorGroup._meta.db_table


class StatisticKey(NamedTuple):
    """Which row of ``Statistic``; one without a task tells what was there in the queue."""

    backend_name: str
    period: int
    begins: int
    queue_name: str
    task_path: str = ""


class ErrorKey(NamedTuple):
    """Which row of ``ErrorGroup``."""

    backend_name: str
    exception_class_path: str
    place: str


# ``sent``: what was written last. If the row has it although nothing came back from the commit, it
# is not added once more.


@dataclass(slots=True)
class Count:
    """What ended in a period of time, and how long it took; or the most that was there.

    Either what is to be added to a row, or what the row has.
    """

    successful: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    lost: int = 0
    waits: dict[int, int] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)
    ready: int | None = None
    scheduled: int | None = None
    running: int | None = None
    sent: "Count | None" = field(default=None, compare=False, repr=False)

    def add(self, other: "Count") -> None:
        """Take in what ``other`` has."""
        for name in ("successful", "failed", "cancelled", "retried", "lost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waits = add((self.waits, other.waits))
        self.runs = add((self.runs, other.runs))
        for name in ("ready", "scheduled", "running"):
            mine, others = getattr(self, name), getattr(other, name)
            setattr(self, name, others if mine is None else max(mine, others or 0))

    def blank(self) -> "Count":
        """Return what a row has before anything is added."""
        return Count()

    def read(self, store: Store) -> None:
        """Make what came from the database what Python wants."""
        self.waits, self.runs = _whole(self.waits), _whole(self.runs)


@dataclass(slots=True)
class Errors:
    """Runs that ended with errors of one class that were raised in one place.

    Either what is to be added to a row, or what the row has.
    """

    count: int
    hours: dict[int, int]
    first_seen: datetime
    last_seen: datetime
    message: str
    task_path: str
    last_job_id: UUID
    sent: "Errors | None" = field(default=None, compare=False, repr=False)

    def add(self, other: "Errors") -> None:
        """Take in what ``other`` has."""
        self.count += other.count
        hours = add((self.hours, other.hours))
        oldest = max(hours, default=0) - HOURS_KEPT
        self.hours = {hour: count for hour, count in hours.items() if hour > oldest}
        self.first_seen = min(self.first_seen, other.first_seen)
        if other.last_seen >= self.last_seen:
            self.last_seen = other.last_seen
            self.message, self.task_path = other.message, other.task_path
            self.last_job_id = other.last_job_id

    def blank(self) -> "Errors":
        """Return what a row has before anything is added."""
        seen = self.first_seen
        return Errors(0, {}, seen, seen, self.message, self.task_path, self.last_job_id)

    def read(self, store: Store) -> None:
        """Make what came from the database what Python wants."""
        self.hours = _whole(self.hours)
        self.first_seen: datetime = store.from_time(self.first_seen)
        self.last_seen: datetime = store.from_time(self.last_seen)
        self.last_job_id = store.from_id(self.last_job_id)


def _whole(histogram: Any) -> dict[int, int]:
    """Return JSON with whole numbers as its keys; a worker must not end over what is none."""
    return whole(json.loads(histogram) if isinstance(histogram, str | bytes) else histogram)


class _Table:
    """One of the two tables.

    ``key``: the columns that tell a row; the first ``shared`` of them are looked up together.
    """

    def __init__(
        self, name: str, key: type[StatisticKey] | type[ErrorKey], shared: int, entry: type[Any]
    ) -> None:
        self.name = name
        self.make_key: Any = key
        self.key = key._fields
        self.shared = shared
        self.entry = entry
        self.values = tuple(each for each in entry.__slots__ if each != "sent")

    def add(self, store: Store, entries: dict[Any, Any]) -> None:
        """Add to the rows what the first entries have; what was added leaves the dictionary.

        Raises ``DatabaseError``; then what is not known to be added stays.
        """
        for keys in islice(batched(sorted(entries), BATCH), MOST_BATCHES):
            chosen: dict[int, Any] = {}
            for key, id in self._ids(store, keys, entries).items():
                if (first := chosen.setdefault(id, key)) is not key:
                    # To this database two names are one.
                    entries[first].add(entries.pop(key))
            if not chosen:  # deleted meanwhile
                continue
            added = store._retried(lambda: self._write(store, chosen, entries))  # noqa: B023
            for id in added:
                del entries[chosen[id]]

    def _ids(self, store: Store, keys: Sequence[Any], entries: Mapping[Any, Any]) -> dict[Any, int]:
        """Return the id of each row, which is inserted if it is missing."""
        found = self._find(store, keys)
        if missing := [key for key in keys if key not in found]:
            self._insert(store, missing, entries)
            found |= self._find(store, missing)
        for key in missing:
            if key not in found:  # it has another row's names, as this database compares them
                condition = " AND ".join(f"{column} = %s" for column in self.key)
                for (id,) in store.rows(f"SELECT id FROM {self.name} WHERE {condition}", key):
                    found[key] = id
        return {key: found[key] for key in keys if key in found}

    def _find(self, store: Store, keys: Iterable[Any]) -> dict[Any, int]:
        """Served by the unique index, a range of it for each head that the keys share."""
        head, tail = self.key[: self.shared], self.key[self.shared :]
        heads = sorted({key[: self.shared] for key in keys})
        condition = " AND ".join(f"{column} = %s" for column in head)
        part = f"SELECT %s AS place, id, {', '.join(tail)} FROM {self.name} WHERE {condition}"
        rows: Iterable[Any] = store._union([(part, head) for head in heads])
        return {self.make_key(*heads[place], *rest): id for place, id, *rest in rows}

    def _insert(self, store: Store, keys: Sequence[Any], entries: Mapping[Any, Any]) -> None:
        """A statement of its own: it keeps no lock while others add to what it has inserted."""
        columns = (*self.key, *self.values)
        ops = store.connection.ops
        row = f"({marks(len(columns))})"
        store.changed(
            f"{ops.insert_statement(on_conflict=OnConflict.IGNORE)} {self.name} "
            f"({', '.join(columns)}) VALUES {', '.join([row] * len(keys))} "
            + ops.on_conflict_suffix_sql([], OnConflict.IGNORE, [], []),
            [value for key in keys for value in (*key, *self._params(store, entries[key].blank()))],
        )

    def _write(
        self, store: Store, chosen: Mapping[int, Any], entries: Mapping[Any, Any]
    ) -> list[int]:
        """Lock the rows that nobody else has, add, and write; return their ids."""
        done = []
        # Read by the primary key, as the store reads jobs: a scan would lock all.
        source = store._BY_KEY.replace(TABLE, self.name)
        changes = ", ".join(f"{name} = %s" for name in self.values)
        with store._transaction():
            rows = store.rows(
                f"SELECT id, {', '.join(self.values)} FROM {source} "
                f"WHERE id IN ({marks(len(chosen))}) ORDER BY id {store._LOCK[False]}",
                list(chosen),
            )
            for id, *values in rows:
                total: Any = self.entry(*values)
                total.read(store)
                entry: Any = entries[chosen[id]]
                done.append(id)
                if total == entry.sent:
                    continue
                total.add(entry)
                entry.sent = total
                store.changed(
                    f"UPDATE {self.name} SET {changes} WHERE id = %s",
                    [*self._params(store, total), id],
                )
        return done

    def _params(self, store: Store, entry: Any) -> list[Any]:
        params: list[Any] = []
        for value in (getattr(entry, name) for name in self.values):
            match value:
                case dict():
                    params.append(json.dumps(value))
                case datetime():
                    params.append(store.to_time(value))
                case UUID():
                    params.append(store.to_id(value))
                case _:
                    params.append(value)
        return params


_COUNTS = _Table(_STATISTICS, StatisticKey, 3, Count)
_GROUPS = _Table(_ERRORS, ErrorKey, 2, Errors)


def add_counts(
    store: Store, counts: dict[StatisticKey, Count], errors: dict[ErrorKey, Errors]
) -> None:
    """Add to the rows what was counted; what was added leaves the dictionaries.

    In batches, each one transaction, and no more than some: what is left is for another call, as is
    what another transaction has locked. Raises Django's
    ``DatabaseError``; calling it again is safe: what a commit has written whose answer was lost
    counts twice only if another worker has written the same row since.
    """
    _COUNTS.add(store, counts)
    _GROUPS.add(store, errors)


def was_looked_at(store: Store, backend_name: str, begins: int) -> bool:
    """Return whether a worker has seen in this minute how many jobs there are."""
    row = store.row(
        f"SELECT 1 FROM {_STATISTICS} WHERE backend_name = %s AND period = 60 AND begins = %s "
        "AND task_path = '' AND ready IS NOT NULL LIMIT 1",
        [backend_name, begins],
    )
    return row is not None


def depths(store: Store, backend_name: str, now: int) -> dict[str, Count]:
    """Return how many jobs there are in each queue that has some, or had within the last hour.

    ``now``: seconds since 1970. Takes no locks; each count is served by an index and at an end
    after so many entries of it.
    """
    found = {
        name: Count(ready=0, scheduled=0, running=0) for name in _recent(store, backend_name, now)
    }

    def of(name: str) -> Count:
        return found.setdefault(name, Count(ready=0, scheduled=0, running=0))

    names = store.queue_names(Queues(backend_name, None))
    for name, count in store.count_ready(backend_name, names, MOST_READY).items():
        of(name).ready = count
    for backend, name, _, count in store.count_running(MOST_RUNNING):
        if backend == backend_name:
            of(name).running = count + (of(name).running or 0)
    for backend, name, _, count in store.count_scheduled_by_queue(MOST_SCHEDULED):
        if backend == backend_name:
            of(name).scheduled = count
    return found


def _recent(store: Store, backend_name: str, now: int) -> list[str]:
    """Return the queues in which something ended, or was there, in this hour or the last."""
    this = now // 3600 * 3600
    rows = store.rows(
        f"SELECT DISTINCT queue_name FROM {_STATISTICS} WHERE backend_name = %s AND period = 3600 "
        "AND begins IN (%s, %s) AND (task_path <> '' OR ready > 0 OR scheduled > 0 OR running > 0)",
        [backend_name, this - 3600, this],
    )
    return [name for (name,) in rows]


def forget(store: Store, now: datetime, seconds: int) -> None:
    """Delete a few batches of the rows, of all backends, whose time to stay is over.

    ``seconds``: the present as ``begins`` has it.
    """
    sql = f"SELECT MIN(backend_name) FROM {_STATISTICS}"
    backend_name = store.row(sql)[0]
    while backend_name is not None:
        for period, kept in KEPT.items():
            _delete(
                store,
                _STATISTICS,
                "backend_name = %s AND period = %s AND begins < %s",
                [backend_name, period, seconds - kept - period],
            )
        backend_name = store.row(f"{sql} WHERE backend_name > %s", [backend_name])[0]
    # No index: there are as many groups as there are places in the code.
    _delete(store, _ERRORS, "last_seen < %s", [store.to_time(now - ERRORS_KEPT)])


def _delete(store: Store, table: str, condition: str, params: list[Any]) -> None:
    for _ in range(MOST_DELETIONS):
        rows = store.rows(f"SELECT id FROM {table} WHERE {condition} LIMIT %s", [*params, DELETED])
        ids = sorted(id for (id,) in rows)
        if ids:
            store.changed(f"DELETE FROM {table} WHERE id IN ({marks(len(ids))})", ids)
        if len(ids) < DELETED:
            return
