"""A contender made ready: its environment, its database, its commands."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

from benchmarks.bench import Bench, CommandFailed, Started, connect, execute, shown
from benchmarks.contenders import OURS, PEERS, Contender
from tests.environments import InstallFailed, make_environment
from tests.servers import Missing

SETUP_SECONDS = 90
# Between two looks whether a worker that does not end by itself is done.
LOOK = 0.25


class DrainFailed(Exception):
    """A worker ended, but not all jobs did."""


class Ended(NamedTuple):
    """How many jobs ended well, when the first started and when the last ended (Unix time)."""

    count: int
    first: float
    last: float

    @property
    def seconds(self) -> float:
        return self.last - self.first


@dataclass
class Setup:
    """A contender with an empty database of its own."""

    bench: Bench
    contender: Contender
    databases: dict[str, Any]

    @property
    def entry(self) -> dict[str, Any]:
        return self.databases["default"]

    def command(self, *more: str) -> list[str]:
        """Return the command of its worker."""
        return [self.contender.python, "-m", *self.contender.worker, *more]

    def words(self, *more: str) -> str:
        """Return the command of its worker as one would type it."""
        settings = [f"{name}={value}" for name, value in self.contender.variables.items()]
        return " ".join([*settings, shown(self.command(*more))])

    def run(self, *words: str, timeout: float = SETUP_SECONDS, **variables: str) -> str:
        """Run ``python -m WORDS`` in its project and return what it printed."""
        return self._run([self.contender.python, "-m", *words], timeout, variables)

    def run_worker(self, *more: str, timeout: float, **variables: str) -> None:
        """Run its worker to its own end."""
        self._run(self.command(*more), timeout, variables)

    def _run(self, command: list[str], timeout: float, variables: dict[str, str]) -> str:
        return self.bench.run(
            command,
            project=self.contender.project,
            databases=self.databases,
            timeout=timeout,
            path=self.contender.path,
            variables={**self.contender.variables, **variables},
        )

    @contextmanager
    def worker(self, *more: str, **variables: str) -> Iterator[Started]:
        """Let its worker run beside the block."""
        with self.bench.started(
            self.command(*more),
            project=self.contender.project,
            databases=self.databases,
            path=self.contender.path,
            variables={**self.contender.variables, **variables},
        ) as started:
            yield started

    def empty(self) -> None:
        """Remove all jobs."""
        statement = {
            "postgres": "TRUNCATE {} CASCADE",
            "mysql": "TRUNCATE {}",
            "sqlite": "DELETE FROM {}",
        }[self.contender.server]
        for table in self.contender.empties or (self.contender.table,):
            execute(self.entry, statement.format(table))

    def ended(self) -> "Ended":
        """Return what the rows tell about the jobs that ended well."""
        count, first, last = execute(
            self.entry, f"SELECT {self.contender.ended} FROM {self.contender.table}"
        )
        if not count or first is None:
            return Ended(0, 0.0, 0.0)
        return Ended(int(count), _time(first), _time(last))

    def wait_until_ended(self, jobs: int, worker: Started, timeout: float) -> None:
        """Wait for so many jobs to end. Raises ``DrainFailed``, ``CommandFailed``."""
        until = time.monotonic() + min(timeout, self.bench.seconds_left())
        while (count := self.ended().count) < jobs:
            worker.check()
            if time.monotonic() > until:
                self.bench.seconds_left()
                raise DrainFailed(f"{count} of {jobs} jobs ended well within {timeout:.0f} s.")
            time.sleep(LOOK)

    def connect(self) -> Any:
        return connect(self.entry)


def peers(bench: Bench) -> list[Contender]:
    """Return the peers that a run has."""
    return [peer for peer in PEERS if peer.quick or bench.all_peers]


def prepare(bench: Bench, contender: Contender) -> Setup:
    """Install a contender and make its database with its tables, once a run; empty it.

    Contenders that differ only in what they run share a database. Raises ``CommandFailed``, and
    ``Missing`` if there is no server for it.
    """
    ensure_environment(bench, contender)
    key = f"{contender.project} on {contender.server}"
    known = key in bench.databases
    if not known:
        bench.databases[key] = bench.make_database(contender.server)
    setup = Setup(bench, contender, {"default": {**bench.databases[key], **contender.database}})
    try:
        if known:
            setup.empty()
        else:
            setup.run(*contender.migrate)
    except Exception:
        del bench.databases[key]
        raise
    return setup


def prepared(bench: Bench, *contenders: Contender) -> dict[Contender, Setup]:
    """Prepare all that can be; the others are reported with the reason and left out."""
    made = {}
    for contender in contenders:
        try:
            made[contender] = prepare(bench, contender)
        except Missing as missing:
            bench.report.left_out(contender.name, str(missing))
        except CommandFailed as error:
            ours = contender.project == OURS.project
            bench.report.left_out(contender.name, str(error), failed=ours)
    return made


def ensure_environment(bench: Bench, contender: Contender) -> None:
    """Make a peer's environment once, with our versions of Python, Django and psycopg.

    Raises ``CommandFailed``. The run's time stands still meanwhile.
    """
    if contender.requirement is None:
        return
    wanted = [
        f"Django=={version('Django')}",
        f"psycopg[binary]=={version('psycopg')}",
        contender.requirement,
    ]
    began = time.monotonic()
    try:
        make_environment(contender.environment, wanted)
    except InstallFailed as error:
        raise CommandFailed(str(error)) from error
    bench.not_counted(time.monotonic() - began)


def _time(value: Any) -> float:
    # SQLite has no type for it, MariaDB no time zone.
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
