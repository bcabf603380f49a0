"""django-durable-tasks under the import name of django-dbtasks."""

from durable_tasks.exceptions import ScheduleExhausted
from durable_tasks.periodic import Periodic
from durable_tasks.schedules import Crontab, Duration, Every, Schedule

__all__ = ["Crontab", "Duration", "Every", "Periodic", "Schedule", "ScheduleExhausted"]
