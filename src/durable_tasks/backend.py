"""The backend: what ``django.tasks`` calls to enqueue a task and to read its result."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.checks import CheckMessage
from django.utils import timezone

from .compat import (
    AnyTask,
    BaseTaskBackend,
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from .exceptions import NotSerializable
from .ids import checked_id
from .options import Options, parse_options
from .results import DurableTaskResult, dumps, make_result, to_result
from .signals import announce
from .statuses import JobStatus
from .tasks import DurableTask

# Nothing here may import the models at import time: @task builds the backend while apps load.
if TYPE_CHECKING:
    from .models import Job
    from .store import NewJob, Store

# One call of a task: the task, its positional and its keyword arguments.
Call = tuple[AnyTask, Sequence[Any], Mapping[str, Any]]


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

    def validate_task(self, task: AnyTask) -> None:
        """Raise ``InvalidTask`` if this backend can't take the task."""
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

    def enqueue(
        self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> DurableTaskResult:
        """Insert one job and return its result.

        One INSERT on the database that the router names for ``Job``: part of the caller's
        transaction. Raises ``InvalidTask``, or ``NotSerializable`` naming the argument.
        """
        return self.enqueue_many([(task, args, kwargs)])[0]

    def enqueue_many(self, calls: Iterable[Call]) -> list[DurableTaskResult]:
        """Insert many jobs at once: all or none of them.

        ``calls``: triples of a task, its positional and its keyword arguments. Returns their
        results in order. Raises what ``enqueue`` raises, before anything is inserted.
        """
        calls = list(calls)
        rows = [self._row(task, args, kwargs) for task, args, kwargs in calls]
        from .store.bells import ring_on_commit

        store = self._store()
        ids = store.insert(rows)
        if store.notifies and self.durable_options.notify:
            ring_on_commit(store, rows)
        results = [
            _new_result(
                task if task.backend == self.alias else replace(task, backend=self.alias),
                job_id,
                row,
            )
            for (task, _, _), row, job_id in zip(calls, rows, ids, strict=True)
        ]
        for result in results:
            announce(task_enqueued, type(self), partial(_itself, result))
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
        from django.db import router

        from .models import Job

        try:
            # Read where it was written: a replica may not have it yet.
            return Job.objects.using(router.db_for_write(Job)).get(
                id=UUID(str(result_id)), backend_name=self.alias
            )
        except (Job.DoesNotExist, ValueError) as error:
            raise TaskResultDoesNotExist(result_id) from error

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return what ``manage.py check`` says about this backend's settings."""
        from .checks import check_backend

        return check_backend(self)

    def _store(self) -> "Store":
        from django.db import connections, router

        from .models import Job
        from .store import store_for

        return store_for(connections[router.db_for_write(Job)])

    def _row(self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "NewJob":
        from .store import NewJob

        self.validate_task(task)
        for name in kwargs:
            if not isinstance(name, str):
                raise NotSerializable(f"kwargs has a key that is no string: {name!r}.")
        now = timezone.now()
        run_after = task.run_after
        if run_after is not None and not settings.USE_TZ and timezone.is_aware(run_after):
            run_after = timezone.make_naive(run_after)
        scheduled = run_after is not None and run_after > now
        return NewJob(
            id=checked_id(self.durable_options.make_id()),
            status=JobStatus.SCHEDULED.value if scheduled else JobStatus.READY.value,
            backend_name=self.alias,
            queue_name=task.queue_name,
            priority=task.priority,
            task_path=task.module_path,
            args=dumps(args, "args"),
            kwargs=dumps(kwargs, "kwargs"),
            run_after=run_after,
            run_at=run_after or now,
            enqueued_at=now,
        )


def _new_result(task: AnyTask, job_id: UUID, row: "NewJob") -> DurableTaskResult:
    def make() -> DurableTaskResult:
        return make_result(
            task=task,
            id=job_id,
            status=row.status,
            enqueued_at=row.enqueued_at,
            # As they were stored: what the caller does to its arguments since is not ours.
            args=json.loads(row.args),
            kwargs=json.loads(row.kwargs),
        )

    return DurableTaskResult.lazy(make, task=task, id=str(job_id), status=TaskResultStatus.READY)


def _itself(result: DurableTaskResult) -> DurableTaskResult:
    return result
