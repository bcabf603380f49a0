"""What ``manage.py check --deploy --database`` finds out about a PostgreSQL server."""

import select
from typing import Any
from uuid import uuid4

from .database import TABLE, Database

# With more dead rows between two vacuums, claims and pages read ever more of them.
MOST_DEAD = 20_000
# Seconds within which a notification arrives, if it does.
PATIENCE = 1.0

_FACTOR, _THRESHOLD = "autovacuum_vacuum_scale_factor", "autovacuum_vacuum_threshold"
_AUTOVACUUM = f"""SELECT GREATEST(c.reltuples, 0), COALESCE(c.reloptions, '{{}}'),
        current_setting('{_FACTOR}'), current_setting('{_THRESHOLD}'), current_setting('autovacuum')
    FROM pg_class AS c WHERE c.oid = to_regclass(%s)"""


def autovacuum_advice(database: Database) -> tuple[str, str] | None:
    """Return what is wrong with the vacuum of the jobs' table and what to run, or None.

    Reads the catalogue only.
    """
    row = database.row(_AUTOVACUUM, [TABLE])
    if row is None:
        return None  # the table is missing, which is said elsewhere
    rows, options, factor, threshold, autovacuum = row
    given: dict[str, str] = dict(option.split("=", 1) for option in options)
    off = f"autovacuum is off for {TABLE}: jobs leave dead rows that nothing removes."
    if given.get("autovacuum_enabled", "on").lower() in ("off", "false", "no", "0"):
        return off, f"Run ALTER TABLE {TABLE} RESET (autovacuum_enabled);"
    if autovacuum == "off":
        return off, "Run ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();"
    dead = float(given.get(_THRESHOLD, threshold)) + rows * float(given.get(_FACTOR, factor))
    if dead <= MOST_DEAD:
        return None
    return (
        f"{TABLE} has about {int(rows):,} rows and is vacuumed only when {int(dead):,} of them are "
        "dead: until then, claims and pages read these as well.",
        f"Run ALTER TABLE {TABLE} SET ({_FACTOR} = 0, {_THRESHOLD} = 5000, "
        "autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);",
    )


def hears(alias: str) -> bool:
    """Return whether notifications arrive on a connection to this database.

    Takes two connections of its own, and ``PATIENCE`` where they do not.
    """
    from . import own_connection  # late: it knows this module's users

    channel = f"durable_tasks_{uuid4().hex}"
    ear, mouth = own_connection(alias), own_connection(alias)
    try:
        with ear.cursor() as cursor:
            cursor.execute(f"LISTEN {channel}")
        heard: list[Any] = []
        driver = ear.connection
        driver.add_notify_handler(heard.append)
        with mouth.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [channel])
        poll = select.poll()
        poll.register(driver, select.POLLIN)
        if poll.poll(PATIENCE * 1000):
            driver.pgconn.consume_input()
            heard += filter(None, [driver.pgconn.notifies()])
        return bool(heard)
    finally:
        ear.close()
        mouth.close()


def is_pooled(alias: str) -> bool:
    """Return whether a pooler such as PgBouncer stands before this database, as far as it shows."""
    from . import own_connection, store_for  # late, as above

    connection = own_connection(alias)
    try:
        return store_for(connection, own=True).own_note() is not None
    finally:
        connection.close()
