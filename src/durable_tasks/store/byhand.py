"""Cancelling and retrying by hand: many jobs in batches, and who is told after the commit."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from .. import clock
from ..compat import BaseTaskBackend, InvalidTaskBackend, task_backends, task_finished
from ..models import Job
from ..results import to_result
from ..retention import Rule
from ..signals import announce, is_heard
from ..statuses import JobStatus
from .base import Store
from .bells import ring_on_commit
from .messages import MAX_BATCH, LockedJob
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
    ring_on_commit(store, {(job.backend_name, job.queue_name) for job in _notifying(store, found)})
    return found


def run_if_immediate(jobs: Iterable[LockedJob]) -> None:
    """Run those of these jobs that are READY, of backends on which nobody else would."""
    for job in jobs:
        backend: Any = _backend(job.backend_name)
        options = getattr(backend, "durable_options", None)
        if options is not None and options.immediate:
            backend.inline().run_to_the_end(job.id)


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
        seen, changed = _do(store, jobs, page, act, wait=False)
        passed_over += [id for id in page if id not in seen]
        done += changed
        page = list(jobs.filter(id__gt=page[-1]).values_list("id", flat=True)[:MAX_BATCH])
    for id in passed_over:
        done += _do(store, jobs, [id], act, wait=True)[1]
    return done


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


def _announce(alias: str, ids: Sequence[UUID]) -> None:
    """Send Django's signal for jobs that were cancelled while they waited."""
    for job in Job.objects.using(alias).filter(id__in=ids, status=JobStatus.CANCELLED):
        backend = _backend(job.backend_name)
        options = getattr(backend, "durable_options", None)
        if backend is not None and (options is None or options.signals):
            announce(task_finished, type(backend), partial(to_result, job), failed=True)
