"""What ``manage.py check`` says: settings always, and databases with ``--database``."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig, apps
from django.conf import settings
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


def jobs_database_of(databases: Sequence[str] | None) -> str | None:
    """Return the alias of the jobs' database if a check may ask it: it is one of ``databases``."""
    from .models import Job

    alias: str = router.db_for_write(Job)
    return alias if alias in (databases or ()) and alias in connections.settings else None


@register(Tags.database)
def check_database(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Return what is wrong with the jobs' database, if it is one of ``databases``."""
    from .store import StoreNotSupported, store_for

    alias = jobs_database_of(databases)
    if alias is None:
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
            models = apps.get_app_config("durable_tasks").get_models()
            missing = sorted({model._meta.db_table for model in models}.difference(tables))
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


# For production: manage.py check --deploy -------------------------------------------------------


@register(deploy=True)
def check_deployment(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Return what settings should say otherwise in production; asks no database."""
    from .models import Job
    from .state import durable_backends

    backends = durable_backends().values()
    try:
        found: list[CheckMessage] = [
            message for backend in backends for message in _deploy_backend(backend)
        ]
    except ImproperlyConfigured:
        return []  # said already
    if not backends:
        return []
    alias = router.db_for_write(Job)
    if alias in connections.settings:
        found += _deploy_database(alias, asked=alias in (databases or ()))
    if settings.DEBUG:
        found.append(
            Warning(
                "DEBUG is on: workers keep each query that they send, and start anew when code "
                "changes.",
                hint="Set DEBUG = False.",
                id="durable_tasks.W104",
            )
        )
    return found


def _deploy_backend(backend: "DatabaseBackend") -> Iterator[CheckMessage]:
    options = backend.durable_options
    if options.immediate:
        yield Warning(
            f'{options.where}["immediate"] is on: tasks run in the request that enqueues them, '
            "and nobody runs one again after a crash.",
            hint=f'Remove {options.where}["immediate"] and run manage.py db_worker.',
            id="durable_tasks.W103",
        )
    if "retain" not in backend.options:
        yield Warning(
            f'{options.where} has no "retain": jobs that have ended stay for ever, and the table '
            "grows.",
            hint=f'Set {options.where}["retain"] = "30d"; or to None, if you delete them yourself '
            "(manage.py prune_db_task_results) or keep them.",
            id="durable_tasks.W102",
        )


def _deploy_database(alias: str, *, asked: bool) -> Iterator[CheckMessage]:
    """``asked``: the database is, too, and its advice includes the first one."""
    connection = connections[alias]
    given, where = connection.settings_dict, f'DATABASES["{alias}"]'
    if connection.vendor == "sqlite":
        if not asked and given["OPTIONS"].get("transaction_mode") != "IMMEDIATE":
            yield Warning(
                "SQLite without IMMEDIATE transactions: a transaction that reads before it writes "
                'fails with "database is locked" while a worker writes.',
                hint=f'Set {where}["OPTIONS"]["transaction_mode"] = "IMMEDIATE"; run this with '
                f"--database {alias}, too: it tells whether WAL is on.",
                id="durable_tasks.W101",
            )
    elif given["CONN_MAX_AGE"] == 0 and not given["OPTIONS"].get("pool"):
        yield Warning(
            f'{where}["CONN_MAX_AGE"] is 0: each task that uses the database connects anew.',
            hint=f'Set {where}["CONN_MAX_AGE"] = 60 and {where}["CONN_HEALTH_CHECKS"] = True.',
            id="durable_tasks.W105",
        )


@register(Tags.database, deploy=True)
def check_deployed_database(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Return what the jobs' database should have otherwise in production."""
    from .state import durable_backends
    from .store import StoreNotSupported, store_for

    alias = jobs_database_of(databases)
    if alias is None:
        return []
    found: list[CheckMessage] = []
    try:
        options = [backend.durable_options for backend in durable_backends().values()]
        store = store_for(connections[alias])
        if options and (advice := store.vacuum_advice()):
            found.append(Warning(advice[0], hint=advice[1], id="durable_tasks.W106"))
        deaf = [
            each.where
            for each in options
            if each.notify and not (each.listen_database or each.immediate)
        ]
        if deaf and store.cannot_hear():
            found += [
                Warning(
                    f"Workers do not hear of new jobs: the pooler before the database {alias!r} "
                    "keeps notifications from arriving.",
                    hint=f'Name a direct connection in {where}["listen_database"], or set '
                    f'{where}["notify"] = False.',
                    id="durable_tasks.W107",
                )
                for where in deaf
            ]
    except (DatabaseError, StoreNotSupported, ImproperlyConfigured):
        pass  # said elsewhere, and better
    return found
