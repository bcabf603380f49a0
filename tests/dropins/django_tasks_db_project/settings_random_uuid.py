"""The same with PostgreSQL's function, of which the README tells."""

from .settings_uuid7 import *  # noqa: F403
from .settings_uuid7 import TASKS

TASKS["default"]["OPTIONS"]["id_function"] = "django.contrib.postgres.functions.RandomUUID"
