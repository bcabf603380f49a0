"""``DurableTask`` and the ``task`` decorator: Django's, plus our options, on every Django."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.inspect import get_func_args

from .compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_PRIORITY,
    DEFAULT_TASK_QUEUE_NAME,
    InvalidTask,
    Task,
    normalize_json,
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

    def get_backend(self) -> Any:
        """Return the backend that the task is enqueued on."""
        return task_backends[self.backend]  # Django's own imports it at each call

    def enqueue_on_commit(self, *args: Any, using: str | None = None, **kwargs: Any) -> None:
        """Enqueue once what is being written has been committed, or now outside transactions.

        For jobs that live in another database than the rows they are about: ``enqueue()`` is part
        of a transaction of its own database, and needs no such help there.

        ``using``: the database whose commit to wait for; without it, all transactions that are
        open on this thread's connections. A roll-back of any means that there will be no job.

        Arguments are checked and stored as they are now. Raises what ``enqueue()`` raises; what
        goes wrong later, at the INSERT, is raised where the last transaction ends.
        """
        if using is not None and "using" in get_func_args(self.func):
            raise TypeError(
                f'{self.name}() has an argument "using" of its own: give it by position, or call '
                "transaction.on_commit() with a function that enqueues."
            )
        backend = self.get_backend()
        if hasattr(backend, "prepare"):
            enqueue = backend.prepare(self, args, kwargs)
        else:  # another backend, as in a project's tests
            enqueue = partial(backend.enqueue, self, normalize_json(args), normalize_json(kwargs))
        aliases = {using} if using else {each.alias for each in _in_transactions()}
        open_transactions = set(aliases)

        def committed(alias: str) -> None:
            open_transactions.discard(alias)
            if not open_transactions:
                enqueue()

        for alias in aliases:
            transaction.on_commit(partial(committed, alias), using=alias)
        if not aliases:
            enqueue()


def _in_transactions() -> list[BaseDatabaseWrapper]:
    made = connections.all(initialized_only=True)
    return [each for each in made if each.connection is not None and not each.get_autocommit()]


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
