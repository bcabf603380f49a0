"""The tables: ``Job``, one enqueued run of a task, ``Worker``, one process that runs jobs, and
``PeriodicTask``, one schedule on which a task is enqueued."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import connections, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from .compat import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from .ids import uuid7
from .statuses import ENDED, JobStatus, status_choices

if TYPE_CHECKING:
    from .store.byhand import Act

# Lengths of the text columns. MySQL limits an index to 3072 bytes, 4 a character.
MAX_NAME = 100
MAX_PATH = 255
MAX_WORKER_ID = 200


class PartialIndex(models.Index):
    """An index over the rows that match ``where``.

    MySQL and MariaDB have no partial indexes: there the columns of ``fallback`` are indexed
    instead, or nothing if it is empty.
    """

    def __init__(self, *, where: Q, fallback: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where = where
        self.fallback = list(fallback)

    def deconstruct(self) -> Any:
        path, args, kwargs = super().deconstruct()
        return path, args, {**kwargs, "where": self.where, "fallback": self.fallback}

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        using: str = "",
        **kwargs: Any,
    ) -> Statement:
        if schema_editor.connection.features.supports_partial_indexes:
            fields = [f"-{name}" if order else name for name, order in self.fields_orders]
            index = models.Index(fields=fields, name=self.name, condition=self.where)
        elif self.fallback:
            index = models.Index(fields=self.fallback, name=self.name)
        else:
            return Statement("DO 0")  # the statement that does nothing
        return index.create_sql(model, schema_editor, using, **kwargs)

    def remove_sql(
        self, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor, **kwargs: Any
    ) -> str:
        if self.fallback or schema_editor.connection.features.supports_partial_indexes:
            return super().remove_sql(model, schema_editor, **kwargs)
        return "DO 0"


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
        from .store import byhand

        return self._by_hand(byhand.cancel)

    def retry(self, *, successful: bool = False) -> int:
        """Run those of these jobs again that failed or were cancelled; return how many.

        ``successful``: also those that succeeded. Their attempts count from 0 again; their errors
        stay. Outside of a transaction, each batch is one.
        """
        from .store import byhand

        return self._by_hand(partial(byhand.retry, successful=successful))

    # Not of the manager: all jobs are to be asked for by name.
    cancel.queryset_only = True  # type: ignore[attr-defined]
    retry.queryset_only = True  # type: ignore[attr-defined]

    def _by_hand(self, act: "Act") -> int:
        from .store import byhand, store_for  # late: the store is made for these models

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
                fields=["run_at"],
                where=Q(status=JobStatus.SCHEDULED.value),
                fallback=["status", "run_at"],
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


class PeriodicTask(models.Model):
    """One schedule on which a task is enqueued; made from ``OPTIONS["periodic"]``."""

    id = models.BigAutoField(_("id"), primary_key=True)
    backend_name = models.CharField(_("backend"), max_length=MAX_NAME)
    name = models.CharField(_("name"), max_length=MAX_PATH)
    enabled = models.BooleanField(_("enabled"), default=True)
    task_path = models.CharField(_("task"), max_length=MAX_PATH)
    # As resolved: with the values that were chosen for ``~``.
    spec = models.CharField(_("schedule"), max_length=MAX_PATH)
    time_zone = models.CharField(_("time zone"), max_length=MAX_NAME)
    # Null for those that are made anew at each run.
    args = models.JSONField(_("arguments"), null=True)
    kwargs = models.JSONField(_("keyword arguments"), null=True)
    queue_name = models.CharField(_("queue"), max_length=MAX_NAME)
    priority = models.SmallIntegerField(_("priority"))
    catch_up = models.CharField(_("catch up"), max_length=10)
    overlap = models.CharField(_("overlap"), max_length=10)
    # Of all this but ``enabled``: workers leave a schedule alone that is not as their settings say.
    definition = models.CharField(_("definition"), max_length=64, editable=False)
    # Null once there is no further time.
    next_run_at = models.DateTimeField(_("next run"), null=True)
    last_run_at = models.DateTimeField(_("last run"), null=True)
    last_job_id = models.UUIDField(_("last job"), null=True)

    class Meta:
        verbose_name = _("periodic task")
        verbose_name_plural = _("periodic tasks")
        constraints = (
            models.UniqueConstraint(fields=["backend_name", "name"], name="durable_periodic_name"),
        )

    def __str__(self) -> str:
        return self.name


class Worker(models.Model):
    """One OS process that claims and runs jobs; the row goes when the process stops or is lost."""

    id = models.CharField(_("worker id"), primary_key=True, max_length=MAX_WORKER_ID)
    # Random at every start: tells two lives of one name apart.
    life = models.UUIDField(_("life"), editable=False)
    backend_name = models.CharField(_("backend"), max_length=MAX_NAME)
    # Names a place in which process ids can be compared: see worker/process.py.
    host = models.CharField(_("host"), max_length=MAX_PATH)
    pid = models.IntegerField(_("process id"))
    process_started = models.CharField(_("process start"), max_length=40)
    queues = models.JSONField(_("queues"))
    started_at = models.DateTimeField(_("started at"))
    # Database time in microseconds since 1970: no time zone, no daylight saving. Not indexed, so
    # that a heartbeat touches no index.
    last_seen = models.BigIntegerField(_("last seen"))
    capacity = models.IntegerField(_("capacity"))

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return self.id
