"""The settings that django-dbtasks' README shows, on the databases of the tests."""

import datetime
import importlib.util

from tests.settings import DATABASES, SECRET_KEY, TIME_ZONE, USE_TZ  # noqa: F401

INSTALLED_APPS = [
    "dbtasks",
    "dbtasks.contrib.serve",
    "myproject",
    "tests.app",
]
if importlib.util.find_spec("django.tasks") is None:
    INSTALLED_APPS.append("django_tasks")

ROOT_URLCONF = "myproject.urls"
WSGI_APPLICATION = "myproject.wsgi.application"
ALLOWED_HOSTS = ["127.0.0.1"]

# From here on as they stand there.

TASKS = {
    "default": {
        "BACKEND": "dbtasks.backend.DatabaseBackend",
        "OPTIONS": {
            # Set this to True to execute tasks immediately (no need for a runner).
            "immediate": False,
            # How long to retain ScheduledTasks in the database. Forever if not set.
            "retain": datetime.timedelta(days=7),
            # Tasks to run periodically.
            "periodic": {
                # Runs at 3:30am every Monday through Friday.
                "myproject.tasks.maintenance": "30 3 * * 1-5",
            },
        },
    },
}

LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {
        "dbtasks": {
            "handlers": ["console"],
            "level": "INFO",
        },
    },
}
