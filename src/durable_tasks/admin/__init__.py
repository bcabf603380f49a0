"""The admin: jobs, workers, periodic tasks and queues, to look at and to act on."""

from . import jobs, periodic, queues, workers

__all__ = ["jobs", "periodic", "queues", "workers"]
