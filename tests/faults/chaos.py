"""Workers, connections and servers that die at random for minutes: `make chaos MINUTES=10`.

    python -m tests.faults.chaos --minutes 10 [sqlite] [postgres] [mysql]

Servers are private ones. Writes nothing outside of temporary folders. Exits with 1 if a promise
was broken.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import URL_VARIABLES, Missing, PrivateServer, private_mariadb, private_postgres

if TYPE_CHECKING:
    from uuid import UUID

    from tests.faults.load import Count
    from tests.faults.proxy import Proxy
    from tests.helpers import WorkerProcess

DATABASES = ("sqlite", "postgres", "mysql")
OPTIONS = {"worker_timeout": 5, "max_lost": 50}
ARGUMENTS = ("--threads=2", "--interval=0.2", "-v0")
PROCESSES = 4
# At least so many jobs are there at any time.
BACKLOG = 400
# Seconds of the time that are kept for the end: everything has to be done by then.
CALM = 30.0
DRAIN = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos")
    parser.add_argument("databases", nargs="*", help="of sqlite, postgres and mysql; or all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of them together")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.databases or list(DATABASES)
    if unknown := set(names) - set(DATABASES):
        parser.error(f"unknown: {', '.join(unknown)}")
    if given.alone:
        return alone(names[0], given.minutes * 60, given.seed)
    print(f"Seed {given.seed}.", flush=True)
    # A process for each: Django's settings name one database.
    command = [sys.executable, "-m", "tests.faults.chaos", "--alone", f"--seed={given.seed}"]
    command.append(f"--minutes={given.minutes / len(names)}")
    codes = [subprocess.run([*command, name], check=False).returncode for name in names]
    return max(abs(code) for code in codes)


def alone(name: str, seconds: float, seed: int) -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with database(name) as server:
            from tests.faults.proxy import Proxy

            proxy = Proxy() if server else None
            try:
                return Chaos(name, server, proxy, random.Random(seed)).run(seconds)
            finally:
                if proxy:
                    proxy.close()
    except Missing as missing:
        print(f"{name}: {missing}")
        return 1


@contextmanager
def database(name: str) -> Iterator[PrivateServer | None]:
    """Set Django up on an empty database in a temporary folder; give its server, if it has one."""
    with ExitStack() as stack:
        server = None
        os.environ["DURABLE_TASKS_TEST_DB"] = name
        if name == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="durable-tasks-chaos-"))
            os.environ["DURABLE_TASKS_TEST_DB_NAME"] = str(Path(folder) / "chaos.sqlite3")
        else:
            make = private_postgres if name == "postgres" else private_mariadb
            server = stack.enter_context(make())
            os.environ[URL_VARIABLES[name]] = server.url
            os.environ["DURABLE_TASKS_TEST_DB_NAME"] = "postgres" if name == "postgres" else "mysql"
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connections

        if name == "mysql":
            with connections["default"].cursor() as cursor:
                cursor.execute("CREATE DATABASE chaos CHARACTER SET utf8mb4")
            connections["default"].close()
            connections["default"].settings_dict["NAME"] = "chaos"
        call_command("migrate", verbosity=0, run_syncdb=True)
        yield server
        connections.close_all()


class Chaos:
    """Keeps workers at work, and harms them."""

    def __init__(
        self,
        name: str,
        server: PrivateServer | None,
        proxy: "Proxy | None",
        random: random.Random,
    ) -> None:
        from tests.faults.load import Load

        self.name = name
        self.server = server
        self.proxy = proxy
        self.random = random
        self.load = Load(seconds=0.01)
        self.done: Counter[str] = Counter()
        self.broken: list[str] = []
        self.longest = {"supervised": 0.0, "lone": 0.0}
        self._workers: dict[str, tuple[WorkerProcess, ExitStack]] = {}
        self._number = 0
        self._stopped: dict[int, float] = {}  # process -> when it goes on
        self._release_at: float | None = None  # the proxy
        self._orphans: dict[int, str] = {}  # children of killed supervisors, and their starts
        # Jobs of killed workers: when, their lease at that time, and what kind of worker it was.
        self._watched: dict[UUID, tuple[float, int, str]] = {}
        self._actions = [self.kill_child] * 5 + [self.kill_lone] * 4 + [self.stop] * 3
        self._actions += [self.kill_supervisor]
        if server is not None:
            self._actions += [self.end_connections] * 3 + [self.restart] * 2
            self._actions += [self.cut] * 3 + [self.hold]

    def run(self, seconds: float) -> int:
        began = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self.end_all)
            next_at = began + 3
            while (now := time.monotonic()) < began + seconds - CALM:
                self.keep()
                self.feed()
                self.watch()
                if now >= next_at:
                    with suppress(ProcessLookupError):
                        self.random.choice(self._actions)()
                    next_at = time.monotonic() + self.random.uniform(0.5, 2.5)
                time.sleep(0.02)
            self.calm()
            count = self.load.count()
        self.print(count, time.monotonic() - began)
        return 1 if count.broken or self.broken else 0

    # What is kept up

    def keep(self) -> None:
        """Start what is missing, and let go on what was stopped for long enough."""
        now = time.monotonic()
        for pid in [pid for pid, until in self._stopped.items() if until <= now]:
            self.go_on(pid)
        if self._release_at is not None and self._release_at <= now:
            self._release_at = None
            assert self.proxy is not None
            self.proxy.release()
        for name, (worker, stack) in list(self._workers.items()):
            if worker.process.poll() is not None:
                stack.close()
                del self._workers[name]
        here = [name.rstrip("0123456789") for name in self._workers]
        for kind, wanted in (("supervisor", 1), ("direct", 1), ("proxied", int(bool(self.proxy)))):
            if here.count(kind) < wanted:
                self.start(kind)

    def start(self, kind: str) -> None:
        from tests.helpers import running_worker

        self._number += 1
        name = f"{kind}{self._number}"
        arguments = [*ARGUMENTS, f"--worker-id={name}"]
        env = {}
        if kind == "supervisor":
            arguments.append(f"--processes={PROCESSES}")
        elif kind == "proxied":
            assert self.proxy is not None
            env = {URL_VARIABLES[self.name]: self.proxy.url}
        stack = ExitStack()
        worker = stack.enter_context(
            running_worker(*arguments, env=env, options=OPTIONS, ready=False)
        )
        self._workers[name] = (worker, stack)

    def feed(self) -> None:
        from django.db import Error, connection

        try:
            if self.load.left() < BACKLOG:
                self.load.enqueue(100)
        except Error:
            connection.close()

    def watch(self) -> None:
        """See which jobs of killed workers have begun again."""
        from django.db import Error, connection

        from durable_tasks.models import Job
        from durable_tasks.statuses import ENDED

        if not self._watched:
            return
        try:
            jobs = list(
                Job.objects.filter(id__in=list(self._watched)).values_list("id", "lease", "status")
            )
        except Error:
            connection.close()
            return
        for id, lease, status in jobs:
            at, before, kind = self._watched[id]
            if lease >= before + 2 and status != "READY":  # rescued and claimed
                self.longest[kind] = max(self.longest[kind], time.monotonic() - at)
                del self._watched[id]
            elif status in ENDED:
                del self._watched[id]

    # What is harmed

    def lone(self) -> "tuple[str, WorkerProcess] | None":
        names = [name for name in self._workers if not name.startswith("supervisor")]
        if not names:
            return None
        name = self.random.choice(names)
        return name, self._workers[name][0]

    def child(self) -> tuple[str, int] | None:
        """Return id and process of a worker under the present supervisor."""
        found = self.children()
        return self.random.choice(found) if found else None

    def children(self) -> list[tuple[str, int]]:
        from django.db import Error, connection

        from durable_tasks.models import Worker

        name = next((name for name in self._workers if name.startswith("supervisor")), "none")
        try:
            return list(Worker.objects.filter(id__startswith=f"{name}-").values_list("id", "pid"))
        except Error:
            connection.close()
            return []

    def kill(self, worker_id: str, pid: int, kind: str) -> None:
        from django.db import Error, connection

        from durable_tasks.models import Job

        os.kill(pid, signal.SIGKILL)
        at = time.monotonic()
        self._stopped.pop(pid, None)
        try:
            jobs = Job.objects.running().filter(worker_id=worker_id).order_by("id")
            for id, lease in jobs.values_list("id", "lease")[:20]:
                self._watched[id] = (at, lease, kind)
        except Error:
            connection.close()

    def kill_child(self) -> None:
        if child := self.child():
            self.kill(*child, "supervised")
            self.done["kills"] += 1

    def kill_lone(self) -> None:
        if found := self.lone():
            name, worker = found
            self.kill(name, worker.pid, "lone")
            self.done["kills"] += 1

    def kill_supervisor(self) -> None:
        from durable_tasks.worker.process import process_start

        for name, (worker, _) in self._workers.items():
            if name.startswith("supervisor"):
                # One that was just killed may still have its row.
                starts = {pid: process_start(pid) for _, pid in self.children()}
                self._orphans |= {pid: start for pid, start in starts.items() if start}
                os.kill(worker.pid, signal.SIGKILL)
                self.done["supervisor kills"] += 1

    def stop(self) -> None:
        """Stop a worker for so long that the others think it lost, or nearly so."""
        pid = None
        if self.random.random() < 0.5 and (child := self.child()):
            pid = child[1]
        elif found := self.lone():
            pid = found[1].pid
        if pid is not None and pid not in self._stopped:
            os.kill(pid, signal.SIGSTOP)
            pause = self.random.uniform(0.5, 2) * OPTIONS["worker_timeout"]
            self._stopped[pid] = time.monotonic() + pause
            self.done["stops"] += 1

    def go_on(self, pid: int) -> None:
        del self._stopped[pid]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def end_connections(self) -> None:
        from django.db import Error, connection

        from tests.faults.test_database import cut_connections

        with suppress(Error):
            cut_connections()
        connection.close()
        self.done["connections ended"] += 1

    def restart(self) -> None:
        from django.db import connection

        assert self.server is not None
        postgres = self.name == "postgres"
        fast = signal.SIGINT if postgres else signal.SIGTERM
        at_once = signal.SIGQUIT if postgres else signal.SIGKILL
        self.server.end(self.random.choice([fast, at_once]))
        connection.close()
        time.sleep(self.random.uniform(0, 2))
        self.server.start()
        self.done["restarts"] += 1

    def cut(self) -> None:
        assert self.proxy is not None
        self.proxy.cut()
        self.done["cuts"] += 1

    def hold(self) -> None:
        """Let nothing through for a while, and then close it all: nobody knows what arrived."""
        assert self.proxy is not None
        self.proxy.hold()
        self._release_at = time.monotonic() + self.random.uniform(1, 8)
        self.done["cuts"] += 1

    # The end

    def calm(self) -> None:
        """Let everything go on, wait until all jobs have ended, and stop the workers."""
        from durable_tasks.worker.process import process_start
        from tests.helpers import eventually

        for pid in list(self._stopped):
            self.go_on(pid)
        if self.proxy is not None:
            self.proxy.release()

        def alive() -> None:
            self.keep()
            self.watch()

        try:
            self.load.drained(DRAIN, alive)
            eventually(
                lambda: not any(process_start(pid) == s for pid, s in self._orphans.items()),
                "no worker outlives its supervisor",
            )
        except AssertionError as error:
            self.broken.append(str(error))
        for name, (worker, _) in self._workers.items():
            worker.send_signal(signal.SIGTERM)
            try:
                code = worker.wait()
            except subprocess.TimeoutExpired:
                self.broken.append(f"{name} does not stop")
            else:
                if code:
                    self.broken.append(f"{name} ended with {code}:\n{worker.output()[-2000:]}")

    def end_all(self) -> None:
        for pid in list(self._stopped):
            self.go_on(pid)
        for _, stack in self._workers.values():
            stack.close()

    def print(self, count: "Count", took: float) -> None:
        double = {kind: count.doubles[kind] for kind in ("atomic", "once")}
        plain = count.doubles.total() - sum(double.values())
        lines: list[tuple[str, Any]] = [
            ("seconds", f"{took:.0f}"),
            ("jobs", count.jobs),
            *sorted(self.done.items()),
            ("runs lost", count.lost_runs),
            ("jobs lost", sum(not line.endswith("too often") for line in count.broken)),
            ("doubles, plain (allowed)", plain),
            ("doubles, atomic", double["atomic"]),
            ('doubles, on_worker_lost="fail"', double["once"]),
            ('failed, on_worker_lost="fail"', count.failed_once),
            (
                "longest until the job began again: supervised",
                f"{self.longest['supervised']:.2f} s",
            ),
            ("longest until the job began again: lone", f"{self.longest['lone']:.2f} s"),
        ]
        print(f"\n=== {self.name}")
        for label, value in lines:
            print(f"{label:<48} {value}")
        for sentence in [*count.broken[:20], *self.broken]:
            print(f"BROKEN: {sentence}")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
