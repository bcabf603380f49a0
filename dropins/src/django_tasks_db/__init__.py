"""django-durable-tasks under the import name of django-tasks-db."""

from durable_tasks.backend import DatabaseBackend

__all__ = ["DatabaseBackend"]
