"""What the measures share: servers, databases of the run's own, projects, subprocesses."""

import json
import os
import secrets
import shlex
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from benchmarks.report import Report
from tests import servers

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = ROOT / "benchmarks" / "projects"

# The end of a failed command's output that is shown.
TAIL = 1000
# How long a command that was told to stop may take.
STOP_SECONDS = 10


Item = TypeVar("Item")
Result = TypeVar("Result")


class OutOfTime(Exception):
    """The run has used its time."""


class CommandFailed(Exception):
    """A subprocess failed or took too long; the text says which and how."""


class Bench:
    """One run: what it finds and makes is closed and dropped at its end.

    ``seconds``: how long it may take; every subprocess ends by then. ``all_peers``: a quick run
    has all of them as well.
    """

    def __init__(
        self, report: Report, quick: bool, seconds: float, *, all_peers: bool = False
    ) -> None:
        self.report = report
        self.quick = quick
        self.all_peers = all_peers or not quick
        self._ends_at = time.monotonic() + seconds
        self._stack = ExitStack()
        self._servers: dict[str, servers.Server] = {}
        # Made once and used by all measures, by a name.
        self.databases: dict[str, dict[str, Any]] = {}

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

    def each(self, items: Iterable[Item], function: Callable[[Item], Result]) -> list[Result]:
        """Return what the function returns for each item, in order.

        One after the other; in a quick run, whose figures mean little, all at once.
        """
        items = list(items)
        with ThreadPoolExecutor(len(items) or 1 if self.quick else 1) as pool:
            return list(pool.map(function, items))

    # Servers and databases

    def server(self, kind: str) -> servers.Server:
        """Return a server of a kind: postgres, mysql or sqlite. Raises ``servers.Missing``."""
        if kind not in self._servers:
            if kind == "sqlite":
                server = servers.Server("", f"SQLite {sqlite3.sqlite_version}")
            else:
                server = self._stack.enter_context(servers.find(kind))
            self._servers[kind] = server
            name, _, number = server.version.partition(" ")
            self.report.data["servers"][name] = number
        return self._servers[kind]

    def make_database(self, kind: str) -> dict[str, Any]:
        """Make an empty database and return its entry for Django's DATABASES."""
        server = self.server(kind)
        name = f"durable_tasks_bench_{secrets.token_hex(4)}"
        if kind == "sqlite":
            return {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(self.folder() / "db.sqlite3"),
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
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command in a project's folder, with its settings, and return what it printed.

        ``path``: what PYTHONPATH has. ``variables``: further environment variables. Raises
        ``CommandFailed``, and ``OutOfTime``.
        """
        environment = environment_of(project, databases, path, variables or {})
        limit = min(timeout, self.seconds_left())
        try:
            return call(command, cwd=PROJECTS / project, env=environment, timeout=limit)
        except CommandFailed:
            self.seconds_left()  # cut short by the run's end, it is no fault of its own
            raise

    @contextmanager
    def started(
        self,
        command: Sequence[str | Path],
        *,
        project: str,
        databases: Mapping[str, Mapping[str, Any]],
        path: Sequence[Path] = (),
        variables: Mapping[str, str] | None = None,
    ) -> "Iterator[Started]":
        """Let a command run beside the block; at its end it is stopped, then killed."""
        self.seconds_left()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=PROJECTS / project,
                env=environment_of(project, databases, path, variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a group of its own, to be killed with its children
            )
            try:
                yield Started(process, output, shown([str(word) for word in command]))
            finally:
                stop(process)

    def folder(self) -> Path:
        """Return a new folder that is removed at the end."""
        folder = Path(tempfile.mkdtemp(prefix="durable_tasks_bench_"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder


@dataclass
class Started:
    """A command that runs."""

    process: "subprocess.Popen[bytes]"
    output: IO[str]
    words: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise ``CommandFailed`` if it has ended."""
        if self.process.poll() is not None:
            self.output.seek(0)
            tail = self.output.read().strip()[-TAIL:]
            raise CommandFailed(f"{self.words} ended with {self.process.returncode}: {tail}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # and what it left behind
    process.wait()


def environment_of(
    project: str,
    databases: Mapping[str, Mapping[str, Any]],
    path: Sequence[Path],
    variables: Mapping[str, str],
) -> dict[str, str]:
    """Return the environment variables of a project's commands."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "DJANGO_", "DURABLE_TASKS_", "PG"))
    }
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, [PROJECTS / project, PROJECTS, *path])),
        "DJANGO_SETTINGS_MODULE": "settings",
        "BENCH_DATABASES": json.dumps(databases),
    }
    # For those that are no Django app.
    default = databases["default"]
    if default["ENGINE"].endswith("postgresql"):
        names = {"HOST": "HOST", "PORT": "PORT", "USER": "USER", "PASSWORD": "PASSWORD"}
        for key, name in {**names, "NAME": "DATABASE"}.items():
            if default[key]:
                environment[f"PG{name}"] = str(default[key])
    return environment | variables


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
    with closing(connect(entry)) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        return cursor.fetchone() if cursor.description else None


def connect(entry: Mapping[str, Any]) -> Any:
    """Return the driver's own connection, with autocommit, to a database of DATABASES."""
    if entry["ENGINE"].endswith("sqlite3"):
        return sqlite3.connect(entry["NAME"], isolation_level=None, timeout=30)
    if entry["ENGINE"].endswith("postgresql"):
        import psycopg

        return psycopg.connect(
            dbname=entry["NAME"],
            user=entry["USER"] or None,
            password=entry["PASSWORD"] or None,
            host=entry["HOST"] or None,
            port=entry["PORT"] or None,
            connect_timeout=servers.CONNECT_SECONDS,
            autocommit=True,
        )
    import MySQLdb

    host = entry["HOST"]
    place = {"unix_socket": host} if host.startswith("/") else {"host": host}
    if entry["PORT"]:
        place["port"] = int(entry["PORT"])
    return MySQLdb.connect(
        user=entry["USER"],
        password=entry["PASSWORD"],
        database=entry["NAME"],
        connect_timeout=servers.CONNECT_SECONDS,
        autocommit=True,
        **place,
    )
