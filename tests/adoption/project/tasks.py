"""Tasks that the other packages' workers run as well as ours."""

import os
import time

from django.db import connection
from django.utils import timezone

if os.environ.get("OLD_BACKPORT"):
    from django_tasks import task
else:
    from django.tasks import task


def note(key):
    """Add a row to the tests' effects."""
    name, adapt = connection.ops.quote_name("key"), connection.ops.adapt_datetimefield_value
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO tests_app_effect ({name}, worker, at) VALUES (%s, %s, %s)",
            [key, str(os.getpid()), adapt(timezone.now())],
        )


def is_noted(key):
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT 1 FROM tests_app_effect WHERE {connection.ops.quote_name('key')} = %s", [key]
        )
        return bool(cursor.fetchall())


@task
def give(key="", value=None):
    return {"key": key, "value": value}


@task
def fail(key):
    raise ValueError(f"{key} é")


@task
def mark(key):
    note(key)


@task
def hold(key):
    """Run until somebody says "go"."""
    while not is_noted("go"):
        time.sleep(0.1)
    note(key)
