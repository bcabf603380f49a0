"""What the measures share: servers, databases of the run's own, projects, subprocesses."""

import json
import os
import secrets
import shlex
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.report import Report
from tests import servers

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = ROOT / "benchmarks" / "projects"

# The end of a failed command's output that is shown.
TAIL = 1000


class OutOfTime(Exception):
    """The run has used its time."""


class CommandFailed(Exception):
    """A subprocess failed or took too long; the text says which and how."""


class Bench:
    """One run: what it finds and makes is closed and dropped at its end.

    ``seconds``: how long it may take; every subprocess ends by then.
    """

    def __init__(self, report: Report, quick: bool, seconds: float) -> None:
        self.report = report
        self.quick = quick
        self._ends_at = time.monotonic() + seconds
        self._stack = ExitStack()
        self._servers: dict[str, servers.Server] = {}

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # Time

    def seconds_left(self) -> float:
        """Return how long the run may still take. Raises ``OutOfTime``."""
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left

    def not_counted(self, seconds: float) -> None:
        """Give the run so much more time."""
        self._ends_at += seconds

    # Servers and databases

    def server(self, kind: str) -> servers.Server:
        """Return a server of a kind: postgres, mysql or sqlite. Raises ``servers.Missing``."""
        if kind not in self._servers:
            if kind == "sqlite":
                server = servers.Server("", f"SQLite {sqlite3.sqlite_version}")
            else:
                server = self._stack.enter_context(servers.find(kind))
            self._servers[kind] = server
        return self._servers[kind]

    def make_database(self, kind: str) -> dict[str, Any]:
        """Make an empty database and return its entry for Django's DATABASES."""
        server = self.server(kind)
        name = f"durable_tasks_bench_{secrets.token_hex(4)}"
        if kind == "sqlite":
            folder = Path(tempfile.mkdtemp(prefix=name))
            self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
            return {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(folder / "db.sqlite3"),
                "OPTIONS": {
                    "transaction_mode": "IMMEDIATE",
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
                },
            }
        entry = servers.database_from_url(server.url)
        # PostgreSQL closes the connections that a killed worker left.
        create, drop = {
            "postgres": (f"CREATE DATABASE {name}", f"DROP DATABASE {name} WITH (FORCE)"),
            "mysql": (f"CREATE DATABASE {name} CHARACTER SET utf8mb4", f"DROP DATABASE {name}"),
        }[kind]
        execute(entry, create)
        self._stack.callback(execute, entry, drop)
        return {**entry, "NAME": name}

    # Subprocesses

    def run(
        self,
        command: Sequence[str | Path],
        *,
        project: str,
        databases: Mapping[str, Mapping[str, Any]],
        timeout: float,
        path: Sequence[Path] = (),
    ) -> str:
        """Run a command in a project's folder, with its settings, and return what it printed.

        ``path``: what PYTHONPATH has. Raises ``CommandFailed``, and ``OutOfTime``.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "DJANGO_", "DURABLE_TASKS_"))
        }
        environment |= {
            "PYTHONPATH": os.pathsep.join(map(str, [PROJECTS / project, PROJECTS, *path])),
            "DJANGO_SETTINGS_MODULE": "settings",
            "BENCH_DATABASES": json.dumps(databases),
        }
        limit = min(timeout, self.seconds_left())
        try:
            return call(command, cwd=PROJECTS / project, env=environment, timeout=limit)
        except CommandFailed:
            self.seconds_left()  # cut short by the run's end, it is no fault of its own
            raise


def call(command: Sequence[str | Path], *, timeout: float, **options: Any) -> str:
    """Run a command and return its standard output. Raises ``CommandFailed``."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            timeout=timeout,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            **options,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{shown(words)} took more than {timeout:.0f} s.") from None
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-TAIL:]
        raise CommandFailed(f"{shown(words)} ended with {done.returncode}: {output}")
    return str(done.stdout)


def shown(words: Sequence[str | Path]) -> str:
    """Return a command as one would type it, whatever folder its Python is in."""
    first, *rest = (str(word) for word in words)
    name = "python" if Path(first).name.startswith("python") else first
    return shlex.join([name, *rest])


def execute(entry: Mapping[str, Any], sql: str) -> Any:
    """Run one statement, outside a transaction, on the database of an entry of DATABASES.

    Returns the first row if it has rows, else None.
    """
    if entry["ENGINE"].endswith("postgresql"):
        import psycopg

        with psycopg.connect(
            dbname=entry["NAME"],
            user=entry["USER"] or None,
            password=entry["PASSWORD"] or None,
            host=entry["HOST"] or None,
            port=entry["PORT"] or None,
            connect_timeout=servers.CONNECT_SECONDS,
            autocommit=True,
        ) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchone() if cursor.description else None
    import MySQLdb

    host = entry["HOST"]
    place = {"unix_socket": host} if host.startswith("/") else {"host": host}
    if entry["PORT"]:
        place["port"] = int(entry["PORT"])
    connection = MySQLdb.connect(
        user=entry["USER"],
        password=entry["PASSWORD"],
        connect_timeout=servers.CONNECT_SECONDS,
        **place,
    )
    try:
        cursor = connection.cursor()
        cursor.execute(sql)
        return cursor.fetchone() if cursor.description else None
    finally:
        connection.close()
