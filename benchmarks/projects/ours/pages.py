"""``python -m pages SMALL LARGE ROUNDS``: time the admin's pages and the like in two databases.

``default`` has SMALL jobs, ``large`` has LARGE, in the same proportions; both have the same week of
statistics. Each page is asked for in both in turn, so that what else the machine does slows both.
Prints JSON: the milliseconds of each.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import django

django.setup()

from admin_settings import Router  # noqa: E402
from django.contrib import admin  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402

from durable_tasks import metrics  # noqa: E402
from example.past import make_past  # noqa: E402
from tests import million  # noqa: E402
from tests.browser.life import make_worker  # noqa: E402

TOKEN = "only for benchmarks"
urlpatterns = [
    path("admin/", admin.site.urls),
    path("metrics/", metrics.view(token=TOKEN)),
]

# More than a page of the list shows: pages of different length can't be compared.
PAGE = 60
# The databases, in the order of the command line.
ALIASES = ("default", "large")


def main(small: int, large: int, rounds: int) -> dict[str, Any]:
    began = time.monotonic()
    for alias, rows in zip(ALIASES, (small, large), strict=True):
        call_command("migrate", database=alias, verbosity=0)
        Router.alias = alias
        million.fill(sizes_of(rows), using=alias)
        make_past()
        make_worker("shop-1", 2)
    filled = time.monotonic() - began
    works = {alias: works_of(alias) for alias in ALIASES}
    took: dict[str, dict[str, list[float]]] = {
        name: {alias: [] for alias in ALIASES} for name in works["default"]
    }
    for name, times in took.items():
        # The first look of all is not counted: modules, templates and plans are read.
        for turn in range(rounds + 1):
            for alias in ALIASES:
                Router.alias = alias
                began = time.perf_counter()
                works[alias][name]()
                if turn:
                    times[alias].append(round((time.perf_counter() - began) * 1000, 3))
    return {"seconds_to_fill": round(filled, 1), "pages": took}


def sizes_of(rows: int) -> dict[str, int]:
    """Return how many jobs of each status are so many in all: at least a page of each."""
    sizes = {name: max(PAGE, share * rows // 1_000_000) for name, share in million.MILLION.items()}
    return sizes | {"SUCCESSFUL": sizes["SUCCESSFUL"] + rows - sum(sizes.values())}


def works_of(alias: str) -> Mapping[str, Callable[[], None]]:
    """Return what is timed in one database, by name."""
    Router.alias = alias
    client = client_of()

    def get(path: str, **headers: str) -> None:
        answer = client.get(path, headers=headers)
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status_code}")

    def call(*command: str) -> None:
        # That something is unhealthy is no fault here.
        with suppress(SystemExit):
            call_command(*command, stdout=io.StringIO(), stderr=io.StringIO())

    paths = million.pages() | million.job_pages(alias) | million.deep_pages(client)
    works = {name: (lambda path=path: get(path)) for name, path in paths.items()}
    for command in million.COMMANDS:
        works[command[0]] = lambda command=command: call(*command)
    works["metrics"] = lambda: get("/metrics/", authorization=f"Bearer {TOKEN}")
    return works


def client_of() -> Client:
    client = Client()
    users = get_user_model().objects
    client.force_login(users.first() or users.create_superuser("admin", "a@example.com", "secret"))
    return client


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:]))))
