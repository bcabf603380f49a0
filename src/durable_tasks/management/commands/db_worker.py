"""``manage.py db_worker``: run a worker."""

import atexit
import logging
import math
import os
import signal
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV, run_with_reloader

from ...compat import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME
from ...exceptions import DurableTasksError
from ...models import MAX_WORKER_ID
from ...store import Queues
from ...worker.worker import Worker, WorkerSettings
from .. import durable_backend, is_text, one_line_errors, queue_names

logger = logging.getLogger("durable_tasks")

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGQUIT")
# Seconds: the longest pause before the first look for work.
STARTUP_DELAY = 1.0


def seconds(text: str) -> float:
    """Parse an interval."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")
    return value


def above_zero(text: str) -> int:
    """Parse a count."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return value


def worker_id(text: str) -> str:
    """Parse a worker's name."""
    if not 1 <= len(text) <= MAX_WORKER_ID:
        raise ArgumentTypeError(f"must have 1 to {MAX_WORKER_ID} characters, not {len(text)}")
    if not is_text(text):
        raise ArgumentTypeError(f"{text!r} is no valid text")
    return text


class Command(BaseCommand):
    help = "Runs a worker: claims jobs from the database and runs them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        one_line_errors(parser)
        parser.add_argument(
            "--queue-name",
            default=DEFAULT_TASK_QUEUE_NAME,
            help="the queues to serve, separated by commas; '*' for all (default: %(default)s)",
        )
        parser.add_argument(
            "--exclude-queues",
            default="",
            help="queues to leave out, separated by commas; only with --queue-name '*'",
        )
        parser.add_argument(
            "--interval",
            type=seconds,
            default=1.0,
            help="seconds between two looks for work when there is none (default: 1)",
        )
        parser.add_argument("--batch", action="store_true", help="run what there is, then exit")
        parser.add_argument(
            "--max-tasks", type=above_zero, help="exit after so many tasks (default: no limit)"
        )
        parser.add_argument(
            "--reload",
            action=BooleanOptionalAction,
            default=settings.DEBUG,
            help="restart when code changes; not for production (default: DEBUG)",
        )
        parser.add_argument(
            "--backend",
            default=DEFAULT_TASK_BACKEND_ALIAS,
            dest="backend_name",
            help="the backend whose tasks to run (default: %(default)s)",
        )
        parser.add_argument(
            "--no-startup-delay",
            action="store_false",
            dest="startup_delay",
            help="look for work at once; by default after a random pause of up to a second",
        )
        parser.add_argument(
            "--worker-id",
            type=worker_id,
            help="a name that no other living worker has (default: generated)",
        )
        parser.add_argument(
            "--threads", type=above_zero, default=1, help="sync tasks at once (default: 1)"
        )
        parser.add_argument(
            "--coroutines", type=above_zero, default=50, help="async tasks at once (default: 50)"
        )

    def handle(self, **options: Any) -> None:
        set_up_logging(options["verbosity"])
        backend = durable_backend(options["backend_name"])
        names = queue_names(options["queue_name"], "--queue-name")
        excluded = queue_names(options["exclude_queues"], "--exclude-queues", empty=True)
        if excluded is None:
            raise CommandError("--exclude-queues: '*' would leave no queue.")
        if excluded and names is not None:
            raise CommandError("--exclude-queues works only with --queue-name '*'.")
        try:
            worker_settings = WorkerSettings(
                sender=type(backend),
                options=backend.durable_options,
                queues=Queues(backend.alias, names, frozenset(excluded)),
                interval=options["interval"],
                batch=options["batch"],
                max_tasks=options["max_tasks"],
                worker_id=options["worker_id"],
                threads=options["threads"],
                coroutines=options["coroutines"],
                startup_delay=STARTUP_DELAY if options["startup_delay"] else 0.0,
            )
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if options["reload"] and options["batch"]:
            self.stderr.write(
                self.style.WARNING("--reload does not work with --batch: going on without it.")
            )
        elif options["reload"]:
            if os.environ.get(DJANGO_AUTORELOAD_ENV) != "true":
                # The reloader's parent would kill its child, which is about to finish its tasks.
                signal.signal(signal.SIGINT, lambda number, frame: None)
            run_with_reloader(self.run, worker_settings)
            return
        self.run(worker_settings)

    def run(self, worker_settings: WorkerSettings) -> None:
        """Run one worker to its end."""
        worker = Worker(worker_settings)
        if os.environ.get(DJANGO_AUTORELOAD_ENV) == "true":
            stop_before_exit(worker)
        else:
            stop_on_signals(worker)
        try:
            worker.run()
        except (DurableTasksError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(f"The database can't be used: {str(error).strip()}") from error
        logger.info("Worker %s has stopped.", worker.id, extra={"worker_id": worker.id})


def stop_on_signals(worker: Worker) -> None:
    """Let the first signal stop the worker gracefully and the second one at once."""

    def stop(number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        for other in STOP_SIGNALS:
            if hasattr(signal, other):
                signal.signal(getattr(signal, other), at_once)
        # Not through logging: its lock may be held by the very code that was interrupted.
        say(f"{name}: finishing what runs. A second signal stops at once.\n")
        worker.stop()

    def at_once(number: int, frame: Any) -> None:
        say("Stopped at once; what ran will run again.\n")
        os._exit(128 + number)

    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)


def stop_before_exit(worker: Worker) -> None:
    """Under the reloader, which owns the signals: finish what runs when the process exits."""
    this = threading.current_thread()

    def finish() -> None:
        worker.stop()
        this.join(timeout=10)

    atexit.register(finish)


def say(text: str) -> None:
    with suppress(OSError):
        os.write(2, text.encode())


def set_up_logging(verbosity: int) -> None:
    """Show the engine's log lines if the project's LOGGING does nothing with them."""
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        levels: Callable[[int], int] = [logging.WARNING, logging.INFO].__getitem__
        logger.setLevel(levels(verbosity) if verbosity < 2 else logging.DEBUG)
