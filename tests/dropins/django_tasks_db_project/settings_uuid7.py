"""The same with the id function that the README shows."""

from .settings import *  # noqa: F403

# fmt: off
TASKS = {
    "default": {
        "BACKEND": "django_tasks_db.DatabaseBackend",
        "OPTIONS": {
            "id_function": "uuid.uuid7"
        }
    }
}
# fmt: on
