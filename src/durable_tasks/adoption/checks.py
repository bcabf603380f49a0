"""What ``manage.py check --database`` says of tasks that other packages' tables still have."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import DatabaseError, connections

from ..checks import jobs_database_of


@register(Tags.database)
def check_waiting(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Return a warning for each table with tasks that wait, if ``adopt_tasks`` has never run."""
    from ..exceptions import DurableTasksError
    from ..store import StoreNotSupported
    from .adopt import Adopted
    from .tables import find_tables

    alias = jobs_database_of(databases)
    if alias is None:
        return []
    messages: list[CheckMessage] = []
    try:
        tables = find_tables(alias)
        there = connections[alias].introspection.table_names() if tables else []
        for table in tables if Adopted._meta.db_table not in there else ():
            if waiting := table.count(finished=False):
                messages.append(
                    Warning(
                        f"{table.name} has {waiting:,} tasks that have not ended, and nothing here "
                        "runs them.",
                        hint=f"If {table.package} is no longer used, run manage.py adopt_tasks.",
                        id="durable_tasks.W004",
                    )
                )
    except (DatabaseError, DurableTasksError, StoreNotSupported):
        pass  # adopt_tasks says it, and better
    return messages
