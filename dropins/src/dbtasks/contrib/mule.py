"""A worker in a uWSGI mule: ``mule = dbtasks.contrib.mule:taskrunner``."""

from durable_tasks.contrib.mule import taskrunner

__all__ = ["taskrunner"]
