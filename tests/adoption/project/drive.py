"""What a test asks of the site: ``python -m tests.adoption.project.drive VERB``.

``enqueue``: reads [task, key, count, kwargs, using, seconds until due] from a JSON list, prints
[key, id] of each. ``show``: reads a list of ids, prints what their results say. ``workers N``:
django-tasks-db's worker in N processes.
"""

import json
import os
import sys
from datetime import timedelta

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections, transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from tests.adoption.project import tasks  # noqa: E402
from tests.adoption.project.results import seen  # noqa: E402


def enqueue():
    made = []
    with transaction.atomic():
        for name, key, count, kwargs, using, seconds in json.load(sys.stdin):
            task = getattr(tasks, name).using(**using)
            if seconds is not None:
                task = task.using(run_after=timezone.now() + timedelta(seconds=seconds))
            for number in range(count):
                each = f"{key} {number}"
                made.append((each, str(task.enqueue(each, **kwargs).id)))
    json.dump(made, sys.stdout)


def show():
    backend = tasks.mark.get_backend()
    json.dump({id: seen(backend.get_result(id)) for id in json.load(sys.stdin)}, sys.stdout)


def workers(count):
    """Until they are killed."""
    connections.close_all()
    for _ in range(int(count)):
        if os.fork() == 0:
            call_command("db_worker", "--queue-name=*", "--no-reload", "--no-startup-delay")
            os._exit(0)
    for _ in range(int(count)):
        os.wait()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
