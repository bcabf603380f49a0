"""Running one claim: whatever the task does, the outcome is a ``Finish``."""

import importlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from .compat import AnyTask, TaskContext, TaskResultStatus
from .exceptions import Cancel, ResultTooLarge, Snooze, TaskCancelled, TaskNotFound
from .options import Options
from .results import DurableTaskResult, as_enqueued, dumps, find_task, make_result, shown_as
from .retention import Retention
from .retry import Policy, seconds_of
from .statuses import JobStatus
from .store import Claim, Finish, store_for

logger = logging.getLogger("durable_tasks")

# How long a job is left whose start could not be written.
NOT_STARTED_PAUSE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a task path leads to: a task and its rules, or the error that says why not."""

    task: AnyTask | None
    error: TaskNotFound | None
    policy: Policy
    is_async: bool = False
    func: Callable[..., Any] | None = None
    takes_context: bool = False
    timeout: float | None = None  # seconds
    atomic: bool = False
    fails_if_lost: bool = False


def is_marked(claim: Claim, *, fails: bool) -> bool:
    """Return whether the start of this run is written before it begins.

    So it is where a lost run decides something: the job may be what ended its worker, or must not
    run twice (``fails``). Otherwise it would cost each job a round trip.
    """
    return claim.lost > 0 or fails


class Run:
    """One run of a claim, as its task sees it. Those of a worker can be interrupted."""

    # What is to be raised in the task.
    exception: BaseException | None = None
    started_at: datetime | None = None  # if it is known before the run begins

    def limit(self, seconds: float) -> None:
        """The task may take so long from now on."""

    def begin(self) -> None:
        """The task is about to be called: from here to its end the run can be interrupted."""

    def call(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call a sync task."""
        return function(*args, **kwargs)

    def told(self, error: BaseException) -> BaseException:
        """Return what has ended the run, of which its task raised this."""
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableContext(TaskContext):  # type: ignore[misc,type-arg]
    """What a task with ``takes_context=True`` gets: Django's, and whether the job is cancelled.

    ``lease``: the number of this claim of the job, its fencing token. It grows with each.
    """

    run: Run
    lease: int

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled the job. ``TaskCancelled`` is raised in it as well."""
        return isinstance(self.run.exception, TaskCancelled)


class _NotOurs(Exception):
    """Another worker has the job: what this run wrote is to be undone."""


class Executor:
    """Runs claims for one worker.

    ``backend_name``: the alias whose jobs these are. ``worker_id``: written into errors.
    ``now``: returns the time to write. ``options``: the backend's. ``database``: the alias of the
    jobs' database. ``on_start``: called in the thread that runs the task, just before.
    ``retention``: how long the jobs stay that end in their task's transaction; None: for ever.
    ``durable``: whether atomic tasks need a transaction of their own; otherwise, inside one that is
    open, they are a part of it.
    """

    def __init__(
        self,
        *,
        backend_name: str,
        worker_id: str,
        now: Callable[[], datetime],
        options: Options,
        database: str,
        on_start: Callable[[Claim, datetime], None],
        retention: Retention | None = None,
        durable: bool = True,
    ) -> None:
        self.backend_name = backend_name
        self.worker_id = worker_id
        self.now = now
        self.options = options
        self.database = database
        self.on_start = on_start
        self.retention = retention
        self.durable = durable
        self._policy = Policy(options.max_attempts, options.make_delay)
        self._resolved: dict[str, Resolved] = {}

    def resolve(self, path: str) -> Resolved:
        """Return what the path leads to, found once per process."""
        resolved = self._resolved.get(path)
        if resolved is None:
            try:
                task = find_task(path)
            except TaskNotFound as error:
                # Not kept: the next deploy of a plugin may bring it.
                return Resolved(None, error, self._policy)
            resolved = self._resolved[path] = self._rules_of(task)
        return resolved

    def reload(self) -> None:
        """Import the modules anew that the paths have led to so far.

        Raises what the import of a module raises; the tasks of the others are the new ones then.
        """
        modules = {path.rpartition(".")[0] for path in list(self._resolved)}
        try:
            for name in sorted(modules):
                importlib.reload(importlib.import_module(name))
        finally:
            self._resolved.clear()

    def _rules_of(self, task: AnyTask) -> Resolved:
        def rule(name: str, otherwise: Any = None) -> Any:  # a task of another backend has none
            value = getattr(task, name, None)
            return otherwise if value is None else value

        timeout = rule("timeout", self.options.timeout)
        policy = Policy(
            rule("max_attempts", self._policy.max_attempts),
            rule("backoff", self._policy.backoff),
            rule("retry_on", ()),
            rule("give_up_on", ()),
        )
        return Resolved(
            task,
            None,
            policy,
            is_async=iscoroutinefunction(task.func),
            func=task.func,
            takes_context=task.takes_context,
            timeout=None if timeout is None else seconds_of(timeout, "timeout"),
            atomic=rule("atomic", False),
            fails_if_lost=rule("on_worker_lost") == "fail",
        )

    def execute(self, claim: Claim, run: Run | None = None) -> Finish:
        """Run a claim of a sync task in this thread."""
        run = run or Run()
        run.started_at = started_at = run.started_at or self.now()
        resolved = self.resolve(claim.task_path)
        if is_marked(claim, fails=resolved.fails_if_lost) and not self._may_start(claim):
            return Finish.released(claim, until=self.now() + NOT_STARTED_PAUSE)
        try:
            func, args, kwargs = self._call(resolved, claim, run, started_at)
            self.on_start(claim, started_at)
            if resolved.timeout is not None:
                run.limit(resolved.timeout)
            if resolved.atomic:
                call = partial(run.call, func, args, kwargs)
                return self._execute_atomic(claim, call, started_at)
            value = run.call(func, args, kwargs)
            return self._succeeded(claim, value, started_at)
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the task's, too
            return self._raised(resolved, claim, run.told(error), started_at)

    async def aexecute(self, claim: Claim, run: Run | None = None) -> Finish:
        """Run a claim of an async task in this event loop."""
        run = run or Run()
        run.started_at = started_at = run.started_at or self.now()
        resolved = self.resolve(claim.task_path)
        marked = is_marked(claim, fails=resolved.fails_if_lost)
        if marked and not await sync_to_async(self._may_start)(claim):
            return Finish.released(claim, until=self.now() + NOT_STARTED_PAUSE)
        try:
            func, args, kwargs = self._call(resolved, claim, run, started_at)
            self.on_start(claim, started_at)
            if resolved.timeout is not None:
                run.limit(resolved.timeout)
            run.begin()
            value = await func(*args, **kwargs)
            return self._succeeded(claim, value, started_at)
        except BaseException as error:
            return self._raised(resolved, claim, run.told(error), started_at)

    def _may_start(self, claim: Claim) -> bool:
        """Write that the run begins, on this thread's connection; return whether it may."""
        try:
            return store_for(connections[self.database]).mark_started(claim)
        except Exception as error:
            logger.warning(
                "The start of job %s can't be written; it goes back: %s",
                claim.id,
                str(error).strip(),
                extra={"job_id": str(claim.id), "worker_id": self.worker_id},
            )
            return False

    def _execute_atomic(
        self, claim: Claim, call: Callable[[], Any], started_at: datetime
    ) -> Finish:
        """Run the task in a transaction that ends with writing its completion."""
        finish: Finish | None = None
        committed: list[bool] = []
        try:
            with transaction.atomic(using=self.database, durable=self.durable):
                # The first to hear of the commit: what the task has registered may raise.
                transaction.on_commit(partial(committed.append, True), using=self.database)
                finish = self._succeeded(claim, call(), started_at).in_transaction()
                store = store_for(connections[self.database], retention=self.retention)
                if not store.complete(finish, finish.finished_at or started_at):
                    raise _NotOurs
        except _NotOurs:
            assert finish is not None
        except BaseException:
            if not committed or finish is None:
                raise
            logger.exception(
                "Job %s of %s has committed; a function that it registered for afterwards failed.",
                claim.id,
                claim.task_path,
                extra={"job_id": str(claim.id), "worker_id": self.worker_id},
            )
        finish.saved = True
        return finish

    def _call(
        self, resolved: Resolved, claim: Claim, run: Run, started_at: datetime
    ) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
        if resolved.func is None:
            assert resolved.error is not None
            raise resolved.error
        args = json.loads(claim.args) if claim.args != "[]" else []
        kwargs = json.loads(claim.kwargs) if claim.kwargs != "{}" else {}
        if resolved.takes_context:
            result = self.result_at_start(claim, started_at)
            args.insert(0, DurableContext(task_result=result, run=run, lease=claim.lease))
        return resolved.func, args, kwargs

    def _succeeded(self, claim: Claim, value: Any, started_at: datetime) -> Finish:
        text = None if value is None else dumps(value, "The return value")
        if text is not None and len(text) > self.options.max_result_size // 4:
            size = len(text.encode())
            if size > self.options.max_result_size:
                raise ResultTooLarge(
                    f"The return value takes {size} bytes of JSON; "
                    f'OPTIONS["max_result_size"] allows {self.options.max_result_size}. '
                    "Store it elsewhere and return where it is."
                )
        return Finish.succeeded(claim, text, started_at=started_at, finished_at=self.now())

    def cancelled(self, claim: Claim, error: BaseException) -> Finish:
        """Return the ending of a claim that was cancelled before it began: no run of it counts."""
        finish = Finish.failed(
            claim,
            error,
            worker_id=self.worker_id,
            started_at=claim.last_attempted_at,
            finished_at=self.now(),
            status=JobStatus.CANCELLED,
        )
        finish.writes = (*finish.writes, "attempts")
        finish.attempts = claim.attempts - 1
        return finish

    def given_up(self, claim: Claim, run: Run, *, pause: float) -> Finish:
        """Return what becomes of a job whose run has ``run.exception``, whatever its task does.

        ``pause``: seconds in which it does not run again.
        """
        assert run.exception is not None
        assert run.started_at is not None
        resolved = self.resolve(claim.task_path)
        return self._raised(resolved, claim, run.exception, run.started_at, pause=pause)

    def _raised(
        self,
        resolved: Resolved,
        claim: Claim,
        error: BaseException,
        started_at: datetime,
        pause: float = 0.0,
    ) -> Finish:
        """Return what becomes of a job whose task raised."""
        now = self.now()
        try:
            if isinstance(error, Snooze):
                run_at = now + timedelta(seconds=seconds_of(error.after, "Snooze(after)"))
                return Finish.snoozed(claim, run_at=run_at, started_at=started_at, finished_at=now)
            delay = None
            if not isinstance(error, (Cancel, TaskCancelled)):
                result = partial(self.result_at_start, claim, started_at)
                delay = resolved.policy.delay(error, claim.runs, result)
        except Exception as mistake:
            # The job fails, and its error says both what happened and what the rules said to it.
            mistake.__context__ = error
            error, delay = mistake, None
        ended: dict[str, Any] = {
            "worker_id": self.worker_id,
            "started_at": started_at,
            "finished_at": now,
        }
        if delay is not None:
            run_at = now + timedelta(seconds=max(delay, pause))
            return Finish.retried(claim, error, run_at=run_at, **ended)
        if isinstance(error, Cancel):
            error = TaskCancelled(str(error)).with_traceback(error.__traceback__)
        if isinstance(error, TaskCancelled):
            return Finish.failed(claim, error, status=JobStatus.CANCELLED, **ended)
        return Finish.failed(claim, error, **ended)

    # What signals and contexts show

    def result_at_start(self, claim: Claim, started_at: datetime) -> DurableTaskResult:
        """Return the ``TaskResult`` of a job that is running."""
        return DurableTaskResult.lazy(
            partial(self._at_start, claim, started_at),
            id=str(claim.id),
            task=self._task_of(claim),
            status=TaskResultStatus.RUNNING,
        )

    def _at_start(self, claim: Claim, started_at: datetime) -> DurableTaskResult:
        return make_result(
            **self._shared(claim),
            status=JobStatus.RUNNING,
            started_at=claim.started_at or started_at,
            last_attempted_at=started_at,
            entries=_entries(claim.errors),
            worker_id=self.worker_id,
        )

    def result_at_end(self, finish: Finish) -> DurableTaskResult:
        """Return the ``TaskResult`` of a job that has ended."""
        claim = finish.claim
        assert claim is not None
        return DurableTaskResult.lazy(
            partial(self._at_end, claim, finish),
            id=str(claim.id),
            task=self._task_of(claim),
            status=shown_as(finish.status),
        )

    def _at_end(self, claim: Claim, finish: Finish) -> DurableTaskResult:
        value = finish.return_value
        successful = finish.status == JobStatus.SUCCESSFUL
        return make_result(
            **self._shared(claim),
            status=finish.status,
            started_at=finish.started_at,
            finished_at=finish.finished_at,
            last_attempted_at=finish.last_attempted_at,
            entries=_entries(claim.errors if successful else finish.errors),
            worker_id=self.worker_id if successful else None,
            return_value=None if value is None else json.loads(value),
        )

    def _task_of(self, claim: Claim) -> AnyTask:
        return as_enqueued(
            self.resolve(claim.task_path).task,
            claim.task_path,
            priority=claim.priority,
            queue_name=claim.queue_name,
            run_after=claim.run_after,
            backend=self.backend_name,
        )

    def _shared(self, claim: Claim) -> dict[str, Any]:
        return {
            "task": self._task_of(claim),
            "id": claim.id,
            "enqueued_at": claim.enqueued_at,
            "args": json.loads(claim.args),
            "kwargs": json.loads(claim.kwargs),
            "attempts": claim.attempts,
            "lost": claim.lost,
        }


def _entries(errors: str | None) -> list[dict[str, Any]]:
    return json.loads(errors) if errors else []
