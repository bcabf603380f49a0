"""The apps that the drop-ins' names stand for in ``INSTALLED_APPS``."""

import logging
from types import ModuleType
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.utils.module_loading import import_string

import durable_tasks
from durable_tasks.apps import DurableTasksConfig


class DropinConfig(AppConfig):
    """The app ``durable_tasks`` if nothing else in ``INSTALLED_APPS`` is, else an empty one.

    Django allows only one app with the label ``durable_tasks``. When ``override_settings`` loads
    apps, the setting is still the one before: where that lists ``durable_tasks`` or the new one
    does, the new one must, and before the drop-ins.
    """

    def __new__(cls, app_name: str, app_module: ModuleType | None) -> Any:
        # Those before this one are loaded; durable_tasks itself may come later.
        loaded = "durable_tasks" in apps.app_configs
        if loaded or "durable_tasks" in map(_name_of, settings.INSTALLED_APPS):
            return super().__new__(cls)
        return DurableTasksConfig("durable_tasks", durable_tasks)


def _name_of(entry: str) -> str:
    """Return the name of the app that an entry is, or is the configuration of."""
    try:
        config = import_string(entry)
    except ImportError:  # Django says so if it is neither
        return entry
    is_config = isinstance(config, type) and issubclass(config, AppConfig)
    return config.name if is_config else entry


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
