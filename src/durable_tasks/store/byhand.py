"""What is done to many jobs by hand: in batches, and who is told after the commit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from django.db import IntegrityError, router, transaction
from django.db.models import ForeignObjectRel, QuerySet

from .. import clock
from ..compat import (
    TASK_MAX_PRIORITY,
    TASK_MIN_PRIORITY,
    BaseTaskBackend,
    InvalidTaskBackend,
    task_backends,
    task_enqueued,
    task_finished,
)
from ..ids import checked_id, uuid7
from ..models import MAX_NAME, Job
from ..results import dumps, to_result
from ..retention import Rule
from ..signals import announce, is_heard
from ..statuses import JobStatus
from .base import Store
from .bells import ring_on_commit
from .messages import MAX_BATCH, LockedJob, NewJob
from .waits import CANCEL, tell

# Returns those of the locked jobs that it changed.
type Act = Callable[[Store, list[LockedJob]], list[LockedJob]]


def cancel(store: Store, jobs: Iterable[LockedJob]) -> list[LockedJob]:
    """Cancel locked jobs in the caller's transaction, and tell of it after its commit.

    Returns those that were waiting or running.
    """
    found = store.cancel(jobs, clock.now(), _rule_of)
    waited = [job.id for job in found if job.status != JobStatus.RUNNING]
    workers = {job.worker_id for job in found if job.status == JobStatus.RUNNING}
    alias = store.connection.alias

    def notify() -> None:
        tell(store, waited)
        for worker_id in workers:
            store.notify(f"{CANCEL}{worker_id}")

    def announce_ends() -> None:
        if is_heard(task_finished, failed=True):
            _announce(alias, waited)

    if _notifying(store, found):
        transaction.on_commit(notify, using=alias, robust=True)
    if waited:
        transaction.on_commit(announce_ends, using=alias, robust=True)
    return found


def retry(store: Store, jobs: Iterable[LockedJob], *, successful: bool) -> list[LockedJob]:
    """Make locked jobs READY that have ended, and ring for them after the commit.

    ``successful``: also those that succeeded. Returns those that will run again.
    """
    found = store.retry(
        [job for job in jobs if successful or job.status != JobStatus.SUCCESSFUL], clock.now()
    )
    _ring(store, found)
    return found


def run_now(store: Store, jobs: Iterable[LockedJob]) -> list[LockedJob]:
    """Make locked jobs READY that are SCHEDULED, and ring for them; returns these."""
    found = store.run_now(jobs, clock.now())
    _ring(store, found)
    return found


def move(store: Store, jobs: Iterable[LockedJob], queue_name: str) -> list[LockedJob]:
    """Put locked jobs that wait into another queue; returns those that were in none of this name.

    Raises ``ValueError`` for a queue that the backend of one of them does not have.
    """
    jobs = list(jobs)
    for alias in {job.backend_name for job in jobs}:
        check_queue(alias, queue_name)
    found = store.move(jobs, queue_name)
    _ring(store, [replace(job, queue_name=queue_name) for job in found])
    return found


def copy(store: Store, jobs: Iterable[LockedJob], made: list[UUID]) -> list[LockedJob]:
    """Enqueue the calls of locked jobs again; returns the new jobs, and adds their ids to ``made``.

    As rows, whether or not their tasks can be imported here: who copies need not be able to run
    them, and the run says what is wrong. But none of what ``made`` has already.
    """
    alias = store.connection.alias
    known = set(made)
    ids = [job.id for job in jobs if job.id not in known]
    now = clock.now()
    rows = [
        NewJob(
            id=_new_id(job.backend_name),
            status=JobStatus.READY.value,
            backend_name=job.backend_name,
            queue_name=job.queue_name,
            priority=job.priority,
            task_path=job.task_path,
            args=dumps(job.args, "args"),
            kwargs=dumps(job.kwargs, "kwargs"),
            run_after=None,
            run_at=now,
            enqueued_at=now,
        )
        for job in Job.objects.using(alias).filter(id__in=ids).order_by("id")
    ]
    made += store.insert(rows)
    new = store.lock([row.id for row in rows]) if rows else []
    _ring(store, new)
    if new:
        transaction.on_commit(
            partial(_announce_copies, alias, [job.id for job in new]), using=alias, robust=True
        )
    return new


def check_queue(backend_name: str, queue_name: str) -> None:
    """Raise ``ValueError`` unless jobs of this backend may be in this queue."""
    if not isinstance(queue_name, str) or not queue_name or "\0" in queue_name:
        raise ValueError(f"{queue_name!r} is no name of a queue.")
    if len(queue_name) > MAX_NAME:
        raise ValueError(
            f"The queue's name is {len(queue_name)} characters long, {MAX_NAME} at most: "
            f"{queue_name[:60]!r}..."
        )
    queues = getattr(_backend(backend_name), "queues", None)
    if queues and queue_name not in queues:
        raise ValueError(
            f"The backend {backend_name!r} has no queue {queue_name!r}; it has "
            f"{', '.join(sorted(queues))}."
        )


def check_priority(priority: int) -> None:
    """Raise ``ValueError`` unless this is a priority."""
    if type(priority) is not int or not TASK_MIN_PRIORITY <= priority <= TASK_MAX_PRIORITY:
        raise ValueError(
            f"priority must be a whole number from {TASK_MIN_PRIORITY} to {TASK_MAX_PRIORITY}, "
            f"not {priority!r}."
        )


def run_if_immediate(jobs: Iterable[LockedJob]) -> None:
    """Run those of these jobs that are READY, of backends on which nobody else would."""
    for job in jobs:
        backend: Any = _backend(job.backend_name)
        options = getattr(backend, "durable_options", None)
        if options is not None and options.immediate:
            backend.inline().run_to_the_end(job.id)


def discard(store: Store, jobs: Iterable[LockedJob]) -> list[LockedJob]:
    """Delete locked jobs that do not run, unless a row of another table refers to them."""
    jobs = list(jobs)
    kept = _referenced(store.connection.alias, [job.id for job in jobs])
    return store.discard(job for job in jobs if job.id not in kept)


def _referenced(alias: str, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of these jobs to which rows of the project's models refer.

    Asked for, since databases may tell only at the commit of what may be a transaction of others.
    """
    kept: set[UUID] = set()
    for relation in Job._meta.get_fields(include_hidden=True):
        if not isinstance(relation, ForeignObjectRel) or relation.many_to_many:
            continue
        field: Any = relation.field
        model: Any = relation.related_model
        if field.db_constraint and router.allow_migrate_model(alias, model):
            rows = model._base_manager.using(alias).filter(**{f"{field.name}__in": ids})
            kept.update(rows.values_list(field.attname, flat=True))
    return kept


def in_batches(store: Store, jobs: "QuerySet[Job]", act: Act) -> int:
    """Do ``act`` to the jobs of a queryset; return how many it changed.

    In the caller's transaction, or in one for each batch. What others have locked, such as a worker
    that saves what ended, is passed over and done at the end, one by one: who waits for a lock
    should hold none.
    """
    jobs = jobs.order_by("id")
    passed_over: list[UUID] = []
    done = 0
    page = list(jobs.values_list("id", flat=True)[:MAX_BATCH])
    while page:
        seen, changed = _try(store, jobs, page, act, wait=False)
        passed_over += [id for id in page if id not in seen]
        done += changed
        page = list(jobs.filter(id__gt=page[-1]).values_list("id", flat=True)[:MAX_BATCH])
    for id in passed_over:
        done += _try(store, jobs, [id], act, wait=True)[1]
    return done


def _try(
    store: Store, jobs: "QuerySet[Job]", ids: list[UUID], act: Act, *, wait: bool
) -> tuple[set[UUID], int]:
    """As ``_do()``; a batch with a row that can't be deleted is halved until that is alone."""
    try:
        return _do(store, jobs, ids, act, wait=wait)
    except IntegrityError:
        if act is not discard:
            raise
        if len(ids) == 1:
            return set(ids), 0
    half = len(ids) // 2
    parts = [_try(store, jobs, some, act, wait=wait) for some in (ids[:half], ids[half:])]
    return set.union(*(seen for seen, _ in parts)), sum(changed for _, changed in parts)


def _do(
    store: Store, jobs: "QuerySet[Job]", ids: list[UUID], act: Act, *, wait: bool
) -> tuple[set[UUID], int]:
    """Return the ids that could be locked, and how many jobs were changed."""
    with transaction.atomic(using=store.connection.alias):
        locked = store.lock(ids, wait=wait)
        seen = {job.id for job in locked}
        # What the queryset asks for may have changed until the lock.
        still = set(jobs.filter(id__in=seen).values_list("id", flat=True))
        changed = act(store, [job for job in locked if job.id in still])
    run_if_immediate(changed)
    return seen, len(changed)


def _ring(store: Store, jobs: Iterable[LockedJob]) -> None:
    ready = [job for job in jobs if job.status != JobStatus.PAUSED]
    ring_on_commit(store, {(job.backend_name, job.queue_name) for job in _notifying(store, ready)})


def _notifying(store: Store, jobs: Iterable[LockedJob]) -> list[LockedJob]:
    """Return the jobs of backends that notify, if the database can."""

    def notifies(alias: str) -> bool:
        options = getattr(_backend(alias), "durable_options", None)
        return options is not None and options.notify

    jobs = list(jobs) if store.notifies else []
    known = {alias: notifies(alias) for alias in {job.backend_name for job in jobs}}
    return [job for job in jobs if known[job.backend_name]]


def _backend(alias: str) -> BaseTaskBackend | None:
    try:
        backend: BaseTaskBackend = task_backends[alias]
    except InvalidTaskBackend:  # removed from the settings
        return None
    return backend


def _rule_of(job: LockedJob) -> Rule | None:
    retention = getattr(_backend(job.backend_name), "retention", None)
    return None if retention is None else retention.of(job.task_path, job.schedule)


def _new_id(backend_name: str) -> Any:
    options = getattr(_backend(backend_name), "durable_options", None)
    return uuid7() if options is None else checked_id(options.make_id())


def _announce_copies(alias: str, ids: Sequence[UUID]) -> None:
    """Send Django's signal for jobs that were enqueued as copies."""
    if not is_heard(task_enqueued):
        return
    for job in Job.objects.using(alias).filter(id__in=ids):
        backend = _backend(job.backend_name)
        options = getattr(backend, "durable_options", None)
        if backend is not None and (options is None or options.signals):
            announce(task_enqueued, type(backend), partial(to_result, job))


def _announce(alias: str, ids: Sequence[UUID]) -> None:
    """Send Django's signal for jobs that were cancelled while they waited."""
    for job in Job.objects.using(alias).filter(id__in=ids, status=JobStatus.CANCELLED):
        backend = _backend(job.backend_name)
        options = getattr(backend, "durable_options", None)
        if backend is not None and (options is None or options.signals):
            announce(task_finished, type(backend), partial(to_result, job), failed=True)
