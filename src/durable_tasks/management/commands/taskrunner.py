"""``manage.py taskrunner``: a worker for every queue of a backend, with a thread for each CPU."""

import os
from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from ...compat import DEFAULT_TASK_BACKEND_ALIAS
from .. import one_line_errors, with_defaults
from .db_worker import above_zero, seconds, seconds_above_zero, worker_id


def add_runner_arguments(parser: ArgumentParser, *backend: str) -> None:
    """Add the options of a worker that serves every queue; ``backend``: what that one is called."""
    parser.add_argument(
        "-i",
        "--worker-id",
        type=worker_id,
        help="a name that no other living worker has (default: generated from the host's name)",
    )
    parser.add_argument(
        *backend,
        default=DEFAULT_TASK_BACKEND_ALIAS,
        dest="backend_name",
        help="the backend whose tasks to run (default: %(default)s)",
    )
    parser.add_argument(
        "--delay",
        type=seconds,
        default=1.0,
        help="seconds between two looks for work when there is none (default: 1)",
    )
    parser.add_argument(
        "--no-periodic", action="store_false", dest="periodic", help="fire no periodic tasks"
    )


class Command(BaseCommand):
    help = "Runs a worker that serves every queue: db_worker with other defaults."

    def add_arguments(self, parser: ArgumentParser) -> None:
        one_line_errors(parser)
        # As that of db_worker.
        parser.add_argument("--supervised", action="store_true", help=SUPPRESS)
        parser.add_argument(
            "-w",
            "--workers",
            type=above_zero,
            default=max(1, (os.cpu_count() or 1) - 1),
            help="sync tasks at once (default: CPUs - 1, here %(default)s)",
        )
        add_runner_arguments(parser, "--backend")
        # As that of db_worker; serve sets it.
        parser.add_argument("--shutdown-timeout", type=seconds_above_zero, help=SUPPRESS)

    def handle(self, **options: Any) -> None:
        options = with_defaults(self, options)
        name, timeout = options["worker_id"], options["shutdown_timeout"]
        call_command(
            "db_worker",
            "--queue-name=*",
            "--no-reload",
            "--no-startup-delay",
            *(["--supervised"] if options["supervised"] else []),
            f"--threads={options['workers']}",
            f"--interval={options['delay']}",
            f"--backend={options['backend_name']}",
            *([] if name is None else [f"--worker-id={name}"]),
            *([] if timeout is None else [f"--shutdown-timeout={timeout}"]),
            *([] if options["periodic"] else ["--no-periodic"]),
            verbosity=options["verbosity"],
        )
