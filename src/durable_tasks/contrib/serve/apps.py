"""The Django app."""

from django.apps import AppConfig


class ServeConfig(AppConfig):
    name = "durable_tasks.contrib.serve"
    label = "durable_tasks_serve"
