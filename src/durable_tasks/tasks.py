"""``DurableTask`` and the ``task`` decorator: Django's, plus our options, on every Django."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

from .compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_PRIORITY,
    DEFAULT_TASK_QUEUE_NAME,
    InvalidTask,
    Task,
    task_backends,
)

OnWorkerLost = Literal["retry", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableTask(Task):  # type: ignore[type-arg]
    """Django's ``Task`` with our options.

    ``on_worker_lost``: what happens to a job whose worker died: ``"retry"`` runs it again,
    ``"fail"`` never runs it twice.
    """

    on_worker_lost: OnWorkerLost = "retry"

    def __post_init__(self) -> None:
        # A dataclass with slots is made anew: super() without arguments would miss it.
        Task.__post_init__(self)
        if self.on_worker_lost not in ("retry", "fail"):
            raise InvalidTask(
                f'on_worker_lost must be "retry" or "fail", not {self.on_worker_lost!r}.'
            )


@overload
def task(function: Callable[..., Any], /) -> DurableTask: ...
@overload
def task(
    *,
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    takes_context: bool = ...,
    on_worker_lost: OnWorkerLost = ...,
) -> Callable[[Callable[..., Any]], DurableTask]: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    priority: int = DEFAULT_TASK_PRIORITY,
    queue_name: str = DEFAULT_TASK_QUEUE_NAME,
    backend: str = DEFAULT_TASK_BACKEND_ALIAS,
    takes_context: bool = False,
    **options: Any,
) -> DurableTask | Callable[[Callable[..., Any]], DurableTask]:
    """Make a task of a module-level function or coroutine function; with or without arguments.

    ``priority``: -100 to 100, higher first. ``queue_name`` and ``backend``: where its jobs go.
    ``takes_context``: the function's first argument, ``context``, is Django's ``TaskContext``.
    ``options``: the fields of ``DurableTask``.

    Raises ``InvalidTask`` for what the backend can't run and ``TypeError`` for unknown options.
    """

    def wrapper(function: Callable[..., Any]) -> DurableTask:
        kind = task_backends[backend].task_class
        # Other backends, such as Django's immediate one in a test, run our tasks as well.
        if not issubclass(kind, DurableTask):
            kind = DurableTask
        return kind(
            func=function,
            priority=priority,
            queue_name=queue_name,
            backend=backend,
            run_after=None,
            takes_context=takes_context,
            **options,
        )

    return wrapper(function) if function else wrapper
