"""The transactions that are open in this thread."""

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


def in_transactions() -> list[BaseDatabaseWrapper]:
    """Return this thread's connections that are inside a transaction."""
    made = connections.all(initialized_only=True)
    return [each for each in made if each.connection is not None and not each.get_autocommit()]
