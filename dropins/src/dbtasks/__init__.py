"""django-durable-tasks under the import name of django-dbtasks."""

from durable_tasks import __version__

from .periodic import Periodic
from .schedule import Crontab, Duration, Every, Schedule, ScheduleExhausted

__all__ = [
    "Crontab",
    "Duration",
    "Every",
    "Periodic",
    "Schedule",
    "ScheduleExhausted",
    "__version__",
]
