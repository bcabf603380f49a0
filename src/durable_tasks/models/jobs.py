"""``Job``: one enqueued run of a task."""

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connections, models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from .. import clock
from ..compat import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from ..ids import uuid7
from ..statuses import ENDED, JobStatus, status_choices
from .indexes import PartialIndex
from .lengths import MAX_NAME, MAX_PATH, MAX_WORKER_ID

if TYPE_CHECKING:
    from ..store.byhand import Act


class JobQuerySet(models.QuerySet["Job"]):
    """The words for jobs in a status."""

    def ready(self) -> "JobQuerySet":
        """Jobs that are due and wait for a worker."""
        return self.filter(status=JobStatus.READY)

    def scheduled(self) -> "JobQuerySet":
        """Jobs that are due in the future."""
        return self.filter(status=JobStatus.SCHEDULED)

    def running(self) -> "JobQuerySet":
        """Jobs that a worker has claimed."""
        return self.filter(status=JobStatus.RUNNING)

    def paused(self) -> "JobQuerySet":
        """Jobs that are due and whose task is paused."""
        return self.filter(status=JobStatus.PAUSED)

    def successful(self) -> "JobQuerySet":
        """Jobs that ended well."""
        return self.filter(status=JobStatus.SUCCESSFUL)

    def failed(self) -> "JobQuerySet":
        """Jobs that ended with an error."""
        return self.filter(status=JobStatus.FAILED)

    def finished(self) -> "JobQuerySet":
        """Jobs that ended, well or not."""
        return self.filter(status__in=ENDED)

    def cancel(self) -> int:
        """Cancel these jobs; return how many were waiting or running.

        Those that wait are CANCELLED at once. Those that run are interrupted by their workers; they
        are CANCELLED unless they end before. Outside of a transaction, each batch is one.
        """
        from ..store import byhand

        return self._by_hand(byhand.cancel)

    def retry(self, *, successful: bool = False) -> int:
        """Run those of these jobs again that failed or were cancelled; return how many.

        ``successful``: also those that succeeded. Their attempts count from 0 again; their errors
        stay. Outside of a transaction, each batch is one.
        """
        from ..store import byhand

        return self._by_hand(partial(byhand.retry, successful=successful))

    def run_now(self) -> int:
        """Make those of these jobs READY that are due in the future; return how many."""
        from ..store import byhand

        return self._by_hand(byhand.run_now)

    def move(self, queue_name: str) -> int:
        """Put those of these jobs that wait into another queue; return how many.

        Raises ``ValueError`` for a queue that their backend does not have.
        """
        from ..store import byhand

        return self._by_hand(partial(byhand.move, queue_name=queue_name))

    def prioritize(self, priority: int) -> int:
        """Give those of these jobs that wait another priority, -100 to 100; return how many.

        Raises ``ValueError`` for any other number.
        """
        from ..store import Store, byhand

        byhand.check_priority(priority)
        return self._by_hand(partial(Store.prioritize, priority=priority))

    def copy(self, made: list[UUID] | None = None) -> int:
        """Enqueue the calls of these jobs again, each as a new job; return how many.

        Of the same task, arguments, queue, priority and backend, and due now. ``made``: gets the
        ids of the new jobs. Whether their tasks are still there is for the runs to say.
        """
        from ..store import byhand

        return self._by_hand(partial(byhand.copy, made=[] if made is None else made))

    def mark(self, delete_after: datetime | None = None) -> int:
        """Let workers delete those of these jobs that have ended; return how many.

        ``delete_after``: from then on; None: now.
        """
        from ..store import Store

        return self._by_hand(partial(Store.mark, delete_after=delete_after or clock.now()))

    def discard(self) -> int:
        """Delete those of these jobs that do not run; return how many.

        A job stays to which a row of another table refers.
        """
        from ..store import byhand

        return self._by_hand(byhand.discard)

    # Not of the manager: all jobs are to be asked for by name.
    _word: Any
    for _word in (cancel, retry, run_now, move, prioritize, copy, mark, discard):
        _word.queryset_only = True
    del _word

    def _by_hand(self, act: "Act") -> int:
        from ..store import byhand, store_for  # late: the store is made for these models

        self._for_write = True
        return byhand.in_batches(store_for(connections[self.db]), self.using(self.db), act)


class Job(models.Model):
    """One enqueued run of a task."""

    id = models.UUIDField(_("id"), primary_key=True, default=uuid7, editable=False)
    status = models.CharField(
        _("status"), max_length=16, choices=status_choices, default=JobStatus.READY
    )
    backend_name = models.CharField(_("backend"), max_length=MAX_NAME)
    queue_name = models.CharField(_("queue"), max_length=MAX_NAME)
    priority = models.SmallIntegerField(_("priority"), default=0)
    task_path = models.CharField(_("task"), max_length=MAX_PATH)
    args = models.JSONField(_("arguments"), default=list)
    kwargs = models.JSONField(_("keyword arguments"), default=dict)
    metadata = models.JSONField(_("metadata"), null=True)
    # As asked for at enqueue, only shown; run_at is what counts.
    run_after = models.DateTimeField(_("run after"), null=True)
    run_at = models.DateTimeField(_("due at"))
    enqueued_at = models.DateTimeField(_("enqueued at"))
    started_at = models.DateTimeField(_("first started at"), null=True)
    last_attempted_at = models.DateTimeField(_("last attempted at"), null=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)
    attempts = models.IntegerField(_("attempts"), default=0)
    lost = models.SmallIntegerField(_("lost runs"), default=0)
    # The fencing token: grows at every claim, release, retry and rescue, and never falls.
    lease = models.IntegerField(_("lease"), default=0)
    # The lease of a run that is known to have started; written only where that decides something.
    started_lease = models.IntegerField(_("started lease"), null=True)
    # The owner while running, the finisher once successful, else null.
    worker_id = models.CharField(_("worker"), max_length=MAX_WORKER_ID, null=True)  # noqa: DJ001
    return_value = models.JSONField(_("return value"), null=True)
    # One entry per failed or lost attempt; null means none.
    errors = models.JSONField(_("errors"), null=True)
    exception_class_path = models.CharField(  # noqa: DJ001
        _("exception class"), max_length=MAX_PATH, null=True
    )
    # Where it was raised: the file and the function of the innermost frame that is the project's.
    error_place = models.CharField(_("error place"), max_length=MAX_PATH, null=True)  # noqa: DJ001
    cancel_requested_at = models.DateTimeField(_("cancel requested at"), null=True)
    delete_after = models.DateTimeField(_("delete after"), null=True)
    # The name of the periodic task that made this job.
    schedule = models.CharField(_("schedule"), max_length=MAX_PATH, null=True)  # noqa: DJ001
    # The engine's own, such as a trace context; never the user's metadata.
    context = models.JSONField(_("context"), null=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        permissions = (
            ("run_job", "Can run jobs now"),
            ("retry_job", "Can retry jobs"),
            ("cancel_job", "Can cancel jobs"),
            ("move_job", "Can change the queue of jobs"),
            ("prioritize_job", "Can change the priority of jobs"),
            ("copy_job", "Can enqueue copies of jobs"),
            ("mark_job", "Can mark jobs for deletion"),
        )
        constraints = (
            models.CheckConstraint(
                name="durable_job_priority",
                condition=Q(priority__gte=TASK_MIN_PRIORITY, priority__lte=TASK_MAX_PRIORITY),
            ),
        )
        # Few and partial: each is written at every change of status, and most rows are history.
        indexes = (
            PartialIndex(
                name="durable_job_ready",
                fields=["backend_name", "queue_name", "-priority", "run_at", "id"],
                where=Q(status=JobStatus.READY.value),
                fallback=["status", "backend_name", "queue_name", "-priority", "run_at", "id"],
            ),
            PartialIndex(
                name="durable_job_scheduled",
                # With the id, so that a list goes on within a million jobs due at one time.
                fields=["run_at", "id"],
                where=Q(status=JobStatus.SCHEDULED.value),
                fallback=["status", "run_at"],
            ),
            # MySQL and MariaDB answer this from durable_job_scheduled.
            PartialIndex(
                name="durable_job_paused",
                fields=["task_path", "id"],
                where=Q(status=JobStatus.PAUSED.value),
                fallback=[],
            ),
            PartialIndex(
                name="durable_job_running",
                fields=["worker_id"],
                where=Q(status=JobStatus.RUNNING.value),
                fallback=["status", "worker_id"],
            ),
            PartialIndex(
                name="durable_job_ended",
                fields=["finished_at"],
                where=Q(status__in=[status.value for status in ENDED]),
                fallback=["status", "finished_at"],
            ),
            # MySQL and MariaDB answer this from durable_job_ended.
            PartialIndex(
                name="durable_job_failed",
                fields=["finished_at"],
                where=Q(status=JobStatus.FAILED.value),
                fallback=[],
            ),
            PartialIndex(
                name="durable_job_delete_after",
                fields=["delete_after"],
                where=Q(delete_after__isnull=False),
                fallback=["delete_after"],
            ),
        )

    def __str__(self) -> str:
        return f"{self.task_path} ({self.id})"
