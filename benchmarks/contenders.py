"""Who drains: this checkout and its peers, each described in one place."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, Bench, call

INSTALL_SECONDS = 180


@dataclass(frozen=True)
class Contender:
    """One worker to measure.

    ``project``: its folder in ``projects``, with ``settings``, and with ``tasks`` that has
    ``enqueue(kind, count)``. ``table``: where its results are. ``worker``: what follows
    ``python -m django``. ``jobs``: how many a round, in a full and in a quick run; a few seconds
    of work. ``requirement``: what to install in an environment of its own; None stands for this
    checkout. ``database``: what its entry of DATABASES has besides Django's defaults.
    """

    name: str
    project: str
    table: str
    worker: tuple[str, ...]
    jobs: tuple[int, int]
    requirement: str | None = None
    database: Mapping[str, Any] = field(default_factory=dict, hash=False)

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


_BATCH = ("db_worker", "--batch", "--no-startup-delay", "--no-reload")

OURS = Contender(
    name="durable-tasks",
    project="ours",
    table="durable_tasks_job",
    worker=(*_BATCH, "--threads", "1"),
    jobs=(20_000, 5_000),
)

_DJANGO_TASKS_DB = Contender(
    name="django-tasks-db",
    project="django_tasks_db",
    requirement="django-tasks-db==0.13.0",
    table="django_tasks_database_dbtaskresult",
    worker=_BATCH,  # it runs one task at a time and has no --threads
    jobs=(500, 50),
)

PEERS = (
    _DJANGO_TASKS_DB,
    # By default it connects anew for each task, since Django closes connections between requests;
    # this is the setting that spares it that.
    Contender(
        name="django-tasks-db, CONN_MAX_AGE=None",
        project=_DJANGO_TASKS_DB.project,
        requirement=_DJANGO_TASKS_DB.requirement,
        table=_DJANGO_TASKS_DB.table,
        worker=_DJANGO_TASKS_DB.worker,
        jobs=(1_000, 100),
        database={"CONN_MAX_AGE": None},
    ),
)


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
    stamp = contender.environment / ".ready"
    made_of = "\n".join([sys.version, *wanted])
    if stamp.exists() and stamp.read_text() == made_of:
        return
    began = time.monotonic()
    print(f"Installing {contender.requirement} in {contender.environment.relative_to(ROOT)}")
    contender.environment.parent.mkdir(exist_ok=True)
    base = getattr(sys, "_base_executable", None) or sys.executable
    call([ROOT / "scripts" / "make-venv", contender.environment, base], timeout=INSTALL_SECONDS)
    pip = [contender.python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    call([*pip, *wanted], timeout=INSTALL_SECONDS)
    stamp.write_text(made_of)
    bench.not_counted(time.monotonic() - began)
