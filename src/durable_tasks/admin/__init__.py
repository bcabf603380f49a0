"""The admin: jobs, workers and periodic tasks, to look at and to act on."""

from . import jobs, periodic, workers

__all__ = ["jobs", "periodic", "workers"]
