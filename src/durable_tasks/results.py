"""Between Python and a job's row: arguments, return values, errors, and Django's TaskResult."""

import asyncio
import json
import math
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from inspect import isclass
from operator import attrgetter
from threading import Event
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from asgiref.sync import sync_to_async
from django.utils.module_loading import import_string

from .compat import (
    AnyTask,
    AnyTaskResult,
    Task,
    TaskError,
    TaskResult,
    TaskResultStatus,
    normalize_json,
)
from .exceptions import NotSerializable, ResultTimeout, TaskCancelled, TaskNotFound
from .statuses import ENDED, JobStatus

if TYPE_CHECKING:
    from .models import Job

# A traceback longer than this many characters loses its middle.
MAX_TRACEBACK = 64 * 1024
# Seconds between two looks at a job that is waited for: they double from the first to the last.
FIRST_PAUSE = 0.005
LAST_PAUSE = 0.5
# Of a job's errors, the first and this many of the last are kept.
LAST_ERRORS = 9

_SHOWN_AS = {
    JobStatus.READY: TaskResultStatus.READY,
    JobStatus.SCHEDULED: TaskResultStatus.READY,
    JobStatus.PAUSED: TaskResultStatus.READY,
    JobStatus.RUNNING: TaskResultStatus.RUNNING,
    JobStatus.SUCCESSFUL: TaskResultStatus.SUCCESSFUL,
    JobStatus.FAILED: TaskResultStatus.FAILED,
    JobStatus.CANCELLED: TaskResultStatus.FAILED,
}


def shown_as(status: str) -> TaskResultStatus:
    """Return what Django calls a job's status."""
    return _SHOWN_AS[JobStatus(status)]


# JSON -----------------------------------------------------------------------------------------

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: Any, name: str) -> str:
    """Return ``value`` as JSON that every supported database takes.

    ``name`` is what an error calls the value. Raises ``NotSerializable``, naming the place inside
    the value, for types that JSON lacks, NaN, infinity, NUL and lone surrogates.
    """
    try:
        try:
            text = _encode(value)
        except TypeError:  # bytes, other mappings and sequences: what Django's API allows
            text = _encode(normalize_json(value))
        text.isascii() or text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotSerializable(_why(value, name) or f"{name} can't be stored: {error}") from error
    if "\\u0000" in text and (why := _why(value, name)):
        raise NotSerializable(why)
    return text


def _why(value: Any, name: str) -> str | None:
    """Return what makes ``value`` impossible to store and where, or None if nothing is found."""
    try:
        return next(_faults(value, name), None)
    except RecursionError:
        return f"{name} is nested too deeply, or contains itself."


def _faults(value: Any, name: str) -> Iterator[str]:
    match value:
        case str() if "\0" in value:
            yield f"{name} contains a NUL character, which databases can't store."
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                yield f"{name} contains a lone surrogate, which is no valid text."
        case float() if value != value or value in (float("inf"), float("-inf")):
            yield f"{name} is {value!r}, which JSON can't carry."
        case bool() | int() | float() | None:
            pass
        case bytes():
            try:
                yield from _faults(value.decode(), name)
            except UnicodeDecodeError:
                yield f"{name} is bytes that are not UTF-8, which JSON can't carry."
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str | int | float | bool | bytes | None):
                    yield f"{name} has a key of type {type(key).__name__}: {key!r}."
                yield from _faults(key, f"a key of {name}")
                yield from _faults(item, f"{name}[{key!r}]")
        case Sequence():
            for index, item in enumerate(value):
                yield from _faults(item, f"{name}[{index}]")
        case _:
            yield f"{name} is of type {type(value).__name__}, which JSON can't carry."


# Errors ---------------------------------------------------------------------------------------


def storable(text: str) -> str:
    """Return ``text`` with NUL and lone surrogates written out, so that every database takes it."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def class_path(exception: BaseException) -> str:
    """Return the import path of the exception's class, at most 255 characters."""
    return storable(f"{type(exception).__module__}.{type(exception).__qualname__}")[:255]


def format_traceback(exception: BaseException) -> str:
    """Return the traceback as text, cut in its middle above ``MAX_TRACEBACK`` characters."""
    try:
        text = "".join(traceback.format_exception(exception))
    except Exception as error:  # an exception whose own methods raise
        text = f"{class_path(exception)}: (can't be printed: {type(error).__name__})\n"
    return cut_traceback(text)


def cut_traceback(text: str) -> str:
    """Return a traceback as it is stored."""
    text = storable(text)
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    cut = len(text) - 2 * half
    return f"{text[:half]}\n[... {cut} characters left out ...]\n{text[-half:]}"


def add_error(
    errors: list[dict[str, Any]] | None,
    exception: BaseException,
    *,
    attempt: int,
    worker_id: str | None,
    started_at: datetime | None,
    finished_at: datetime | None,
) -> list[dict[str, Any]]:
    """Return the job's errors with one more entry, the first and the last nine kept."""
    return add_entry(
        errors,
        class_path(exception),
        format_traceback(exception),
        attempt=attempt,
        worker_id=worker_id,
        started_at=started_at,
        finished_at=finished_at,
    )


def add_entry(
    errors: list[dict[str, Any]] | None,
    exception_class_path: str | None,
    traceback: str,
    *,
    attempt: int,
    worker_id: str | None,
    started_at: datetime | None,
    finished_at: datetime | None,
) -> list[dict[str, Any]]:
    """As ``add_error()``, of an exception of which there is only the text; None: nothing is known.

    Then the entry only tells the worker of that run.
    """
    entry = {
        "attempt": attempt,
        "worker_id": worker_id,
        "started_at": started_at and started_at.isoformat(),
        "finished_at": finished_at and finished_at.isoformat(),
        "exception_class_path": exception_class_path,
        "traceback": traceback,
    }
    errors = [*(errors or ()), entry]
    return errors if len(errors) <= LAST_ERRORS + 1 else [errors[0], *errors[-LAST_ERRORS:]]


# Tasks by path --------------------------------------------------------------------------------


def find_task(path: str) -> AnyTask:
    """Return the task that ``path`` names.

    Raises ``TaskNotFound`` if the path can't be imported or names something that is no task.
    """
    try:
        found = import_string(path)
    # Importing runs the project's code: anything may come.
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, ImportError):
            hint = (
                " Was it renamed or removed? If it is new, this process is older than the code: "
                "restart it."
            )
        raise TaskNotFound(
            f"The task {path!r} can't be imported ({type(error).__name__}: {error}).{hint}"
        ) from error
    if not isinstance(found, Task):
        raise TaskNotFound(f"{path!r} is no task but {type(found).__name__}: is @task missing?")
    return found


def found_task(path: str) -> AnyTask | None:
    """Return the task that ``path`` names, or None."""
    try:
        return find_task(path)
    except TaskNotFound:
        return None


@lru_cache(maxsize=1024)
def _missing_task_function(path: str) -> Callable[..., Any]:
    def missing(context: Any = None, *args: Any, **kwargs: Any) -> None:
        find_task(path)

    missing.__module__, _, missing.__qualname__ = path.rpartition(".")
    return missing


def as_enqueued(
    task: AnyTask | None,
    path: str,
    *,
    priority: int,
    queue_name: str,
    run_after: datetime | None,
    backend: str,
) -> AnyTask:
    """Return the task as one of its jobs was enqueued; a stand-in if ``task`` is None.

    Not ``Task.using()``: that would validate what was valid then against today's settings.
    """
    if (
        task is not None
        and task.priority == priority
        and task.queue_name == queue_name
        and task.run_after == run_after
        and task.backend == backend
    ):
        return task
    changes: dict[str, Any] = {
        "priority": priority,
        "queue_name": queue_name,
        "run_after": run_after,
        "backend": backend,
    }
    if task is None:
        changes |= {"func": _missing_task_function(path), "takes_context": False}
    made: AnyTask = object.__new__(Task if task is None else type(task))
    for field in fields(made):
        value = changes[field.name] if field.name in changes else getattr(task, field.name)
        object.__setattr__(made, field.name, value)
    return made


# Results --------------------------------------------------------------------------------------


class JobError(TaskError):
    """Django's ``TaskError``, which also finds classes inside of others: ``User.DoesNotExist``."""

    __slots__ = ()

    @property
    def exception_class(self) -> type[BaseException]:
        """The class. Raises what Django's raises if it is not found."""
        try:
            return super().exception_class
        except ImportError:
            found = _inside_of_a_class(self.exception_class_path)
            if not (isclass(found) and issubclass(found, BaseException)):
                raise
            return found

    def __eq__(self, other: object) -> bool:  # a dataclass is only like one of its own class
        if not isinstance(other, TaskError):
            return NotImplemented
        return (self.exception_class_path, self.traceback) == (
            other.exception_class_path,
            other.traceback,
        )

    __hash__ = TaskError.__hash__


def _inside_of_a_class(path: str) -> Any:
    """Return what ``path`` names in a module that Django's attempt has imported, or None."""
    module, _, name = path.rpartition(".")
    while module not in sys.modules and module:
        module, _, outer = module.rpartition(".")
        name = f"{outer}.{name}"
    try:
        return attrgetter(name)(sys.modules.get(module))
    except AttributeError:
        return None


class LazyTaskResult(TaskResult):  # type: ignore[type-arg]
    """A ``TaskResult`` whose fields may be made when one is first looked at.

    Most results are never looked at: those that ``enqueue()`` returns and those that signals carry.
    """

    # ``_row``: the row under the names of another package, once it was asked for.
    __slots__ = ("_make", "_row")

    def __getattr__(self, name: str) -> Any:  # called for a slot that is not set
        if name not in type(self).__dataclass_fields__:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        made = object.__getattribute__(self, "_make")()
        for field in fields(made):
            object.__setattr__(self, field.name, getattr(made, field.name))
        return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableTaskResult(LazyTaskResult):  # type: ignore[misc]
    """Django's ``TaskResult`` of one of our jobs, with the row itself as ``.job``."""

    _attempts: int = 0
    _lost: int = 0

    @property
    def return_value(self) -> Any:
        """What the task returned.

        Raises ``ValueError`` if it has not ended well; of a job that failed with the traceback of
        its last error as a note.
        """
        try:
            return super(DurableTaskResult, self).return_value
        except ValueError as error:
            if self.status == TaskResultStatus.FAILED and self.errors:
                error.add_note(self.errors[-1].traceback.rstrip())
            raise

    @property
    def attempts(self) -> int:
        """How often the job was started, since a retry by hand if there was one.

        Stored, since old errors may have been dropped.
        """
        return self._attempts

    @property
    def lost_runs(self) -> int:
        """How many of the attempts were lost with their worker."""
        return self._lost

    @property
    def job(self) -> "Job":
        """The job's row, read anew. Raises ``TaskResultDoesNotExist`` if it was deleted."""
        return self.task.get_backend().get_job(self.id)  # type: ignore[attr-defined, no-any-return]

    @classmethod
    def lazy(cls, make: Callable[[], Self], **known: Any) -> Self:
        """Return a result with the fields that are ``known``; ``make`` returns it whole."""
        result = object.__new__(cls)
        object.__setattr__(result, "_make", make)
        for name, value in known.items():
            object.__setattr__(result, name, value)
        return result

    def cancel(self) -> bool:
        """Cancel the job; return whether it was waiting or running, False if it had ended.

        See ``DatabaseBackend.cancel()``. What this result shows changes with ``refresh()``.
        """
        return self.task.get_backend().cancel(self.id)  # type: ignore[attr-defined, no-any-return]

    async def acancel(self) -> bool:
        """See ``cancel()``."""
        return await self.task.get_backend().acancel(self.id)  # type: ignore[attr-defined, no-any-return]

    def retry(self) -> bool:
        """Run the job again if it failed or was cancelled; return whether it did.

        See ``DatabaseBackend.retry()``. What this result shows changes with ``refresh()``.
        """
        return self.task.get_backend().retry(self.id)  # type: ignore[attr-defined, no-any-return]

    async def aretry(self) -> bool:
        """See ``retry()``."""
        return await self.task.get_backend().aretry(self.id)  # type: ignore[attr-defined, no-any-return]

    def refresh(self) -> None:
        """Read the result's state anew from the database."""
        self._take(self.task.get_backend().get_result(self.id))

    async def arefresh(self) -> None:
        """Read the result's state anew from the database."""
        self._take(await self.task.get_backend().aget_result(self.id))

    def wait_finished(self, timeout: float | None = None) -> Self:
        """Wait until the job has ended and return this result, refreshed.

        ``timeout``: seconds; None waits for ever, 0 looks once. The database is asked again after
        pauses that grow from 5 ms to half a second; on PostgreSQL the worker's notification ends
        the pause, if ``OPTIONS["notify"]`` is on.

        Raises ``ResultTimeout`` if the job has not ended by then, ``CannotWait`` inside a
        transaction of the jobs' database, and ``TaskResultDoesNotExist`` if the job was deleted.
        """
        woken = Event()
        with self._watch(woken.set) as begin:
            for pause in self._waiting(timeout):
                begin()
                woken.wait(pause)
                woken.clear()  # before the look, so that no ending is missed
        return self

    async def await_finished(self, timeout: float | None = None) -> Self:
        """See ``wait_finished()``."""
        waiting = self._waiting(timeout)
        look = sync_to_async(lambda: next(waiting, None))
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self._watch(lambda: loop.call_soon_threadsafe(woken.set)) as begin:
            while (pause := await look()) is not None:
                begin()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await woken.wait()
                woken.clear()
        return self

    def _watch(self, wake: Callable[[], object]) -> AbstractContextManager[Callable[[], None]]:
        return self.task.get_backend().watch(self.id, wake)  # type: ignore[attr-defined, no-any-return]

    def _waiting(self, timeout: float | None) -> Iterator[float]:
        """Look, and yield the seconds until the next look, for as long as the job has not ended."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE
        while (status := self.task.get_backend().look(self.id)) not in ENDED:  # type: ignore[attr-defined]
            left = until - time.monotonic()
            if left <= 0:
                raise ResultTimeout(
                    f"The job {self.id} of {self.task.module_path} is still {status} after "
                    f"{timeout:g} s. It goes on: wait again, or look later."
                )
            yield min(left, pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LAST_PAUSE)
        self.refresh()

    def _take(self, fresh: AnyTaskResult) -> None:
        _ = self.args  # what is still to be made must not replace what is fresh
        for name in _REFRESHED:
            object.__setattr__(self, name, getattr(fresh, name))


_REFRESHED = (
    "status",
    "enqueued_at",
    "started_at",
    "finished_at",
    "last_attempted_at",
    "errors",
    "worker_ids",
    "_return_value",
    "_attempts",
    "_lost",
)


def make_result(
    *,
    task: AnyTask,
    id: UUID | str,
    status: str,
    enqueued_at: datetime,
    args: Any,
    kwargs: Any,
    started_at: datetime | None = None,
    finished_at: datetime | None = None,
    last_attempted_at: datetime | None = None,
    entries: Sequence[Mapping[str, Any]] = (),
    worker_id: str | None = None,
    attempts: int = 0,
    lost: int = 0,
    return_value: Any = None,
) -> DurableTaskResult:
    """Return a ``TaskResult``; ``status`` is the job's and ``entries`` are the job's errors."""
    errors: list[TaskError] = [
        JobError(exception_class_path=entry["exception_class_path"], traceback=entry["traceback"])
        for entry in entries
        if entry["exception_class_path"]
    ]
    path = f"{TaskCancelled.__module__}.{TaskCancelled.__qualname__}"
    if status == JobStatus.CANCELLED and not (errors and errors[-1].exception_class_path == path):
        errors.append(JobError(exception_class_path=path, traceback=""))
    worker_ids = [entry["worker_id"] for entry in entries if entry["worker_id"]]
    if worker_id:
        worker_ids.append(worker_id)
    result = DurableTaskResult(
        task=task,
        id=str(id),
        status=shown_as(status),
        enqueued_at=enqueued_at,
        started_at=started_at,
        finished_at=finished_at,
        last_attempted_at=last_attempted_at,
        args=args,
        kwargs=kwargs,
        backend=task.backend,
        errors=errors,
        worker_ids=worker_ids,
        _attempts=attempts,
        _lost=lost,
    )
    object.__setattr__(result, "_return_value", return_value)
    return result


def to_result(job: "Job") -> DurableTaskResult:
    """Return a row as Django's ``TaskResult``."""
    return make_result(
        task=as_enqueued(
            found_task(job.task_path),
            job.task_path,
            priority=job.priority,
            queue_name=job.queue_name,
            run_after=job.run_after,
            backend=job.backend_name,
        ),
        id=job.id,
        status=job.status,
        enqueued_at=job.enqueued_at,
        args=job.args,
        kwargs=job.kwargs,
        started_at=job.started_at,
        finished_at=job.finished_at,
        last_attempted_at=job.last_attempted_at,
        entries=job.errors or (),
        worker_id=job.worker_id,
        attempts=job.attempts,
        lost=job.lost,
        return_value=job.return_value,
    )
