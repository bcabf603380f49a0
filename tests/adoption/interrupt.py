"""``python -m tests.adoption.interrupt ROWS TIMES``: interrupts adopt_tasks, then lets it end.

``ROWS``: how many it has to move. Prints how many jobs there were after each. One
process that has loaded Django starts all of them, as its children, so that their time goes into
moving rows.
"""

import json
import os
import random
import signal
import sys
import time

import django

django.setup()

from django.core.management import execute_from_command_line  # noqa: E402
from django.db import connections  # noqa: E402

from durable_tasks.models import Job  # noqa: E402

# Of the interruptions, those that come within so many seconds, whatever was moved by then.
EARLY, SOON = 4, 0.15


def start():
    """Return the id of a process that runs the command."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            execute_from_command_line(
                [
                    "manage.py",
                    "adopt_tasks",
                    "--batch-size",
                    "4",
                    "--verbosity",
                    "0",
                    "--skip-checks",
                ]
            )
            code = 0
        except SystemExit as error:
            code = error.code or 0
        finally:
            os._exit(code)
    return child


def wait(child, jobs):
    """Wait until there are so many jobs, or until the process has ended."""
    while (
        Job.objects.count() < jobs
        and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    ):
        time.sleep(0.001)


def end(child, number):
    """Send a signal, and again after a while: Python drops one that comes within a finalizer."""
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        os.kill(child, number)
        for _ in range(10):
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.005)


def main(rows, times):
    # What starts this in the background may have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    counts = []
    for number in range(times):
        child = start()
        if number < EARLY:
            time.sleep(random.uniform(0, SOON))
        else:
            there = Job.objects.count()
            left = (rows - there) / (times - number)
            wait(child, there + random.uniform(0, 1.5 * left))
            time.sleep(random.uniform(0, 0.01))
        end(child, random.choice((signal.SIGKILL, signal.SIGINT)))
        counts.append(Job.objects.count())
    _, status = os.waitpid(start(), 0)
    json.dump({"counts": counts, "code": os.waitstatus_to_exitcode(status)}, sys.stdout)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
