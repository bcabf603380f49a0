"""The Django app."""

from durable_tasks_dropins import apps


class DbtasksConfig(apps.DropinConfig):
    name = "dbtasks"


apps.hear("dbtasks")
