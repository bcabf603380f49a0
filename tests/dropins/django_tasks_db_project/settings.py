"""A project with the settings that the README of django-tasks-db shows."""

from tests.settings import DATABASES, SECRET_KEY, TIME_ZONE, USE_TZ

__all__ = ["DATABASES", "INSTALLED_APPS", "SECRET_KEY", "TASKS", "TIME_ZONE", "USE_TZ"]

# fmt: off
INSTALLED_APPS = [
    # ...
    "django_tasks_db",
]

TASKS = {
    "default": {
        "BACKEND": "django_tasks_db.DatabaseBackend",
        "QUEUES": ["default"]
    }
}
# fmt: on
