"""The project's tasks."""

import importlib.util

from tests.app.models import Effect
from tests.helpers import eventually

if importlib.util.find_spec("django.tasks") is None:
    from django_tasks import task
else:
    from django.tasks import task


@task
def maintenance():
    return "maintained"


@task
def add(a, b):
    return a + b


@task
def hold(key):
    """Run until the test lets it go."""
    Effect.objects.create(key=f"held {key}")
    eventually(Effect.objects.filter(key="go").exists)
    return key
