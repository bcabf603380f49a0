"""The backend."""

from durable_tasks.backend import DatabaseBackend

__all__ = ["DatabaseBackend"]
