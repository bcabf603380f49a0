"""The apps that the drop-ins' names stand for in ``INSTALLED_APPS``."""

import logging
from types import ModuleType
from typing import Any

from django.apps import AppConfig
from django.conf import settings

import durable_tasks
from durable_tasks.apps import DurableTasksConfig

from . import checks  # noqa: F401  (registers them)

DROPINS = ("django_tasks_db", "dbtasks")


class DropinConfig(AppConfig):
    """The app ``durable_tasks`` if nothing else in ``INSTALLED_APPS`` is, else an empty one.

    Django allows only one app with the label ``durable_tasks``.
    """

    def __new__(cls, app_name: str, app_module: ModuleType | None) -> Any:
        if _stands_for_durable_tasks(app_name):
            return DurableTasksConfig("durable_tasks", durable_tasks)
        return super().__new__(cls)


def _stands_for_durable_tasks(name: str) -> bool:
    listed = []
    for entry in settings.INSTALLED_APPS:
        package, _, rest = entry.partition(".")
        if package in DROPINS and rest.partition(".")[0] in ("", "apps"):
            listed.append(package)
        elif _is_durable_tasks(entry):
            return False
    return listed[:1] == [name]


def _is_durable_tasks(entry: str) -> bool:
    """Return whether the entry is our app, or a project's own configuration of it."""
    if entry == "durable_tasks":
        return True
    is_class = entry.rpartition(".")[2][:1].isupper()
    return is_class and AppConfig.create(entry).name == "durable_tasks"


def hear(name: str) -> None:
    """Let the logger ``name`` and its handlers hear what the engine's logger says, and set its
    level: as if it were the parent of that one."""
    engine, logger, root = map(logging.getLogger, ("durable_tasks", name, None))
    # Django's LOGGING disables loggers that it finds and does not know.
    engine.disabled = False
    reached, ancestor = list(engine.handlers), engine.parent
    while ancestor is not None and ancestor is not root:
        if ancestor is logger:
            return
        reached += ancestor.handlers
        ancestor = ancestor.parent
    if logger.handlers and all(handler in reached for handler in logger.handlers):
        return  # or each line would be shown twice
    # Between the engine's logger and what it had as its parent.
    if logger.parent is root:
        logger.parent = engine.parent
    engine.parent = logger
