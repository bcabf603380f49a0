"""django-durable-tasks under the import name of django-tasks-db."""

from .backend import DatabaseBackend

__all__ = ["DatabaseBackend"]
