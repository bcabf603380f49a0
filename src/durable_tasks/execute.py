"""Running one claim: whatever the task does, the outcome is a ``Finish``."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from .compat import AnyTask, TaskContext, TaskResultStatus
from .exceptions import ResultTooLarge, TaskNotFound
from .results import DurableTaskResult, as_enqueued, dumps, find_task, make_result
from .statuses import JobStatus
from .store import Claim, Finish


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a task path leads to: a task, or the error that says why not."""

    task: AnyTask | None
    error: TaskNotFound | None
    is_async: bool
    func: Callable[..., Any] | None
    takes_context: bool


class Executor:
    """Runs claims for one worker.

    ``backend_name``: the alias whose jobs these are. ``worker_id``: written into errors.
    ``now``: returns the time to write. ``max_result_size``: bytes of JSON a return value may take.
    ``on_start``: called in the thread that runs the task, just before.
    """

    def __init__(
        self,
        *,
        backend_name: str,
        worker_id: str,
        now: Callable[[], datetime],
        max_result_size: int,
        on_start: Callable[[Claim, datetime], None],
    ) -> None:
        self.backend_name = backend_name
        self.worker_id = worker_id
        self.now = now
        self.max_result_size = max_result_size
        self.on_start = on_start
        self._resolved: dict[str, Resolved] = {}

    def resolve(self, path: str) -> Resolved:
        """Return what the path leads to, found once per process."""
        resolved = self._resolved.get(path)
        if resolved is None:
            try:
                task = find_task(path)
            except TaskNotFound as error:
                # Not kept: the next deploy of a plugin may bring it.
                return Resolved(None, error, False, None, False)
            resolved = self._resolved[path] = Resolved(
                task, None, iscoroutinefunction(task.func), task.func, task.takes_context
            )
        return resolved

    def execute(self, claim: Claim) -> Finish:
        """Run a claim of a sync task in this thread."""
        started_at = self.now()
        try:
            func, args, kwargs = self._call(claim, started_at)
            self.on_start(claim, started_at)
            value = func(*args, **kwargs)
            return self._succeeded(claim, value, started_at)
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the task's, too
            return self._failed(claim, error, started_at)

    async def aexecute(self, claim: Claim) -> Finish:
        """Run a claim of an async task in this event loop."""
        started_at = self.now()
        try:
            func, args, kwargs = self._call(claim, started_at)
            self.on_start(claim, started_at)
            value = await func(*args, **kwargs)
            return self._succeeded(claim, value, started_at)
        except BaseException as error:
            return self._failed(claim, error, started_at)

    def _call(
        self, claim: Claim, started_at: datetime
    ) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
        resolved = self.resolve(claim.task_path)
        if resolved.func is None:
            assert resolved.error is not None
            raise resolved.error
        args = json.loads(claim.args)
        kwargs = json.loads(claim.kwargs)
        if resolved.takes_context:
            result = self.result_at_start(claim, started_at)
            args.insert(0, TaskContext(task_result=result))
        return resolved.func, args, kwargs

    def _succeeded(self, claim: Claim, value: Any, started_at: datetime) -> Finish:
        text = None if value is None else dumps(value, "The return value")
        if text is not None and len(text) > self.max_result_size // 4:
            size = len(text.encode())
            if size > self.max_result_size:
                raise ResultTooLarge(
                    f"The return value takes {size} bytes of JSON; "
                    f'OPTIONS["max_result_size"] allows {self.max_result_size}. '
                    "Store it elsewhere and return where it is."
                )
        return Finish.succeeded(claim, text, started_at=started_at, finished_at=self.now())

    def _failed(self, claim: Claim, error: BaseException, started_at: datetime) -> Finish:
        return Finish.failed(
            claim,
            error,
            worker_id=self.worker_id,
            started_at=started_at,
            finished_at=self.now(),
        )

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
            status=TaskResultStatus(finish.status),
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
        }


def _entries(errors: str | None) -> list[dict[str, Any]]:
    return json.loads(errors) if errors else []
