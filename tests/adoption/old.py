"""The tables of django-tasks-db and django-dbtasks with rows of every kind, made without them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from django.apps.registry import Apps
from django.conf import settings
from django.db import connections, models
from django.utils import timezone

from durable_tasks.adoption.adopt import Adopted

from ..app import tasks
from ..helpers import WorkerTestCase

apps = Apps()
HOUR = timedelta(hours=1)
NEVER = datetime(9999, 1, 1)


def path_of(task: Any) -> str:
    return str(task.module_path)


def never() -> datetime:
    """Return what stands for "no time" in django-tasks-db."""
    return NEVER.replace(tzinfo=UTC) if settings.USE_TZ else NEVER


class Old(models.Model):
    """The columns that both have under the same name."""

    id = models.UUIDField(primary_key=True, default=uuid4)
    status = models.CharField(max_length=10, default="READY")
    enqueued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    task_path = models.TextField(default=path_of(tasks.mark))
    priority = models.IntegerField(default=0)
    worker_ids = models.JSONField(default=list)
    return_value = models.JSONField(null=True)
    traceback = models.TextField(default="")

    class Meta:
        abstract = True


class DBTaskResult(Old):  # noqa: DJ008
    """django-tasks-db."""

    args_kwargs = models.JSONField()
    queue_name = models.CharField(max_length=32, default="default")
    backend_name = models.CharField(max_length=32, default="default")
    run_after = models.DateTimeField(default=never)
    exception_class_path = models.TextField(default="")

    class Meta:
        apps = apps
        app_label = "old"
        db_table = "django_tasks_database_dbtaskresult"


class TaskRunner(models.Model):  # noqa: DJ008
    """A worker of django-dbtasks."""

    id = models.CharField(max_length=200, primary_key=True)
    backend = models.CharField(max_length=32, default="default")
    first_seen = models.DateTimeField(default=timezone.now)
    last_seen = models.DateTimeField(default=timezone.now)

    class Meta:
        apps = apps
        app_label = "old"
        db_table = "dbtasks_worker"


class ScheduledTask(Old):  # noqa: DJ008
    """django-dbtasks."""

    args = models.JSONField(default=list)
    kwargs = models.JSONField(default=dict)
    queue = models.CharField(max_length=32, default="default")
    backend = models.CharField(max_length=32, default="default")
    run_after = models.DateTimeField(null=True)
    delete_after = models.DateTimeField(null=True)
    periodic = models.BooleanField(default=False)
    exception_path = models.TextField(default="")
    worker = models.ForeignKey(TaskRunner, models.DO_NOTHING, null=True)

    class Meta:
        apps = apps
        app_label = "old"
        db_table = "dbtasks_scheduledtask"


MODELS = (DBTaskResult, TaskRunner, ScheduledTask)


def drop_tables(*alias: str) -> None:
    """Drop whatever of the other packages is there, and what the command remembers."""
    for name in alias or ("default",):
        connection = connections[name]
        there = connection.introspection.table_names()
        with connection.schema_editor() as editor:
            for model in (ScheduledTask, TaskRunner, DBTaskResult, Adopted):
                if model._meta.db_table in there:
                    editor.delete_model(model)


def make_tables(*models: type[models.Model], alias: str = "default") -> None:
    with connections[alias].schema_editor() as editor:
        for model in models or MODELS:
            editor.create_model(model)


class OldTestCase(WorkerTestCase):
    """Tests with the tables of both packages, empty."""

    tables: tuple[type[models.Model], ...] = MODELS

    def setUp(self) -> None:
        super().setUp()
        drop_tables()
        self.addCleanup(drop_tables)
        make_tables(*self.tables)


@contextmanager
def tables_in(alias: str) -> Iterator[None]:
    """Let the tables be in another database during the block."""
    drop_tables(alias)
    make_tables(alias=alias)
    try:
        yield
    finally:
        drop_tables(alias)


def result(key: str = "key", **values: Any) -> DBTaskResult:
    """Insert a row as django-tasks-db would for ``mark(key)``."""
    values = {"args_kwargs": {"args": [key], "kwargs": {}}, **values}
    return DBTaskResult.objects.create(**values)


def scheduled(key: str = "key", **values: Any) -> ScheduledTask:
    """Insert a row as django-dbtasks would for ``mark(key)``."""
    return ScheduledTask.objects.create(**{"args": [key], **values})


def ended(status: str = "SUCCESSFUL", **values: Any) -> dict[str, Any]:
    """Return the columns of a run that has ended some time ago."""
    now = timezone.now()
    common = {
        "status": status,
        "enqueued_at": now - 3 * HOUR,
        "started_at": now - 2 * HOUR,
        "finished_at": now - HOUR,
        "worker_ids": ["w"],
    }
    if status == "FAILED":
        common["traceback"] = "Traceback ...\nValueError: no\n"
    return common | values
