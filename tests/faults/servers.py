"""Servers of a test's own, to be restarted and filled, and a test that uses one."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import SkipTest, mock

from django.core.management import call_command
from django.db import connection, connections

from ..servers import (
    URL_VARIABLES,
    Missing,
    PrivateServer,
    database_from_url,
    private_mariadb,
    private_postgres,
)

KIND = {"postgresql": "postgres", "mysql": "mysql"}


@contextmanager
def running_private(*settings: str, **how: Any) -> Iterator[PrivateServer]:
    """Give a server of the running test's kind; skipped where there is none, but for CI."""
    make: Callable[..., AbstractContextManager[PrivateServer]]
    make = private_postgres if connection.vendor == "postgresql" else private_mariadb
    manager = make(*settings, **how)
    try:
        server = manager.__enter__()
    except Missing as missing:
        if os.environ.get("CI"):
            raise
        raise SkipTest(str(missing)) from None
    with manager_of(manager):
        yield server


@contextmanager
def manager_of(manager: AbstractContextManager[Any]) -> Iterator[None]:
    """Leave a manager that was entered before."""
    try:
        yield
    finally:
        manager.__exit__(None, None, None)


@contextmanager
def private_database(*settings: str, **how: Any) -> Iterator[PrivateServer]:
    """In the block, the test and the workers that it starts use a server of their own."""
    with running_private(*settings, **how) as server:
        name = "faults" if server.url.startswith("mysql") else "postgres"
        with using(server.url, name):
            call_command("migrate", verbosity=0, run_syncdb=True)
            yield server


@contextmanager
def using(url: str, name: str | None = None) -> Iterator[None]:
    """In the block, the test and the workers that it starts use the server at this URL.

    ``name``: of the database, made if it is missing; or the test's own name.
    """
    usual = connections["default"]
    kind = KIND[usual.vendor]
    made = connections.create_connection("default")
    name = name or usual.settings_dict["NAME"]
    given = database_from_url(url)
    options = {**usual.settings_dict["OPTIONS"], **given.get("OPTIONS", {})}
    place = {key: given[key] for key in ("HOST", "PORT", "USER", "PASSWORD")}
    made.settings_dict = {**usual.settings_dict, **place, "OPTIONS": options, "NAME": name}
    if kind == "mysql" and name == "faults":
        with made._nodb_cursor() as cursor:
            cursor.execute("CREATE DATABASE IF NOT EXISTS faults CHARACTER SET utf8mb4")
    connections["default"] = made
    try:
        with (
            mock.patch.dict(os.environ, {URL_VARIABLES[kind]: url}),
            # Workers look at that one, too, and the server may not have it.
            mock.patch.dict(connections["other"].settings_dict, {"NAME": name}),
        ):
            yield
    finally:
        connections["default"] = usual
        made.close()
