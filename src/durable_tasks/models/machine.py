"""What the machine keeps beside the jobs: who works, what runs on a schedule, what is paused."""

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from .lengths import MAX_NAME, MAX_PATH, MAX_WORKER_ID


class Wish(models.TextChoices):
    """What can be asked of a worker."""

    # Claim nothing more and stay.
    DRAIN = "drain", pgettext_lazy("Wish", "Drain")
    # Claim nothing more, finish what runs, and end.
    STOP = "stop", pgettext_lazy("Wish", "Stop")


def wish_choices() -> list[tuple[str, str]]:
    """The choices of ``Worker.wish``; a callable, so that a new one needs no migration."""
    return [(wish.value, str(wish.label)) for wish in Wish]


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
    threads = models.IntegerField(_("threads"), default=0)
    coroutines = models.IntegerField(_("coroutines"), default=0)
    # Of this package.
    version = models.CharField(_("version"), max_length=40, default="")
    # Resident, in bytes, as of the last heartbeat; null where it can't be known.
    memory = models.BigIntegerField(_("memory"), null=True)
    # What somebody wants of it, a ``Wish``; it obeys at its next heartbeat.
    wish = models.CharField(  # noqa: DJ001
        _("wish"), max_length=10, choices=wish_choices, null=True
    )

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        permissions = (
            ("drain_worker", "Can drain workers, and let them go on"),
            ("stop_worker", "Can stop workers"),
        )

    def __str__(self) -> str:
        return self.id


class PeriodicTask(models.Model):
    """One schedule on which a task is enqueued.

    Made from ``OPTIONS["periodic"]``, or by people in the admin: ``source`` tells which.
    """

    SETTINGS, DATABASE = "settings", "database"

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
    # The ids of the last jobs, the latest last; null means none.
    last_job_ids = models.JSONField(_("last jobs"), null=True, editable=False)
    source = models.CharField(_("source"), max_length=10, default=SETTINGS, editable=False)

    class Meta:
        verbose_name = _("periodic task")
        verbose_name_plural = _("periodic tasks")
        permissions = (("run_periodictask", "Can run periodic tasks now"),)
        constraints = (
            models.UniqueConstraint(fields=["backend_name", "name"], name="durable_periodic_name"),
        )

    def __str__(self) -> str:
        return self.name


class Pause(models.Model):
    """A queue, or a task, whose jobs no worker starts; one of the two names is empty."""

    id = models.BigAutoField(_("id"), primary_key=True)
    backend_name = models.CharField(_("backend"), max_length=MAX_NAME)
    queue_name = models.CharField(_("queue"), max_length=MAX_NAME, default="")
    task_path = models.CharField(_("task"), max_length=MAX_PATH, default="")
    paused_at = models.DateTimeField(_("paused at"))
    # The name of a user.
    paused_by = models.CharField(_("paused by"), max_length=MAX_PATH, default="")

    class Meta:
        # Its page in the admin is that of the queues.
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        default_permissions = ()
        permissions = (
            ("view_pause", "Can view queues"),
            ("add_pause", "Can pause queues and tasks"),
            ("delete_pause", "Can resume queues and tasks that are paused"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["backend_name", "queue_name", "task_path"], name="durable_pause_of"
            ),
        )

    def __str__(self) -> str:
        return self.queue_name or self.task_path
