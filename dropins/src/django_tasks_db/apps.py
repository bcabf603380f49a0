"""The Django app."""

from durable_tasks_dropins import apps


class TasksAppConfig(apps.DropinConfig):
    name = "django_tasks_db"


apps.hear("django_tasks_db")
