"""``DurableTask`` and the ``task`` decorator: Django's, plus our options, on every Django."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Literal, overload

from django.db import transaction
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
from .retention import UNSET, MaybeRetain, Retain, retain_of
from .retry import Backoff, seconds_of
from .transactions import in_transactions

OnWorkerLost = Literal["retry", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableTask(Task):  # type: ignore[type-arg]
    """Django's ``Task`` with our options.

    ``on_worker_lost``: what happens to a job whose worker died while it ran: ``"retry"`` runs it
    again, ``"fail"`` never runs it twice.
    ``max_attempts``: how often it may run if it raises; None: ``OPTIONS["max_attempts"]``.
    ``backoff``: called with the exception and the ``TaskResult``, returns the seconds (or a
    ``timedelta``) until the next run, or None to give up; None: ``OPTIONS["backoff"]``.
    ``retry_on``: only these exceptions are worth another run; empty: any ``Exception``.
    ``give_up_on``: these are not.
    ``timeout``: seconds (or a ``timedelta``) that a run may take; None: ``OPTIONS["timeout"]``.
    ``retain``, ``retain_failed``: how long its jobs stay once they have ended, and those of them
    that FAILED or were CANCELLED: a ``timedelta``, seconds, a text such as "7d", or None for ever;
    without them, the options of these names hold.
    ``atomic``: what the task writes to the jobs' database and its completion commit together.
    """

    on_worker_lost: OnWorkerLost = "retry"
    max_attempts: int | None = None
    backoff: Backoff | None = None
    retry_on: tuple[type[BaseException], ...] = ()
    give_up_on: tuple[type[BaseException], ...] = ()
    timeout: float | timedelta | None = None
    retain: MaybeRetain = field(default=UNSET, repr=False)
    retain_failed: MaybeRetain = field(default=UNSET, repr=False)
    atomic: bool = False

    def __post_init__(self) -> None:
        # A dataclass with slots is made anew: super() without arguments would miss it.
        Task.__post_init__(self)
        if self.on_worker_lost not in ("retry", "fail"):
            raise InvalidTask(
                f'on_worker_lost must be "retry" or "fail", not {self.on_worker_lost!r}.'
            )
        attempts = self.max_attempts
        if attempts is not None and (type(attempts) is not int or attempts < 1):
            raise InvalidTask(f"max_attempts must be a whole number above 0, not {attempts!r}.")
        if self.backoff is not None and not callable(self.backoff):
            raise InvalidTask(f"backoff must be a callable, not {self.backoff!r}.")
        for name in ("retry_on", "give_up_on"):
            given = getattr(self, name)
            kinds = given if isinstance(given, (tuple, list)) else (given,)
            if not all(
                isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds
            ):
                raise InvalidTask(f"{name} must be exception classes, not {given!r}.")
            object.__setattr__(self, name, tuple(kinds))
        if self.timeout is not None:
            try:
                if seconds_of(self.timeout, "timeout") == 0:
                    raise ValueError("timeout must be above 0.")
            except (TypeError, ValueError) as error:
                raise InvalidTask(str(error)) from error
        for name in ("retain", "retain_failed"):
            if (given := getattr(self, name)) is not UNSET:
                try:
                    retain_of(given, name)
                except ValueError as error:
                    raise InvalidTask(str(error)) from error
        if self.atomic and iscoroutinefunction(self.func):
            raise InvalidTask(
                "atomic=True is for sync tasks: Django's transactions do not work in coroutines."
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
        aliases = {using} if using else {each.alias for each in in_transactions()}
        open_transactions = set(aliases)

        def committed(alias: str) -> None:
            if alias in open_transactions:  # tests may call it again: see captureOnCommitCallbacks
                open_transactions.remove(alias)
                if not open_transactions:
                    enqueue()

        for alias in aliases:
            transaction.on_commit(partial(committed, alias), using=alias)
        if not aliases:
            enqueue()


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
    max_attempts: int | None = ...,
    backoff: Backoff | None = ...,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = ...,
    give_up_on: type[BaseException] | tuple[type[BaseException], ...] = ...,
    timeout: float | timedelta | None = ...,
    retain: Retain = ...,
    retain_failed: Retain = ...,
    atomic: bool = ...,
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
