"""``OLD_PACKAGE``: which of the two it uses; ``OLD_DATABASES``: its DATABASES, as JSON."""

import datetime
import json
import os
from importlib.metadata import version
from typing import Any

PACKAGE = os.environ["OLD_PACKAGE"]
DATABASES = json.loads(os.environ["OLD_DATABASES"])
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "only for tests"
USE_TZ = True

TASK: dict[str, Any] = {"QUEUES": ["default", "mail"]}
if PACKAGE == "django-tasks-db":
    INSTALLED_APPS = ["django_tasks_db"]
    if version(PACKAGE).startswith("0.12."):
        INSTALLED_APPS.append("django_tasks")  # which it is made for
    TASK |= {"BACKEND": "django_tasks_db.DatabaseBackend"}
else:
    INSTALLED_APPS = ["dbtasks"]
    OPTIONS = {
        "retain": datetime.timedelta(days=7),
        # Far away: its next run is there, and waits.
        "periodic": {"tests.adoption.project.tasks.give": "0 0 1 1 *"},
    }
    if not version(PACKAGE).startswith("0.4."):
        OPTIONS["worker_timeout"] = 4  # it shows every second that it is alive
    TASK |= {"BACKEND": "dbtasks.backend.DatabaseBackend", "OPTIONS": OPTIONS}
TASKS = {"default": TASK}
