"""Who is measured: this checkout and its peers, each described in one place."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT


@dataclass(frozen=True)
class Contender:
    """One worker to measure.

    ``project``: its folder in ``projects`` (see ``projects/README.md``). ``worker``: what follows
    ``python -m`` to run a worker that waits for work; ``once``: what it takes besides to end when
    nothing is left, or None if it has no such thing. ``table``: where its ended jobs are;
    ``ended``: the columns of a SELECT from it: how many ended well with their result kept, when
    the first started and when the last ended. ``empties``: the tables to empty before a round.
    ``jobs``: how many a round, in a full and in a quick run; a few seconds of work. ``bulk``: how
    it enqueues many at once. ``polls``: whether an idle worker only looks from time to time.
    ``requirement``: what to install in an environment of its own; None stands for this checkout.
    ``database``: what its entry of DATABASES has besides Django's defaults. ``variables``:
    environment variables. ``quick``: whether quick runs have it. ``note``: what to know about it.
    """

    name: str
    project: str
    worker: tuple[str, ...]
    once: tuple[str, ...] | None
    table: str
    ended: str
    jobs: tuple[int, int]
    bulk: str
    kinds: tuple[str, ...] = ("sync", "async")
    empties: tuple[str, ...] = ()
    migrate: tuple[str, ...] = ("django", "migrate", "-v0")
    server: str = "postgres"
    polls: bool = False
    requirement: str | None = None
    database: Mapping[str, Any] = field(default_factory=dict, hash=False)
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)
    quick: bool = False
    note: str = ""

    @property
    def environment(self) -> Path:
        """The folder of its environment; contenders of one project share it."""
        return ROOT / ".venvs" / f"bench-{self.project.replace('_', '-')}"

    @property
    def python(self) -> str:
        if self.requirement is None:
            return sys.executable
        return str(self.environment / "bin" / "python")

    @property
    def path(self) -> list[Path]:
        """What it needs on PYTHONPATH; this checkout is measured whatever is installed."""
        return [ROOT / "src"] if self.requirement is None else []


def columns(well: str) -> str:
    """Return ``Contender.ended`` for a table with Django's usual columns."""
    return f"SUM(CASE WHEN {well} THEN 1 ELSE 0 END), MIN(started_at), MAX(finished_at)"


KEPT = "status = 'SUCCESSFUL' AND return_value IS NOT NULL"

# This checkout ---------------------------------------------------------------------------------

OURS = Contender(
    name="durable-tasks",
    project="ours",
    worker=("django", "db_worker", "--no-startup-delay", "--no-reload", "--threads", "1"),
    once=("--batch",),
    table="durable_tasks_job",
    ended=columns(KEPT),
    jobs=(50_000, 5_000),
    bulk="enqueue_many()",
    quick=True,
)

# With Django's own log receivers disabled by their level: nobody listens to the signals.
QUIET = {"BENCH_LOG_LEVEL": "WARNING"}
OURS_QUIET = replace(
    OURS, name="durable-tasks, django.tasks at WARNING", variables=QUIET, kinds=("sync",)
)
OURS_TWO = replace(
    OURS,
    name="durable-tasks, 2 processes",
    kinds=("sync",),
    worker=(*OURS.worker, "--processes", "2"),
    jobs=(80_000, 8_000),
)
OURS_MYSQL = replace(
    OURS, name="durable-tasks on MariaDB", server="mysql", jobs=(30_000, 3_000), kinds=("sync",)
)
OURS_SQLITE = replace(OURS, name="durable-tasks on SQLite", server="sqlite", kinds=("sync",))
OURS_SQLITE_QUIET = replace(
    OURS_SQLITE, name="durable-tasks on SQLite, at WARNING", variables=QUIET
)

VARIANTS = (OURS, OURS_QUIET, OURS_TWO, OURS_MYSQL, OURS_SQLITE, OURS_SQLITE_QUIET)

# Its peers -------------------------------------------------------------------------------------

# By default Django closes a connection after each request, and some workers do so after each task;
# this setting spares them the new connection.
KEEP = {"CONN_MAX_AGE": None}

DJANGO_TASKS_DB = Contender(
    name="django-tasks-db",
    project="django_tasks_db",
    requirement="django-tasks-db==0.13.0",
    worker=("django", "db_worker", "--no-startup-delay", "--no-reload"),
    once=("--batch",),
    table="django_tasks_database_dbtaskresult",
    ended=columns(KEPT),
    jobs=(600, 50),
    bulk="a loop in a transaction",
    polls=True,
    quick=True,
    note="one task at a time; no --threads",
)

PEERS = (
    DJANGO_TASKS_DB,
    replace(
        DJANGO_TASKS_DB,
        name="django-tasks-db, CONN_MAX_AGE=None",
        jobs=(1_000, 100),
        database=KEEP,
        quick=False,
    ),
    Contender(
        name="django-dbtasks, CONN_MAX_AGE=None",
        project="django_dbtasks",
        requirement="django-dbtasks==0.5.0",
        worker=("django", "taskrunner", "--workers", "8", "--delay", "0.01", "--no-periodic"),
        once=None,
        table="dbtasks_scheduledtask",
        ended=columns(KEPT),
        empties=("dbtasks_scheduledtask", "dbtasks_worker"),
        kinds=("sync",),
        jobs=(300, 50),
        bulk="a loop in a transaction",
        polls=True,
        database=KEEP,
        note="sync tasks only; 8 threads and --delay 0.01, since a thread takes one job a --delay",
    ),
    Contender(
        name="django-ox, CONN_MAX_AGE=None",
        project="django_ox",
        requirement="django-ox==1.9.1",
        worker=("django", "ox_worker"),
        once=("--batch",),
        table="django_ox_oxtask",
        ended=columns(KEPT),
        jobs=(1_000, 100),
        bulk="a loop in a transaction",
        polls=True,
        database=KEEP,
    ),
    Contender(
        name="dj-queue, CONN_MAX_AGE=None",
        project="dj_queue",
        requirement="dj-queue==0.14.2",
        worker=("django", "dj_queue"),
        once=None,
        table="dj_queue_jobs",
        # It does not keep when a job started: the first to end stands for the first to start.
        ended="COUNT(return_value), MIN(finished_at), MAX(finished_at)",
        empties=("dj_queue_jobs",),
        jobs=(1_500, 100),
        bulk="enqueue_all()",
        database=KEEP,
        note="its defaults: 3 threads in one worker process, a dispatcher and a supervisor",
    ),
    Contender(
        name="procrastinate",
        project="procrastinate_app",
        requirement="procrastinate==3.10.0",
        worker=("django", "procrastinate", "worker"),
        once=("--one-shot",),
        table="procrastinate_events",
        ended="COUNT(*) FILTER (WHERE type = 'succeeded'),"
        " MIN(at) FILTER (WHERE type = 'started'), MAX(at) FILTER (WHERE type = 'succeeded')",
        empties=("procrastinate_jobs",),
        jobs=(1_500, 100),
        bulk="batch_defer()",
        note="keeps no results; its own task API, one job at a time by default",
    ),
    Contender(
        name="pgqueuer, batches of 100",
        project="pgqueuer_app",
        requirement="pgqueuer==1.6.0",
        worker=("work", "continuous"),
        once=("drain",),
        table="pgqueuer_log",
        ended="COUNT(*) FILTER (WHERE status = 'successful'),"
        " MIN(created) FILTER (WHERE status = 'picked'),"
        " MAX(created) FILTER (WHERE status = 'successful')",
        empties=("pgqueuer_log", "pgqueuer"),
        migrate=("pgqueuer", "install"),
        kinds=("async",),
        jobs=(30_000, 1_000),
        bulk="enqueue() with lists",
        note="async only; keeps no results, no Django; ended jobs are deleted and logged",
    ),
)
