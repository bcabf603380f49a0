"""Settings for the tests, for mypy's Django plugin and for `makemigrations`.

`DURABLE_TASKS_TEST_DB` chooses the database: sqlite (the default), postgres or mysql.
`DURABLE_TASKS_POSTGRES_URL` and `DURABLE_TASKS_MYSQL_URL` say where the server is.
`DURABLE_TASKS_TEST_DB_NAME` and `DURABLE_TASKS_TEST_OTHER_NAME` point a second process,
such as a real worker, at the databases of the test that started it;
`DURABLE_TASKS_TEST_DIRECT_URL` adds a second way to its first one, as the alias `direct`.
`DURABLE_TASKS_TEST_DATABASE` (JSON) gives it other settings for it, such as CONN_MAX_AGE.
`DURABLE_TASKS_TEST_GRACE` is how many seconds its tasks have to end once they are interrupted.
`DURABLE_TASKS_TEST_PRUNE` is how many seconds it lets pass between two looks for jobs to delete.
`DURABLE_TASKS_TEST_SERVE_GRACE` is how many seconds what runs has to end once `serve` stops.
`DURABLE_TASKS_TEST_OPTIONS` (JSON) and `DURABLE_TASKS_TEST_ROUTERS` (commas) give it that test's
OPTIONS and DATABASE_ROUTERS.
"""

import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from durable_tasks import Periodic
from tests.servers import DEFAULT_URLS, URL_VARIABLES, database_from_url

TEST_DB = os.environ.get("DURABLE_TASKS_TEST_DB", "sqlite")
# Two runs side by side must not share a database.
RUN = f"durable_tasks_{os.getpid()}"


def database(test_name: str, name_variable: str) -> dict[str, Any]:
    """One entry of DATABASES; `name_variable` may replace the name."""
    if TEST_DB == "sqlite":
        folder = Path(os.environ.get("DURABLE_TASKS_TEST_DIR") or tempfile.gettempdir())
        entry: dict[str, Any] = {
            "ENGINE": "django.db.backends.sqlite3",
            # Only the test databases are files: checks and migrations leave none behind.
            "NAME": ":memory:",
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
                "timeout": 20,
            },
            # On disk, because worker processes share it with the test.
            "TEST": {"NAME": str(folder / f"test_{test_name}.sqlite3")},
        }
    else:
        variable = URL_VARIABLES[TEST_DB]
        entry = database_from_url(os.environ.get(variable) or DEFAULT_URLS[TEST_DB][0])
        entry["TEST"] = {"NAME": f"test_{test_name}"}
        if TEST_DB == "mysql":
            entry["TEST"]["CHARSET"] = "utf8mb4"
    if name := os.environ.get(name_variable):
        entry["NAME"] = name
    return entry


DATABASES = {
    "default": database(RUN, "DURABLE_TASKS_TEST_DB_NAME"),
    "other": database(f"{RUN}_other", "DURABLE_TASKS_TEST_OTHER_NAME"),
}
changes = json.loads(os.environ.get("DURABLE_TASKS_TEST_DATABASE") or "{}")
DATABASES["default"] |= {
    name: {**DATABASES["default"].get(name, {}), **value} if name == "OPTIONS" else value
    for name, value in changes.items()
}
if direct := os.environ.get("DURABLE_TASKS_TEST_DIRECT_URL"):
    name = DATABASES["default"]["NAME"]
    DATABASES["direct"] = database_from_url(direct) | {"NAME": name}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "durable_tasks",
    "tests.app",
]
if importlib.util.find_spec("django.tasks") is None:
    INSTALLED_APPS.append("django_tasks")

options = json.loads(os.environ.get("DURABLE_TASKS_TEST_OPTIONS") or "{}")
for name, spec in options.get("periodic", {}).items():
    if isinstance(spec, dict):
        options["periodic"][name] = Periodic(**spec)
TASKS = {
    "default": {
        "BACKEND": "durable_tasks.DatabaseBackend",
        "QUEUES": [],
        "OPTIONS": options,
    }
}
DATABASE_ROUTERS = [
    path for path in os.environ.get("DURABLE_TASKS_TEST_ROUTERS", "").split(",") if path
]

USE_TZ = os.environ.get("DURABLE_TASKS_USE_TZ", "1") != "0"
TIME_ZONE = "UTC"

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
# The real hasher would cost more than the tests that need a user.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
