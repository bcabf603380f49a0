"""A runner beside the test, as in production."""

import sqlite3
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.test import TransactionTestCase

from .. import clock
from ..compat import DEFAULT_TASK_BACKEND_ALIAS, AnyTaskResult
from ..exceptions import DurableTasksError
from ..models import Job
from ..runner import Runner
from ..statuses import JobStatus
from .enqueued import described
from .time import moved_clock

# Seconds that a test waits for its runner if it names no time, and for the runner to stop.
PATIENCE = 30.0
# Seconds between two looks of a test's runner for work.
INTERVAL = 0.02


class LiveRunner(Runner):
    """A ``Runner`` for a test.

    ``wait_for()`` and ``wait()`` without a time raise ``AssertionError`` after half a minute.
    """

    error: BaseException | None = None

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self.error = error
        finally:
            connections.close_all()

    def wait_for(self, result: AnyTaskResult, timeout: float | None = None) -> bool:
        __tracebackhide__ = True
        if super().wait_for(result, PATIENCE if timeout is None else timeout):
            return True
        if timeout is None:
            raise self._gave_up([self.backend.get_job(result.id)])
        return False

    def wait(self, timeout: float | None = None) -> bool:
        __tracebackhide__ = True
        if super().wait(PATIENCE if timeout is None else timeout):
            return True
        if timeout is None:
            raise self._gave_up(self.open_jobs())
        return False

    def open_jobs(self) -> list[Job]:
        """Return the jobs that are ready or running, of whatever queue."""
        jobs = Job.objects.using(router.db_for_write(Job)).filter(
            backend_name=self.backend.alias, status__in=(JobStatus.READY, JobStatus.RUNNING)
        )
        return list(jobs)

    def _gave_up(self, jobs: Iterable[Job]) -> AssertionError:
        lines = "".join(f"\n  {described(job)}" for job in jobs)
        if self.finished.is_set():
            failed = AssertionError(f"The runner has ended before:{lines}")
            failed.__cause__ = self.error
            return failed
        return AssertionError(
            f"Not ended within {PATIENCE:.0f} s, with a runner that serves these queues: "
            f"{self._queues}.{lines}"
        )


@contextmanager
def live_runner(
    runner_class: type[LiveRunner] = LiveRunner, **arguments: Any
) -> Iterator[LiveRunner]:
    """Give a runner that works beside the test until the end of the block.

    ``arguments``: those of ``Runner``; without ``periodic=True``, it fires no periodic tasks. The
    test must commit what it enqueues: use a ``TransactionTestCase``, or pytest-django's
    ``transactional_db``. Raises ``DurableTasksError`` inside a transaction of the jobs' database,
    what ended the runner, and ``AssertionError`` if it does not stop.
    """
    if connections[router.db_for_write(Job)].in_atomic_block:
        raise DurableTasksError(
            "live_runner() was called inside a transaction, such as a TestCase's: no runner can "
            "see what is enqueued in it. Use RunnerTestCase, TransactionTestCase, or "
            "pytest-django's transactional_db."
        )
    with _on_disk(), moved_clock(clock.source or (lambda: datetime.now(UTC))):
        runner = runner_class(**{"interval": INTERVAL, "periodic": False, **arguments})
        thread = threading.Thread(target=runner.run, name="test runner", daemon=True)
        thread.start()
        try:
            while not runner.ready.wait(0.01) and not runner.finished.is_set():
                pass
            if runner.error is None:
                yield runner
        finally:
            runner.stop()
            thread.join(PATIENCE)
            if thread.is_alive():
                jobs = "".join(f"\n  {described(job)}" for job in runner.open_jobs())
                raise AssertionError(
                    f"The runner has not stopped within {PATIENCE:.0f} s. What goes on:{jobs}"
                )
        if runner.error is not None:
            raise runner.error


class RunnerTestCase(TransactionTestCase):
    """Tests beside which a runner works: what they enqueue is run, as by ``db_worker``.

    The runner is at ``self.runner``, from ``setUp()`` until right before the tables are flushed; an
    error that ends it fails the test. A database in memory is a file meanwhile, so that the test
    and the runner have connections of their own.
    """

    runner_class: type[LiveRunner] = LiveRunner
    # Sync tasks at once.
    workers = 4
    # The queues to serve, or None for all.
    queue_names: tuple[str, ...] | None = None
    # The alias of the backend whose jobs it runs.
    backend = DEFAULT_TASK_BACKEND_ALIAS
    # Whether it fires periodic tasks.
    periodic = False

    runner: LiveRunner

    def setUp(self) -> None:
        super().setUp()
        alias = router.db_for_write(Job)
        if alias not in self.databases:
            raise ImproperlyConfigured(
                f"The jobs are in the database {alias!r}: "
                f"add it to {type(self).__name__}.databases."
            )
        self.runner = self.enterContext(
            live_runner(
                self.runner_class,
                workers=self.workers,
                queue_names=self.queue_names,
                backend=self.backend,
                periodic=self.periodic,
            )
        )


@contextmanager
def _on_disk() -> Iterator[None]:
    """Let SQLite databases in memory be files during the block, with all that is in them.

    Threads can share a database in memory only through one connection, and one transaction.
    """
    in_memory: dict[str, list[Any]] = defaultdict(list)
    each: Any
    for each in connections.all():
        if each.vendor == "sqlite" and each.is_in_memory_db():
            in_memory[each.settings_dict["NAME"]].append(each)
    moved = []
    with tempfile.TemporaryDirectory(prefix="durable-tasks-") as folder:
        for number, group in enumerate(in_memory.values()):
            opened = [each for each in group if each.connection is not None]
            if not opened:
                continue
            path = Path(folder) / f"{number}.sqlite3"
            copy = sqlite3.connect(path)
            opened[0].connection.backup(copy)
            copy.execute("PRAGMA journal_mode=WAL")  # kept in the file
            copy.close()
            moved += [(each, each.connection, each.settings_dict.copy()) for each in group]
            for each in group:
                each.connection = None
                each.settings_dict["NAME"] = str(path)
                options = each.settings_dict["OPTIONS"]
                init_command = f"{options.get('init_command', '')};PRAGMA synchronous=OFF"
                each.settings_dict["OPTIONS"] = {
                    **options,
                    "init_command": init_command.lstrip(";"),
                }
        try:
            yield
        finally:
            for each, connection, database in moved:
                each.close()
                each.settings_dict.update(database)
                each.connection = connection
