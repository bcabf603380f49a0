"""What the tests share: waiting for facts, and real workers."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connections, router
from django.test import TransactionTestCase

from durable_tasks.compat import BaseTaskBackend, task_backends
from durable_tasks.models import Job, Worker
from durable_tasks.store import Queues
from durable_tasks.worker.worker import Worker as WorkerMachine
from durable_tasks.worker.worker import WorkerSettings

from .app.models import Effect

ROOT = Path(__file__).parent.parent

# A limit, not an expectation: nothing takes so long unless it is broken.
PATIENCE = 30.0


def eventually[T](
    condition: Callable[[], T], message: str | Callable[[], str] = "", timeout: float = PATIENCE
) -> T:
    """Wait until ``condition()`` is true and return what it returned."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > until:
            text = message() if callable(message) else message
            raise AssertionError(f"Not so within {timeout:.0f} s: {text or condition}")
        time.sleep(0.01)
    return value


class WorkerTestCase(TransactionTestCase):
    """Tests that share what they commit with workers."""

    # Only these tables have to be emptied after each test.
    available_apps = [
        name for name in settings.INSTALLED_APPS if not name.startswith("django.contrib")
    ]


def effects(prefix: str = "") -> list[str]:
    """Return the keys of the effects so far, in order."""
    found = Effect.objects.filter(key__startswith=prefix).order_by("id")
    return list(found.values_list("key", flat=True))


def let_go(key: str = "") -> None:
    """Let the tasks go on that hold ``key``, or all."""
    Effect.objects.create(key=f"go {key}".strip())


def statuses(results: Any) -> list[str]:
    """Return the statuses of these results' jobs, read anew, in their order."""
    found = dict(Job.objects.values_list("id", "status"))
    return [found[UUID(result.id)] for result in results]


def held(key: str, times: int = 1) -> None:
    """Wait until a task holds ``key``, for the ``times``th time."""
    eventually(lambda: effects().count(f"held {key}") >= times, lambda: f"{key}: {effects()}")


def ended(result: Any) -> Job:
    """Wait until the result's job has ended and return it."""
    eventually(
        lambda: Job.objects.finished().filter(id=result.id).exists(),
        lambda: f"the job ends; it is {row_of(result)}",
    )
    return Job.objects.get(id=result.id)


def row_of(result: Any) -> dict[str, Any]:
    """Return every column of the result's job."""
    return Job.objects.filter(id=result.id).values().get()


# In this process ------------------------------------------------------------------------------


def work(queue_names: tuple[str, ...] | None = ("default",), **changes: Any) -> None:
    """Run a worker in this process until nothing is left."""
    backend = task_backends["default"]
    values: dict[str, Any] = {
        "sender": type(backend),
        "options": backend.durable_options,
        "queues": Queues("default", queue_names),
        "batch": True,
        **changes,
    }
    WorkerMachine(WorkerSettings(**values)).run()


# In processes of their own --------------------------------------------------------------------


class WorkerProcess:
    """A real ``manage.py db_worker``."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._output = output

    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    def row(self) -> Worker | None:
        """Its row, which is there while it is ready to work."""
        return Worker.objects.using(router.db_for_write(Worker)).filter(pid=self.pid).first()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it with all it started, stopped or not, and wait until it is gone."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait until it ends and return its exit code."""
        return self.process.wait(timeout)

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def says(self, text: str) -> str:
        """Wait until it has printed ``text``; return its output."""
        eventually(
            lambda: text in self.output() or self.process.poll() is not None,
            lambda: f"the worker says {text!r}; it said:\n{self.output()}",
        )
        output = self.output()
        assert text in output, f"The worker ended without saying {text!r}:\n{output}"
        return output


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "django", *arguments]


def environment(
    env: Mapping[str, str] | None = None, options: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return the environment in which a process uses the databases of the running test."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DURABLE_TASKS_TEST_DB_NAME": str(connections["default"].settings_dict["NAME"]),
        "DURABLE_TASKS_TEST_OTHER_NAME": str(connections["other"].settings_dict["NAME"]),
        "DURABLE_TASKS_TEST_OPTIONS": json.dumps(options or {}),
        "PYTHONUNBUFFERED": "1",
        **(env or {}),
    }


QUICK = ("--no-startup-delay", "--no-reload")


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT
) -> Iterator[WorkerProcess]:
    """Give a process that is gone after the block, with what it started in its group."""
    with tempfile.TemporaryDirectory(prefix="durable-tasks-worker-") as folder:
        path = Path(folder) / "output"
        with path.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Signals to the tests are not for it, and what it starts ends with it.
                start_new_session=True,
            )
        worker = WorkerProcess(process, path)
        try:
            yield worker
        except BaseException as error:
            error.add_note(f"Output of process {process.pid}:\n{worker.output()}")
            raise
        finally:
            worker.kill()


@contextmanager
def running_worker(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    ready: bool = True,
    prefix: Sequence[str] = (),
) -> Iterator[WorkerProcess]:
    """Give a worker that runs in a process of its own and is gone after the block.

    ``options``: the backend's OPTIONS. ``ready``: wait until it looks for work. ``prefix``: of its
    command line.
    """
    line = [*prefix, *command("db_worker", *QUICK, *arguments)]
    with running(line, environment(env, options)) as worker:
        if ready:
            eventually(
                lambda: worker.row() or worker.process.poll() is not None, "the worker starts"
            )
            assert worker.process.poll() is None, "The worker ended at once."
        yield worker


def run_worker(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a worker in a process of its own until nothing is left; must end well."""
    done = run_command("db_worker", *QUICK, "--batch", *arguments, env=env, options=options)
    assert done.returncode == 0, done.stderr
    return done


def run_command(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a management command in a process of its own to its end."""
    with subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(env, options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=4 * PATIENCE)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # with all it started
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run_unread(*arguments: str, buffered: bool) -> "subprocess.CompletedProcess[str]":
    """Run a management command whose output nobody reads any more, as after ``| head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env=environment({"PYTHONUNBUFFERED": "" if buffered else "1"}),
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=4 * PATIENCE,
        )
    finally:
        os.close(writer)


# Settings -------------------------------------------------------------------------------------


def tasks_setting(backend: str = "durable_tasks.DatabaseBackend", **options: Any) -> dict[str, Any]:
    """Return TASKS with one backend that takes any queue."""
    return {"default": {"BACKEND": backend, "QUEUES": [], "OPTIONS": options}}


def from_django(name: str) -> str:
    """Return the path of one of Django's own backends, or of the backport's."""
    return f"{BaseTaskBackend.__module__.rpartition('.')[0]}.{name}"


@contextmanager
def heard(signal: Any) -> Iterator[list[tuple[type, Any]]]:
    """Give the list of (sender, task result) that a signal brings during the block."""
    calls: list[tuple[type, Any]] = []

    def receiver(sender: type, task_result: Any, **kwargs: Any) -> None:
        calls.append((sender, task_result))

    signal.connect(receiver)
    try:
        yield calls
    finally:
        signal.disconnect(receiver)


@contextmanager
def broken_receiver(*signals: Any) -> Iterator[None]:
    """Every receiver of these signals raises during the block."""

    def receiver(**kwargs: Any) -> None:
        raise RuntimeError("a broken receiver")

    for each in signals:
        each.connect(receiver)
    try:
        yield
    finally:
        for each in signals:
            each.disconnect(receiver)
