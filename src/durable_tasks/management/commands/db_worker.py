"""``manage.py db_worker``: run a worker."""

import itertools
import logging
import math
import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections, router

from ... import clock
from ...backend import DatabaseBackend
from ...chores import promote
from ...chores.schedule import Timetable
from ...compat import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME, tasks_logger
from ...exceptions import DurableTasksError
from ...ids import new_worker_id
from ...models import MAX_WORKER_ID, Job
from ...store import Queues
from ...worker.stopping import (
    DISMISSED,
    READY,
    RENEW,
    STUCK,
    Lifeline,
    MemoryLimit,
    Stop,
    with_jitter,
)
from ...worker.supervisor import Supervisor, WorkersFail, command_line
from ...worker.worker import Worker, WorkerSettings
from .. import (
    durable_backend,
    is_text,
    one_line_errors,
    or_without_value,
    queue_names,
    with_defaults,
)
from ..reloading import (
    RELOAD,
    RELOAD_TIMEOUT,
    import_tasks,
    is_reloaded,
    run_reloading,
    stop_before_exit,
)

logger = logging.getLogger("durable_tasks")

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


def seconds_above_zero(text: str) -> float:
    """Parse a limit of time."""
    value = seconds(text)
    if value == 0:
        raise ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
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
            **or_without_value(DEFAULT_TASK_QUEUE_NAME),
            help="the queues to serve, separated by commas; '*' for all (default: %(default)s)",
        )
        parser.add_argument(
            "--exclude-queues",
            **or_without_value(""),
            help="queues to leave out, separated by commas; only with --queue-name '*'",
        )
        parser.add_argument(
            "--interval",
            type=seconds,
            **or_without_value(1.0),
            help="seconds between two looks for work when there is none (default: 1)",
        )
        parser.add_argument("--batch", action="store_true", help="run what there is, then exit")
        parser.add_argument(
            "--max-tasks",
            type=above_zero,
            **or_without_value(),
            help="exit after so many tasks (default: no limit)",
        )
        parser.add_argument(
            "--reload",
            action=BooleanOptionalAction,
            help="restart when code changes; not for production (default: DEBUG)",
        )
        parser.add_argument(
            "--backend",
            **or_without_value(DEFAULT_TASK_BACKEND_ALIAS),
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
            **or_without_value(),
            help="a name that no other living worker has (default: generated)",
        )
        parser.add_argument(
            "--threads", type=above_zero, default=1, help="sync tasks at once (default: 1)"
        )
        parser.add_argument(
            "--coroutines", type=above_zero, default=50, help="async tasks at once (default: 50)"
        )
        parser.add_argument(
            "--processes",
            type=above_zero,
            default=1,
            help="worker processes, named NAME-1, NAME-2 ...; above 1, a supervisor starts and "
            "replaces them (default: 1)",
        )
        parser.add_argument(
            "--shutdown-timeout",
            type=seconds_above_zero,
            help="seconds for what runs to end after the first signal; then stop at once "
            "(default: no limit)",
        )
        parser.add_argument(
            "--max-tasks-per-process",
            type=above_zero,
            help="renew a process after so many tasks, or up to a tenth more (default: no limit)",
        )
        parser.add_argument(
            "--max-memory",
            type=above_zero,
            metavar="MIB",
            help="renew a process that takes more MiB of memory, once what runs has ended "
            "(default: no limit)",
        )
        parser.add_argument(
            "--no-periodic", action="store_false", dest="periodic", help="fire no periodic tasks"
        )
        # What a supervisor gives its workers; they have a socket to it as standard input.
        parser.add_argument("--supervised", action="store_true", help=SUPPRESS)

    def run_from_argv(self, argv: list[str]) -> None:
        self.arguments = argv[1:]
        super().run_from_argv(argv)

    def handle(self, **options: Any) -> None:
        options = with_defaults(self, options)
        lifeline = Lifeline() if options["supervised"] else None
        set_up_logging(options["verbosity"])
        worker_settings = self.worker_settings(options)
        asked, reload = options["reload"], settings.DEBUG
        if asked is not None:
            reload = asked
        for name in ("batch", "max_tasks_per_process", "max_memory", "processes"):
            if reload and (options[name] > 1 if name == "processes" else options[name]):
                option = f"--{name.replace('_', '-')}"
                text = f"--reload does not work with {option}: going on without it."
                if not asked:
                    text = f"DEBUG is on, but with {option} nothing reloads when code changes."
                if asked or name != "batch":  # which nobody expects to reload
                    self.stderr.write(self.style.WARNING(text))
                reload = False
        if reload or (lifeline is not None and settings.DEBUG):
            import_tasks()
        if options["processes"] > 1 and lifeline is None:
            self.supervise(worker_settings, options)
        elif connections[router.db_for_write(Job)].in_atomic_block:
            self.run_in_transaction(worker_settings, durable_backend(options["backend_name"]))
        elif reload:
            run_reloading(partial(self.run, worker_settings, options))
        else:
            self.run(worker_settings, options, lifeline)

    def worker_settings(self, options: dict[str, Any]) -> WorkerSettings:
        """Return what a worker has to know. Raises ``CommandError`` if options contradict."""
        backend = durable_backend(options["backend_name"])
        names = queue_names(options["queue_name"], "--queue-name")
        excluded = queue_names(options["exclude_queues"], "--exclude-queues", empty=True)
        if excluded is None:
            raise CommandError("--exclude-queues: '*' would leave no queue.")
        if excluded and names is not None:
            raise CommandError("--exclude-queues works only with --queue-name '*'.")
        max_tasks = options["max_tasks"]
        if options["max_tasks_per_process"] is not None:
            if max_tasks is not None:
                raise CommandError("Use --max-tasks or --max-tasks-per-process, not both.")
            max_tasks = with_jitter(options["max_tasks_per_process"])
        elif max_tasks is not None and options["processes"] > 1:
            raise CommandError(
                "--max-tasks is for one process, which ends after them; with --processes, use "
                "--max-tasks-per-process, after which a process is renewed."
            )
        try:
            return WorkerSettings(
                sender=type(backend),
                options=backend.durable_options,
                queues=Queues(backend.alias, names, frozenset(excluded)),
                interval=options["interval"],
                batch=options["batch"],
                max_tasks=max_tasks,
                worker_id=options["worker_id"],
                threads=options["threads"],
                coroutines=options["coroutines"],
                startup_delay=STARTUP_DELAY if options["startup_delay"] else 0.0,
                shutdown_timeout=options["shutdown_timeout"],
                periodic=options["periodic"],
            )
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def run_in_transaction(self, worker_settings: WorkerSettings, backend: DatabaseBackend) -> None:
        """Run a batch where the command was called, such as in a ``TestCase``, without a worker."""
        if not worker_settings.batch:
            raise CommandError(
                "A worker can't be run inside a transaction: it has connections of its own, which "
                "don't see what the transaction has written. In a TestCase, say batch=True, or use "
                "run_tasks() of durable_tasks.testing; or make it a TransactionTestCase."
            )
        inline = backend.inline(worker_settings.worker_id)
        if worker_settings.periodic:
            timetable, now = Timetable.of(backend.alias, worker_settings.options), clock.now()
            timetable.sync(now)
            timetable.tick(now)
        for _ in itertools.islice(itertools.count(), worker_settings.max_tasks):
            promote.tick(inline.store, clock.now())
            claim = inline.claim(worker_settings.queues)
            if claim is None:
                break
            inline.run(claim)

    def supervise(self, worker_settings: WorkerSettings, options: dict[str, Any]) -> None:
        """Run several workers, each in a process of its own, to their end."""
        name, count = worker_settings.worker_id or new_worker_id(), options["processes"]
        if (length := len(f"{name}-{count}")) > MAX_WORKER_ID:
            raise CommandError(
                f"--worker-id: {name[:20]}...-{count} would have {length} characters, more than "
                f"{MAX_WORKER_ID}."
            )
        try:
            command = command_line(getattr(self, "arguments", []))
            connections.close_all()  # that other apps may have opened; a supervisor needs none
            code = Supervisor(
                [*command, "--supervised", "--no-reload"],
                name,
                count,
                batch=worker_settings.batch,
                shutdown_timeout=options["shutdown_timeout"],
            ).run()
        except WorkersFail as error:
            raise CommandError(str(error), returncode=error.exit_code) from error
        except DurableTasksError as error:
            raise CommandError(str(error)) from error
        if code:
            sys.exit(code)

    def run(
        self,
        worker_settings: WorkerSettings,
        options: dict[str, Any],
        lifeline: Lifeline | None = None,
    ) -> None:
        """Run one worker to its end."""

        def ready() -> None:
            if memory is not None:
                memory.start()
            if lifeline is not None:
                lifeline.tell(READY)

        reloaded = is_reloaded()
        worker = Worker(worker_settings, ready, partial(os._exit, RELOAD if reloaded else STUCK))
        memory = MemoryLimit(worker, options["max_memory"]) if options["max_memory"] else None
        if reloaded:
            stop = Stop(worker)
            stop_before_exit(worker, options["shutdown_timeout"] or RELOAD_TIMEOUT)
        else:
            stop = Stop(worker, options["shutdown_timeout"])
            stop.on_signals()
        worker.on_dismissed = stop.dismiss if lifeline is not None else stop.gracefully
        if lifeline is not None:
            lifeline.watch(worker, stop.gracefully)
        try:
            worker.run()
        except (DurableTasksError, ImproperlyConfigured, DatabaseError) as error:
            text = str(error).strip()
            if isinstance(error, DatabaseError):
                text = f"The database can't be used: {text}"
            if lifeline is not None:
                lifeline.tell(text.encode(errors="replace"))
                sys.exit(1)  # the supervisor says it, once for all
            raise CommandError(text) from error
        finally:
            stop.over()
            if memory is not None:
                memory.over()
        logger.info("Worker %s has stopped.", worker.id, extra={"worker_id": worker.id})
        if stop.dismissed:
            sys.exit(DISMISSED)
        full = options["max_tasks_per_process"] is not None and worker.took_maximum
        if not stop.asked and (full or (memory is not None and memory.exceeded)):
            sys.exit(RENEW)


def set_up_logging(verbosity: int) -> None:
    """Show the engine's log lines, also if the project's LOGGING does nothing with them.

    ``verbosity``: 0 for warnings and errors only, 2 or more for all. With 1, the project's levels
    hold; those that it does not set are INFO.
    """
    logger.disabled = False  # by another django.setup(), such as that of an imported wsgi.py
    if not logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    if verbosity == 0:
        for each in (logger, tasks_logger):  # the other one has Django's lines about tasks
            each.setLevel(max(logging.WARNING, each.getEffectiveLevel()))
    elif verbosity > 1:
        logger.setLevel(logging.DEBUG)
