"""Runs the tests on each named database: `python -m tests.run sqlite postgres [-- -k name]`.

What follows `--` goes to pytest. `--shared` before the names shares the tests out among processes.
A database without a server is skipped, or fails if CI is set.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from tests import servers

DATABASES = ("sqlite", "postgres", "mysql")
LABELS = {"sqlite": "SQLite", "postgres": "PostgreSQL", "mysql": "MariaDB/MySQL"}

# As many processes as cores, each with databases of its own. In the order in which they stand: the
# slow tests, few in a class, would otherwise be left to the end.
SHARED = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadscope", "--no-loadscope-reorder"]

# How long an interrupted pytest may take to drop its databases.
CLEANUP_SECONDS = 30


@dataclass(frozen=True)
class Outcome:
    database: str
    text: str
    failed: bool


def main(arguments: list[str]) -> int:
    names, pytest_arguments = split(arguments)
    if names[:1] == ["--shared"]:
        names, pytest_arguments = names[1:], [*SHARED, *pytest_arguments]
    unknown = [name for name in names if name not in DATABASES]
    if unknown or not names:
        print(f"Name at least one database of: {', '.join(DATABASES)}.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, leave)
    outcomes = [run(name, pytest_arguments) for name in names]
    print()
    for outcome in outcomes:
        print(f"{outcome.database:9} {outcome.text}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def leave(signum: int, frame: FrameType | None) -> None:
    # As an exception, so that what was started is also stopped.
    sys.exit(128 + signum)


def run(name: str, pytest_arguments: list[str]) -> Outcome:
    try:
        with environment(name) as (variables, version):
            print(f"\n=== {name}: {version}", flush=True)
            began = time.monotonic()
            code = pytest(pytest_arguments, {**os.environ, **variables})
            took = time.monotonic() - began
    except servers.Missing as missing:
        # A server that was named is wanted; one that nobody named may be missing.
        fatal = bool(os.environ.get("CI") or os.environ.get(servers.URL_VARIABLES[name]))
        word = "FAILED" if fatal else "skipped"
        print(f"\n=== {name}: {LABELS[name]} tests {word}: {missing}", flush=True)
        return Outcome(name, f"{word}: no server or no driver, see above", fatal)
    ending = f"FAILED with exit code {code}" if code else "passed"
    return Outcome(name, f"{ending} in {took:.0f} s on {version}", code != 0)


@contextmanager
def environment(name: str) -> Iterator[tuple[dict[str, str], str]]:
    """Give the variables that tests/settings.py reads, and the server's version."""
    variables = {"DURABLE_TASKS_TEST_DB": name}
    if name == "sqlite":
        with tempfile.TemporaryDirectory(
            prefix="durable-tasks-", ignore_cleanup_errors=True
        ) as folder:
            yield variables | {"DURABLE_TASKS_TEST_DIR": folder}, f"SQLite {sqlite3.sqlite_version}"
    else:
        with servers.find(name) as server:
            yield variables | {servers.URL_VARIABLES[name]: server.url}, server.version


def pytest(arguments: list[str], variables: dict[str, str]) -> int:
    # Hundreds of processes start: each would compile the project anew.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], env=variables)
    try:
        return process.wait()
    except BaseException as reason:
        # Ctrl-C reached pytest too; a signal to this process alone did not.
        if not isinstance(reason, KeyboardInterrupt):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(CLEANUP_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
        raise


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
