"""Periodic tasks."""

from durable_tasks.periodic import Periodic

__all__ = ["Periodic"]
