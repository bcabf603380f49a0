"""What ``manage.py check`` says about the drop-ins."""

import sys
from contextlib import suppress
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import django
from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning, register
from django.dispatch import Signal

REPLACED = ("django-tasks-db", "django-dbtasks")


@register()
def check_distributions(**kwargs: Any) -> list[CheckMessage]:
    """Return an error for each distribution that is installed beside the drop-in for it."""
    return [
        Error(
            f"{name} is installed beside django-durable-tasks-dropins, which has modules of the "
            "same names: each overwrites files of the other.",
            hint=f"Uninstall both, since that removes files of both: pip uninstall {name} "
            "django-durable-tasks-dropins. Then install django-durable-tasks-dropins again.",
            id="durable_tasks_dropins.E001",
        )
        for name in REPLACED
        if _is_installed(name)
    ]


@register()
def check_backport(**kwargs: Any) -> list[CheckMessage]:
    """Return a warning if modules use the backport on a Django that has tasks of its own.

    Tasks that its decorator makes are Django's and run. But whoever listens to its signals hears
    nothing, and its exceptions and ``TaskResult`` are other classes than those of this backend.
    """
    if django.VERSION < (6, 0) or find_spec("django_tasks") is None:
        return []
    for config in apps.get_app_configs():
        with suppress(Exception):  # what is broken is said where it is used
            import_module(f"{config.name}.tasks")
    names = modules_with_the_backport()
    if not names:
        return []
    return [
        Warning(
            f"Imported from django_tasks, the backport for Django 5.2: {', '.join(names)}.",
            hint='Import from django.tasks instead: "from django.tasks import task". Tasks run with'
            " both, but signals of django_tasks are not sent, and its exceptions are not raised.",
            id="durable_tasks_dropins.W001",
        )
    ]


def modules_with_the_backport() -> list[str]:
    """Return the names of the loaded modules that hold something of the backport's."""
    loaded = {name: getattr(module, "__dict__", {}) for name, module in list(sys.modules.items())}
    its_own = set()
    for name in filter(_is_backport, loaded):
        its_own.add(id(sys.modules[name]))
        for key, value in loaded[name].items():
            signal = key.startswith("task_") and isinstance(value, Signal)
            if signal or _is_backport(getattr(value, "__module__", None)):
                its_own.add(id(value))
    return sorted(
        name
        for name, values in loaded.items()
        if not _is_backport(name) and any(id(value) in its_own for value in list(values.values()))
    )


def _is_backport(name: Any) -> bool:
    return isinstance(name, str) and name.partition(".")[0] == "django_tasks"


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
