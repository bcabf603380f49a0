"""The admin: jobs, workers, periodic tasks and queues, to look at and to act on."""

from . import jobs, overview, periodic, queues, workers

__all__ = ["jobs", "overview", "periodic", "queues", "workers"]
