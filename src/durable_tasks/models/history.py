"""What workers count, so that no page has to: how much ended and how long it took, and errors."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from .lengths import MAX_NAME, MAX_PATH


class Statistic(models.Model):
    """What workers counted in one period of time for one task in one queue.

    Rows with an empty ``task_path`` tell what was there in the queue, not what ended. Each run
    counts in a row of each length of period, so that a chart of a week reads no minutes.
    """

    id = models.BigAutoField(_("id"), primary_key=True)
    backend_name = models.CharField(_("backend"), max_length=MAX_NAME)
    # Seconds: 60, 600 or 3600; 0 for the sums of all time, which are never deleted and never fall.
    period = models.IntegerField(_("period"))
    # Database time in seconds since 1970, a multiple of the period.
    begins = models.BigIntegerField(_("begins"))
    queue_name = models.CharField(_("queue"), max_length=MAX_NAME)
    task_path = models.CharField(_("task"), max_length=MAX_PATH, default="")
    # Jobs that ended so.
    successful = models.BigIntegerField(_("successful"), default=0)
    # The same.
    failed = models.BigIntegerField(_("failed"), default=0)
    cancelled = models.BigIntegerField(_("cancelled"), default=0)
    # Runs that raised and are followed by another.
    retried = models.BigIntegerField(_("retried"), default=0)
    # Runs whose worker was lost.
    lost = models.BigIntegerField(_("lost"), default=0)
    # A histogram, see histogram.py: from being due to the start.
    waits = models.JSONField(_("wait times"), default=dict)
    # The same from the start to the end.
    runs = models.JSONField(_("run times"), default=dict)
    # The most that was there at once; null where it was not looked at.
    ready = models.IntegerField(_("ready"), null=True)
    scheduled = models.IntegerField(_("scheduled"), null=True)
    running = models.IntegerField(_("running"), null=True)

    class Meta:
        verbose_name = _("statistic")
        verbose_name_plural = _("statistics")
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(
                fields=["backend_name", "period", "begins", "queue_name", "task_path"],
                name="durable_statistic_of",
            ),
        )

    def __str__(self) -> str:
        return f"{self.queue_name} {self.task_path} {self.begins}+{self.period}"


class ErrorGroup(models.Model):
    """The errors of one class that were raised in one place."""

    id = models.BigAutoField(_("id"), primary_key=True)
    backend_name = models.CharField(_("backend"), max_length=MAX_NAME)
    exception_class_path = models.CharField(_("exception class"), max_length=MAX_PATH)
    # As Job.error_place has it; empty if there is none.
    place = models.CharField(_("place"), max_length=MAX_PATH, default="")
    # Runs that ended so, whether or not another follows.
    count = models.BigIntegerField(_("count"), default=0)
    # Its keys are seconds since 1970.
    hours = models.JSONField(_("by hour"), default=dict)
    first_seen = models.DateTimeField(_("first seen"))
    last_seen = models.DateTimeField(_("last seen"))
    # The first line of what the last one says.
    message = models.CharField(_("message"), max_length=MAX_PATH, default="")
    # Of the last one.
    task_path = models.CharField(_("task"), max_length=MAX_PATH)
    last_job_id = models.UUIDField(_("last job"))

    class Meta:
        verbose_name = _("error group")
        verbose_name_plural = _("error groups")
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(
                fields=["backend_name", "exception_class_path", "place"], name="durable_error_of"
            ),
        )

    def __str__(self) -> str:
        return f"{self.exception_class_path} in {self.place}"
