"""The statuses of a job and the moves between them."""

from django.db.models import TextChoices
from django.utils.translation import pgettext_lazy


class JobStatus(TextChoices):
    READY = "READY", pgettext_lazy("Job", "Ready")
    SCHEDULED = "SCHEDULED", pgettext_lazy("Job", "Scheduled")
    # Due, but its task is paused.
    PAUSED = "PAUSED", pgettext_lazy("Job", "Paused")
    RUNNING = "RUNNING", pgettext_lazy("Job", "Running")
    SUCCESSFUL = "SUCCESSFUL", pgettext_lazy("Job", "Successful")
    FAILED = "FAILED", pgettext_lazy("Job", "Failed")
    CANCELLED = "CANCELLED", pgettext_lazy("Job", "Cancelled")


# Not begun, or to begin again; in nobody's hands.
WAITING = (JobStatus.READY, JobStatus.SCHEDULED, JobStatus.PAUSED)
ENDED = (JobStatus.SUCCESSFUL, JobStatus.FAILED, JobStatus.CANCELLED)

# From a status to those that may follow it. An ended job is only ever run again by hand.
MOVES = {
    JobStatus.READY: (JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED),
    JobStatus.SCHEDULED: (JobStatus.READY, JobStatus.CANCELLED),
    JobStatus.PAUSED: (JobStatus.READY, JobStatus.CANCELLED),
    JobStatus.RUNNING: (*ENDED, JobStatus.READY, JobStatus.SCHEDULED, JobStatus.PAUSED),
    JobStatus.SUCCESSFUL: (JobStatus.READY,),
    JobStatus.FAILED: (JobStatus.READY,),
    JobStatus.CANCELLED: (JobStatus.READY,),
}


def status_choices() -> list[tuple[str, str]]:
    """The choices of ``Job.status``; a callable, so that a new status needs no migration."""
    return [(status.value, str(status.label)) for status in JobStatus]
