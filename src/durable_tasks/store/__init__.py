"""What the engine asks of a database."""

from functools import cache

from django.db.backends.base.base import BaseDatabaseWrapper

from ..retention import Retention
from .base import Store
from .database import StoreNotSupported
from .messages import Claim, Exchange, Finish, NewJob
from .queues import Pauses, Peek, Queues

__all__ = [
    "Claim",
    "Exchange",
    "Finish",
    "NewJob",
    "Pauses",
    "Peek",
    "Queues",
    "Store",
    "StoreNotSupported",
    "own_connection",
    "store_for",
]


def store_for(
    connection: BaseDatabaseWrapper, *, own: bool = False, retention: Retention | None = None
) -> Store:
    """Return the store for this connection's database.

    ``own``: the connection is the engine's alone (see ``own_connection()``), so that the store may
    begin and end transactions as suits it; otherwise it keeps to the caller's. ``retention``: how
    long the jobs stay that it ends; None: for ever.
    Raises ``StoreNotSupported`` for a database or a driver that has no store.
    """
    return _store_class(connection.vendor, connection.alias)(
        connection, own=own, retention=retention
    )


def own_connection(alias: str) -> BaseDatabaseWrapper:
    """Return a new connection to the database ``alias`` that only its maker uses.

    It is none of ``django.db.connections`` and comes from no pool: what the engine sets on it is
    never seen by the project's queries. It belongs to the thread that calls this.
    """
    from django.db import connections

    made = connections.create_connection(alias)
    store_class = _store_class(made.vendor, alias)
    made.settings_dict = store_class.own_settings(made.settings_dict)
    store_class.prepare_own(made)
    return made


@cache
def _store_class(vendor: str, alias: str) -> type[Store]:
    # The project's one late import: each store needs its own database's driver.
    match vendor:
        case "postgresql":
            from .postgresql import PostgreSQLStore

            return PostgreSQLStore
        case "mysql":
            from .mysql import MySQLStore

            return MySQLStore
        case "sqlite":
            from .sqlite import SQLiteStore

            return SQLiteStore
    raise StoreNotSupported(
        f"The database {alias!r} is of the kind {vendor!r}; durable_tasks "
        "supports PostgreSQL, MySQL, MariaDB and SQLite."
    )
