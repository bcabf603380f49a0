"""The tables."""

from .history import ErrorGroup, Statistic
from .indexes import PartialIndex
from .jobs import Job, JobQuerySet
from .lengths import MAX_NAME, MAX_PATH, MAX_WORKER_ID
from .machine import Pause, PeriodicTask, Wish, Worker

__all__ = [
    "MAX_NAME",
    "MAX_PATH",
    "MAX_WORKER_ID",
    "ErrorGroup",
    "Job",
    "JobQuerySet",
    "PartialIndex",
    "Pause",
    "PeriodicTask",
    "Statistic",
    "Wish",
    "Worker",
]
