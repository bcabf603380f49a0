"""The backend: what ``django.tasks`` calls to enqueue a task and to read its result."""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from sys import intern
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.checks import CheckMessage
from django.core.exceptions import ObjectDoesNotExist
from django.db import connections, router, transaction
from django.utils import timezone

from . import clock
from .compat import (
    AnyTask,
    BaseTaskBackend,
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from .exceptions import CannotWait, NotSerializable
from .ids import checked_id
from .options import Options, parse_options
from .results import DurableTaskResult, dumps, find_task, make_result, to_result
from .retention import Retention
from .signals import announce, is_heard
from .statuses import ENDED
from .tasks import DurableTask

# Nothing here may import the models at import time: @task builds the backend while apps load.
if TYPE_CHECKING:
    from django.db.models import QuerySet

    from .inline import Inline
    from .models import Job
    from .store import NewJob, Store
    from .store.byhand import Act

# One call of a task: the task, its positional and its keyword arguments.
Call = tuple[AnyTask, Sequence[Any], Mapping[str, Any]]

# Kinds of calls that a backend remembers as valid.
MAX_VALIDATED = 1000


class DatabaseBackend(BaseTaskBackend):
    """Keeps tasks in the project's database, for ``db_worker`` to run."""

    task_class = DurableTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    @cached_property
    def durable_options(self) -> Options:
        """The parsed ``OPTIONS``. Raises ``ImproperlyConfigured`` that names the key at fault."""
        return parse_options(self.alias, self.options)

    @cached_property
    def retention(self) -> Retention:
        """How long ended jobs stay. Raises as ``durable_options``."""
        return Retention(self.alias, self.durable_options, find_task)

    @cached_property
    def _validated(self) -> set[Hashable]:
        return set()

    def validate_task(self, task: AnyTask) -> None:
        """Raise ``InvalidTask`` if this backend can't take the task."""
        if task.run_after is not None and self.durable_options.immediate:
            raise InvalidTask(
                f'run_after needs a worker: with {self.durable_options.where}["immediate"] on, '
                "tasks run where they are enqueued, and nobody runs them later."
            )
        # Asked for every job: what was found valid once need not be looked at again.
        due = task.run_after is not None and (settings.USE_TZ, timezone.is_aware(task.run_after))
        facts = (task.func, task.takes_context, task.priority, task.queue_name, due)
        if facts in self._validated:
            return
        super().validate_task(task)
        for name, value, limit in (
            ("queue_name", task.queue_name, 100),
            ("The task's path", task.module_path, 255),
        ):
            if len(value) > limit:
                raise InvalidTask(
                    f"{name} is {len(value)} characters long, {limit} at most: {value[:60]!r}..."
                )
        if not task.queue_name:
            raise InvalidTask("queue_name must not be empty.")
        if len(self._validated) >= MAX_VALIDATED:
            self._validated.clear()
        self._validated.add(facts)

    def enqueue(
        self,
        task: AnyTask,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        schedule: str | None = None,
    ) -> DurableTaskResult:
        """Insert one job and return its result; run it first if ``OPTIONS["immediate"]`` is on.

        One INSERT on the database that the router names for ``Job``: part of the caller's
        transaction. ``schedule``: the name of the periodic task that it is a run of.
        Raises ``InvalidTask``, or ``NotSerializable`` naming the argument.
        """
        row = self._row(task, args, kwargs)
        row.schedule = schedule
        return self._enqueue(task, row)

    def enqueue_many(self, calls: Iterable[Call]) -> list[DurableTaskResult]:
        """Insert many jobs at once: all or none of them.

        ``calls``: triples of a task, its positional and its keyword arguments; taken in chunks, so
        that a generator never has to hold them all. Returns their results in order. Raises what
        ``enqueue`` raises, and what ``calls`` raises; then nothing is inserted.
        """
        made: list[_Enqueued] = []

        def rows() -> Iterator["NewJob"]:
            for task, args, kwargs in calls:
                row = self._row(task, args, kwargs)
                made.append(_Enqueued(task, row))
                yield row

        store = self._store()
        store.insert(rows())
        self._ring(store, [each.row for each in made])
        if not (self.durable_options.signals and is_heard(task_enqueued)):
            results = [DurableTaskResult.lazy(each) for each in made]
        else:
            results = [each.result() for each in made]
            for result in results:
                announce(task_enqueued, type(self), partial(_itself, result))
        if self.durable_options.immediate:
            inline = self.inline()
            return [self._run(inline, each.row) for each in made]
        return results

    async def aenqueue_many(self, calls: Iterable[Call]) -> list[DurableTaskResult]:
        """See ``enqueue_many()``."""
        return await sync_to_async(self.enqueue_many, thread_sensitive=True)(calls)

    def get_result(self, result_id: str) -> DurableTaskResult:
        """Return the result with this id.

        Raises ``TaskResultDoesNotExist`` if there is none, or if the id is malformed.
        """
        return to_result(self.get_job(result_id))

    def get_job(self, result_id: str) -> "Job":
        """Return the row of the job with this id; raises like ``get_result()``."""
        try:
            return self._jobs(result_id).get()
        except (ObjectDoesNotExist, ValueError) as error:
            raise TaskResultDoesNotExist(result_id) from error

    def look(self, result_id: str) -> str:
        """Return the status of a job that somebody waits for.

        Raises ``TaskResultDoesNotExist``, and ``CannotWait`` if it can't be seen to change.
        """
        jobs = self._jobs(result_id)
        status = jobs.values_list("status", flat=True).first()
        if status is None:
            raise TaskResultDoesNotExist(result_id)
        if status not in ENDED and not connections[jobs.db].get_autocommit():
            raise CannotWait(
                f"The job {result_id} can't be waited for inside a transaction: what other "
                "connections commit may stay unseen, and a job that was enqueued in it can't start "
                "before it commits. Wait after the block; in tests, use TransactionTestCase."
            )
        return str(status)

    def watch(
        self, result_id: str, wake: Callable[[], object]
    ) -> AbstractContextManager[Callable[[], None]]:
        """Call ``wake``, from another thread, when it is time to look at a job that may have ended.

        So long as the returned block lasts, and where notifications tell. It gives a function to
        call before each pause between two looks.
        """
        store = self._store()
        if not (store.notifies and self.durable_options.notify):
            return nullcontext(lambda: None)
        from .store.waits import listener  # late, as in _engine

        alias = self.durable_options.listen_database or store.connection.alias
        return listener(alias).watch(UUID(result_id), wake)

    def cancel(self, result_id: str) -> bool:
        """Cancel a job; return whether it was waiting or running, False if it had ended.

        A job that waits is CANCELLED at once and never runs. One that runs is interrupted by its
        worker, within about a second, and is CANCELLED then; but if its task ends by itself
        before, that counts. All this belongs to the caller's transaction.

        Raises ``TaskResultDoesNotExist`` if there is no such job.
        """
        from .store.byhand import cancel  # late, as in _engine

        return self._by_hand(result_id, cancel)

    async def acancel(self, result_id: str) -> bool:
        """See ``cancel()``."""
        return await sync_to_async(self.cancel, thread_sensitive=True)(result_id)

    def retry(self, result_id: str) -> bool:
        """Run a job again that failed or was cancelled; return whether it was one.

        Its attempts count from 0 again, and its errors stay. This belongs to the caller's
        transaction. With ``OPTIONS["immediate"]`` on, it has ended again on return.
        Raises ``TaskResultDoesNotExist`` if there is no such job.
        """
        from .store.byhand import retry  # late, as in _engine

        return self._by_hand(result_id, partial(retry, successful=False))

    async def aretry(self, result_id: str) -> bool:
        """See ``retry()``."""
        return await sync_to_async(self.retry, thread_sensitive=True)(result_id)

    def _by_hand(self, result_id: str, act: "Act") -> bool:
        from .store.byhand import run_if_immediate  # late, as in _engine

        store = self._store()
        try:
            id = UUID(str(result_id))
        except ValueError as error:
            raise TaskResultDoesNotExist(result_id) from error
        with transaction.atomic(using=store.connection.alias):
            jobs = [job for job in store.lock([id]) if job.backend_name == self.alias]
            if not jobs:
                raise TaskResultDoesNotExist(result_id)
            changed = act(store, jobs)
        run_if_immediate(changed)
        return bool(changed)

    def prepare(
        self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Callable[[], DurableTaskResult]:
        """Do now what ``enqueue`` does but for the INSERT; return a function that does the rest.

        Raises what ``enqueue`` raises.
        """
        row = self._row(task, args, kwargs)

        def enqueue() -> DurableTaskResult:
            row.enqueued_at = clock.now()
            row.run_at = row.run_after or row.enqueued_at
            return self._enqueue(task, row)

        return enqueue

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return what ``manage.py check`` says about this backend's settings."""
        from .checks import check_backend

        return check_backend(self)

    @cached_property
    def _engine(
        self,
    ) -> "tuple[type[Job], type[NewJob], Callable[..., Store], Callable[..., None]]":
        # Late: models can't be imported while apps load. Once: an import costs at each call.
        from .models import Job
        from .store import NewJob, store_for
        from .store.bells import ring_for

        return Job, NewJob, store_for, ring_for

    def _jobs(self, result_id: str) -> "QuerySet[Job]":
        """The job with this id, if it is one of this backend's. Raises ``ValueError``."""
        job = self._engine[0]
        # Read where it was written: a replica may not have it yet.
        jobs = job.objects.using(router.db_for_write(job))
        return jobs.filter(id=UUID(str(result_id)), backend_name=self.alias)

    def _store(self) -> "Store":
        job, _, store_for, _ = self._engine
        return store_for(connections[router.db_for_write(job)])

    def _ring(self, store: "Store", rows: "Sequence[NewJob]") -> None:
        options = self.durable_options
        if store.notifies and options.notify and not options.immediate:
            self._engine[3](store, rows)

    def _enqueue(self, task: AnyTask, row: "NewJob") -> DurableTaskResult:
        store = self._store()
        store.insert([row])
        self._ring(store, [row])
        result = _Enqueued(task, row).result()
        if self.durable_options.signals:
            announce(task_enqueued, type(self), partial(_itself, result))
        return self._run(self.inline(), row) if self.durable_options.immediate else result

    def inline(self, worker_id: str | None = None) -> "Inline":
        """Return what runs this backend's jobs in the caller's thread, under a name for it."""
        from .inline import Inline  # late, as in _engine

        return Inline(type(self), self.durable_options, self.retention, worker_id)

    def _run(self, inline: "Inline", row: "NewJob") -> DurableTaskResult:
        """Run a job that was just inserted and return its result."""
        finish = inline.run_to_the_end(row.id)
        if finish is None:  # a worker that should not be there has taken it
            return self.get_result(str(row.id))
        return inline.executor.result_at_end(finish)

    def _row(self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "NewJob":
        self.validate_task(task)
        for name in kwargs:
            if not isinstance(name, str):
                raise NotSerializable(f"kwargs has a key that is no string: {name!r}.")
        now = clock.now()
        status = "READY"
        run_after = task.run_after
        if run_after is not None:
            if not settings.USE_TZ and timezone.is_aware(run_after):
                run_after = timezone.make_naive(run_after)
            if run_after > now:
                status = "SCHEDULED"
        return self._engine[1](
            id=checked_id(self.durable_options.make_id()),
            status=status,
            backend_name=self.alias,
            queue_name=task.queue_name,
            priority=int(task.priority),
            task_path=intern(task.module_path),  # many rows at once share one text
            args=dumps(args, "args") if args else "[]",
            kwargs=dumps(kwargs, "kwargs") if kwargs else "{}",
            run_after=run_after,
            run_at=run_after or now,
            enqueued_at=now,
        )


class _Enqueued:
    """Makes the result of a job that has just been inserted, when it is looked at."""

    __slots__ = ("row", "task")

    def __init__(self, task: AnyTask, row: "NewJob") -> None:
        self.task = task
        self.row = row

    def __call__(self) -> DurableTaskResult:
        row = self.row
        return make_result(
            task=self._task(),
            id=row.id,
            status=row.status,
            enqueued_at=row.enqueued_at,
            # As they were stored: what the caller does to its arguments since is not ours.
            args=json.loads(row.args),
            kwargs=json.loads(row.kwargs),
        )

    def result(self) -> DurableTaskResult:
        """Return the result with what receivers of signals look at; the rest is made later."""
        task = self._task()
        return DurableTaskResult.lazy(
            self,
            id=str(self.row.id),
            task=task,
            backend=task.backend,
            status=TaskResultStatus.READY,
        )

    def _task(self) -> AnyTask:
        alias = self.row.backend_name
        return self.task if self.task.backend == alias else replace(self.task, backend=alias)


def _itself(result: DurableTaskResult) -> DurableTaskResult:
    return result
