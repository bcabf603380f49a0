"""One connection to a database, as each part of the store uses it."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, IntegrityError, OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..ids import uuid_of
from ..models import Job
from .messages import Claim

TABLE = Job._meta.db_table


def marks(count: int) -> str:
    """Return ``count`` placeholders."""
    return ",".join(["%s"] * count)


class StoreNotSupported(ImproperlyConfigured):
    """There is no store for this database or driver."""


class Database(ABC):
    """A connection: its settings, transactions, queries and values.

    ``own``: it is the engine's alone, whose transactions begin and end as suits it.
    """

    def __init__(self, connection: BaseDatabaseWrapper, *, own: bool = False) -> None:
        self.connection = connection
        self.own = own
        self._in_transaction = False

    @classmethod
    def own_settings(cls, database: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a database as the engine's own connection wants them."""
        return {
            **database,
            "OPTIONS": {**database.get("OPTIONS", {})},
            "CONN_MAX_AGE": None,  # it stays open until the engine closes it
            "ATOMIC_REQUESTS": False,
            "AUTOCOMMIT": True,
        }

    @classmethod  # noqa: B027  (most databases need none)
    def prepare_own(cls, connection: BaseDatabaseWrapper) -> None:
        """Do what the settings can't to a connection of the engine's own that is not open yet."""

    def own_note(self) -> str | None:
        """Return what a log should say about the engine's own connection, or None."""
        return None

    # What the checks ask

    def driver_problem(self) -> str | None:
        """Return why the connection's driver will not do, or None; asks no server."""
        return None

    def server_problem(self) -> str | None:
        """Return why the connection's server will not do, or None."""
        return None

    def settings_advice(self) -> list[tuple[str, str]]:
        """Return what would run better with another setting: pairs of a text and a hint."""
        return []

    def vacuum_advice(self) -> tuple[str, str] | None:
        """Return what is wrong with how dead rows are removed, and what to run; None: nothing."""
        return None

    def cannot_hear(self) -> bool:
        """Return whether notifications are sent, but a pooler keeps them from arriving."""
        return False

    def pinned_plans(self) -> AbstractContextManager[Any]:
        """Let reading statements keep to their indexes in the block, which may be a transaction."""
        return nullcontext()

    # Time and values

    @abstractmethod
    def database_time(self) -> float:
        """Return the database's clock, in seconds since 1970."""

    def to_time(self, value: datetime | None) -> Any:
        """As Django's own adapter has it, but four times as fast."""
        if value is None:
            return None
        zone = self.connection.timezone  # None without USE_TZ
        return str(value if zone is None else value.astimezone(zone).replace(tzinfo=None))

    def from_time(self, value: Any) -> Any:
        zone = self.connection.timezone
        return value if value is None or zone is None else value.replace(tzinfo=zone)

    def to_id(self, value: UUID) -> Any:
        return value if self.connection.features.has_native_uuid_field else value.hex

    def from_id(self, value: Any) -> UUID:
        return value if isinstance(value, UUID) else uuid_of(int(value.replace("-", ""), 16))

    def to_claim(self, row: Sequence[Any]) -> Claim:
        """Return a row of ``CLAIM_COLUMNS``, and perhaps what follows them, as a claim."""
        claim = Claim(*row)
        from_time = self.from_time
        claim.id = self.from_id(claim.id)
        claim.run_after = claim.run_after and from_time(claim.run_after)
        claim.run_at = from_time(claim.run_at)
        claim.enqueued_at = from_time(claim.enqueued_at)
        if claim.started_at is not None:
            claim.started_at = from_time(claim.started_at)
            claim.last_attempted_at = from_time(claim.last_attempted_at)
        return claim

    # Faults

    def is_data_error(self, error: Exception) -> bool:
        """Return whether the database refused the values, rather than failed to work."""
        return isinstance(error, (DataError, IntegrityError))

    def is_busy(self, error: Exception) -> bool:
        """Return whether this is an ordinary conflict, such as a deadlock: trying again helps."""
        return False

    # Seconds: the shortest pause before a transaction that met a conflict is tried again, and for
    # how long it is tried.
    retry_pause: ClassVar[float] = 0.005
    retry_for: ClassVar[float] = 5.0

    def _retried[T](self, work: Callable[[], T]) -> T:
        """Run a whole transaction, again after a conflict, with a jittered and growing pause."""
        if not self.own or self._in_transaction:
            return work()
        end = time.monotonic() + self.retry_for
        tried = 0
        while True:
            try:
                return work()
            except OperationalError as error:
                if not self.is_busy(error) or time.monotonic() > end:
                    raise
            tried += 1
            time.sleep(self.retry_pause * random.uniform(1, min(1 + tried, 10)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One transaction on our own connection; the caller's, or a part of it, elsewhere."""
        if not self.own:
            with transaction.atomic(using=self.connection.alias):
                yield
            return
        with self.connection.cursor() as cursor:
            cursor.execute(self._BEGIN)
            self._in_transaction = True
            try:
                yield
                cursor.execute("COMMIT")
            except BaseException:
                try:
                    cursor.execute("ROLLBACK")
                except Exception:
                    self.connection.close()  # what ends the transaction as well
                raise
            finally:
                self._in_transaction = False

    _BEGIN = "BEGIN"

    def _savepoint(self) -> AbstractContextManager[Any]:
        """What lets the caller's transaction, if there is one, go on after an error."""
        if self.own or not self.connection.in_atomic_block:
            return nullcontext()
        return transaction.atomic(using=self.connection.alias)

    # Queries

    def _execute(self, cursor: Any, sql: str, params: Sequence[Any]) -> None:
        """Run one statement; the cursor has its result when this returns."""
        cursor.execute(sql, params)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        def work() -> list[Any]:
            with self.connection.cursor() as cursor:
                self._execute(cursor, sql, params)
                rows: list[Any] = cursor.fetchall()
                return rows

        return self._retried(work)

    def row(self, sql: str, params: Sequence[Any] = ()) -> Any:
        rows = self.rows(sql, params)
        return rows[0] if rows else None

    def tables(self) -> set[str]:
        """Return the names of the tables there are."""
        return set(self._retried(self.connection.introspection.table_names))

    @abstractmethod
    def query_canceller(self) -> Callable[[], None]:
        """Return what ends the query that the connection, which is open, is waiting for.

        To be called by another thread; returns once the server knows. Raises what goes wrong.
        """

    def changed(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run one statement that changes rows; return how many."""

        def work() -> int:
            with self.connection.cursor() as cursor:
                self._execute(cursor, sql, params)
                count: int = cursor.rowcount
                return count

        return self._retried(work)

    def _hops(self, column: str, condition: str, params: list[Any]) -> Iterator[str]:
        """Yield the distinct values of an index's column by one look-up for each."""
        first = self._FIRST.format(column=column, condition=condition)
        after = self._FIRST.format(column=column, condition=f"{condition} AND {column} > %s")
        row = self.row(first, params)
        while row is not None and row[0] is not None:
            yield row[0]
            row = self.row(after, [*params, row[0]])

    # The least value under a condition.
    _FIRST = f"SELECT MIN({{column}}) FROM {TABLE} WHERE {{condition}}"
