"""What ``manage.py check`` says: settings always, and databases with ``--database``."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router

from .exceptions import TaskNotFound
from .retention import REST, retain_by_path

if TYPE_CHECKING:
    from .backend import DatabaseBackend


def check_backend(backend: "DatabaseBackend") -> list[CheckMessage]:
    """Return what is wrong with a backend's settings, without asking any database."""
    if not apps.is_installed("durable_tasks"):
        return [
            Error(
                f'TASKS["{backend.alias}"] uses durable_tasks, which is not in INSTALLED_APPS.',
                hint='Add "durable_tasks" to INSTALLED_APPS, then run manage.py migrate.',
                id="durable_tasks.E001",
            )
        ]
    return [
        *_check_options(backend),
        *_check_router(),
        *_check_periodic(backend),
        *_check_schedulable(backend),
    ]


def _check_options(backend: "DatabaseBackend") -> Iterator[CheckMessage]:
    try:
        backend.durable_options.make_id  # noqa: B018  (imports the function)
    except ImproperlyConfigured as error:
        where = f'TASKS["{backend.alias}"]["OPTIONS"]["periodic"]'
        yield Error(
            str(error),
            hint="docs/how-to/periodic.md of django-durable-tasks says what can be written there."
            if str(error).startswith(where)
            else "docs/reference/options.md of django-durable-tasks has the table of options.",
            id="durable_tasks.E002",
        )
        return
    yield from _check_retention(backend)


def _check_retention(backend: "DatabaseBackend") -> Iterator[CheckMessage]:
    from .results import find_task

    options = backend.durable_options
    for name in ("retain", "retain_failed"):
        for path in retain_by_path(getattr(options, name), name):
            if path == REST:
                continue
            try:
                find_task(path)
            except TaskNotFound as error:
                yield Warning(
                    f'{options.where}["{name}"] names no task: {error}',
                    hint="Correct the path. If the task is gone for good, and its jobs are, too, "
                    "remove it.",
                    id="durable_tasks.W002",
                )


def _check_periodic(backend: "DatabaseBackend") -> Iterator[CheckMessage]:
    from .timetable import entry_of

    try:
        options = backend.durable_options
    except ImproperlyConfigured:
        return  # said already
    if options.immediate and options.periodic:
        yield Warning(
            f'{options.where} has "immediate" and "periodic": without workers, no periodic task'
            " runs.",
            hint='Leave "periodic" out where "immediate" is on.',
            id="durable_tasks.W003",
        )
    for name, each in options.periodic.items():
        try:
            entry_of(backend.alias, name, each)
        except Exception as error:  # the project's code is imported: anything may come
            yield Error(
                f'{options.where}["periodic"]["{name}"]: {error}',
                hint="The key is the path of a task, or a name beside Periodic(task=...)."
                if isinstance(error, TaskNotFound)
                else None,
                id="durable_tasks.E007",
            )


def _check_schedulable(backend: "DatabaseBackend") -> Iterator[CheckMessage]:
    from .results import find_task

    try:
        options = backend.durable_options
    except ImproperlyConfigured:
        return  # said already
    for path in options.schedulable:
        try:
            find_task(path)
        except TaskNotFound as error:
            yield Error(
                f'{options.where}["schedulable"] names no task: {error}',
                hint="Correct the path, or remove it: periodic tasks made in the admin could not "
                "run it.",
                id="durable_tasks.E008",
            )


def _check_router() -> Iterator[CheckMessage]:
    from .models import Job
    from .store import StoreNotSupported, store_for

    alias = router.db_for_write(Job)
    if alias not in connections.settings:
        yield Error(
            f"The database router sends durable_tasks.Job to {alias!r}, which is not in DATABASES.",
            hint=f"Known databases: {', '.join(connections.settings)}.",
            id="durable_tasks.E003",
        )
        return
    try:
        connection = connections[alias]
        why = store_for(connection).driver_problem()
    except StoreNotSupported as error:
        why = str(error)
    if why:
        yield Error(
            why,
            hint="Send durable_tasks.Job to another database with a router, or use another driver.",
            id="durable_tasks.E004",
        )


@register(Tags.database)
def check_database(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Return what is wrong with the jobs' database, if it is one of ``databases``."""
    from .models import Job, PeriodicTask, Worker
    from .store import StoreNotSupported, store_for

    alias = router.db_for_write(Job)
    if alias not in (databases or ()) or alias not in connections.settings:
        return []
    connection = connections[alias]
    try:
        store = store_for(connection)
        messages: list[CheckMessage] = [
            Warning(text, hint=hint, id="durable_tasks.W001")
            for text, hint in store.settings_advice()
        ]
        if why := store.server_problem():
            messages.append(Error(why, id="durable_tasks.E005"))
        # While migrating, the tables are about to come.
        if sys.argv[1:2] != ["migrate"]:
            tables = connection.introspection.table_names()
            missing = [
                model._meta.db_table
                for model in (Job, PeriodicTask, Worker)
                if model._meta.db_table not in tables
            ]
            if missing:
                messages.append(
                    Error(
                        f"The database {alias!r} has no table {', '.join(missing)}.",
                        hint=f"Run manage.py migrate --database {alias}.",
                        id="durable_tasks.E006",
                    )
                )
        return messages
    except (DatabaseError, StoreNotSupported):
        return []  # said elsewhere, and better
