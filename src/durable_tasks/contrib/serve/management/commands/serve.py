"""``manage.py serve``: the site on Granian, and a worker beside it."""

import multiprocessing
import os
import re
import signal
import socket
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from .....exceptions import DurableTasksError
from .....ids import new_worker_id
from .....management import durable_backend, one_line_errors
from .....management.commands.db_worker import above_zero, set_up_logging
from .....management.commands.taskrunner import add_runner_arguments
from .....store import Queues
from .....worker.supervisor import command_line
from .....worker.worker import WorkerSettings
from ...application import load, path_of
from ...beside import WorkerBeside

# Sync tasks at once, if nothing else is said.
TASKS = 4
# More threads than this are a port that was meant for the address.
MAX_TASKS = 1000
# Seconds that requests, and tasks, have to end when the server stops or reloads.
GRACE = 10


def port(text: str) -> int:
    """Parse a port."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise ArgumentTypeError(f"must be a port, 1 to 65535, not {text!r}")
    return int(text)


def address(text: str) -> tuple[str | None, int]:
    """Parse what runserver takes: a port, or an address and a port."""
    host, colon, number = text.rpartition(":")
    if re.fullmatch(r"\[[0-9a-fA-F:.]+\]", host):
        host = host[1:-1]
    elif ":" in host or (colon and not host):
        raise ArgumentTypeError(f"must be PORT, ADDRESS:PORT or [IPV6 ADDRESS]:PORT, not {text!r}")
    return host or None, port(number)


def folder(text: str) -> Path:
    """Parse a folder that is there."""
    if not (path := Path(text)).is_dir():
        hint = ". If it is the port, write it before --reload" if text.isdecimal() else ""
        raise ArgumentTypeError(f"must be a folder, not {text!r}{hint}")
    return path.resolve()


def from_environment[T](name: str, parse: Callable[[str], T], default: T) -> T:
    """Return what the environment says. Raises ``CommandError`` if it is no good value."""
    if not (text := os.environ.get(name)):
        return default
    try:
        return parse(text)
    except ArgumentTypeError as error:
        raise CommandError(f"{name}: {error}") from error


class Command(BaseCommand):
    help = (
        "Serves the site on Granian, for development and for small sites; with --tasks, a worker "
        "for every queue runs beside it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        one_line_errors(parser)
        parser.add_argument(
            "addrport",
            nargs="?",
            type=address,
            default=(None, None),
            help="PORT, ADDRESS:PORT or [IPV6 ADDRESS]:PORT (default: GRANIAN_HOST and "
            "GRANIAN_PORT of the environment, or 127.0.0.1:8000)",
        )
        parser.add_argument("-p", "--port", type=port, help="the port alone")
        parser.add_argument(
            "-a",
            "--asgi",
            action="store_true",
            help="run ASGI_APPLICATION, or the one beside WSGI_APPLICATION (default: WSGI)",
        )
        parser.add_argument(
            "-k",
            "--tasks",
            nargs="?",
            type=above_zero,
            const=TASKS,
            metavar="THREADS",
            help=f"run tasks, so many sync ones at once, {TASKS} if that is not said "
            "(default: run none)",
        )
        parser.add_argument(
            "-r",
            "--reload",
            nargs="?",
            type=folder,
            const=Path(getattr(settings, "BASE_DIR", "")),
            metavar="FOLDER",
            help="start site and tasks again when code in the folder changes; not for production "
            "(default folder: BASE_DIR)",
        )
        parser.add_argument(
            "-w",
            "--workers",
            type=above_zero,
            help="processes that answer requests (default: GRANIAN_WORKERS of the environment, "
            "or 1)",
        )
        parser.add_argument(
            "-t",
            "--threads",
            type=above_zero,
            help="requests at once in each of them; not with --asgi (default: 2 x CPUs + 1)",
        )
        add_runner_arguments(parser, "-b", "--backend")
        # The worker is this very command line again, with a socket to us as standard input.
        parser.add_argument("--supervised", action="store_true", help=SUPPRESS)

    def run_from_argv(self, argv: list[str]) -> None:
        self.arguments = argv[1:]
        super().run_from_argv(argv)

    def handle(self, **options: Any) -> None:
        if options["supervised"]:
            self.work(options)
        else:
            self.serve(options)

    def work(self, options: dict[str, Any]) -> None:
        """Run tasks, as the worker beside a site."""
        # The terminal's Ctrl-C is for the server, which then tells us.
        os.setpgid(0, 0)
        names = ("worker_id", "backend_name", "delay", "periodic", "verbosity")
        call_command(
            "taskrunner",
            workers=options["tasks"],
            supervised=True,
            # Its own, since it may outlive the server.
            shutdown_timeout=GRACE,
            **{name: options[name] for name in names},
        )

    def serve(self, options: dict[str, Any]) -> None:
        """Serve the site, with a worker beside it if there is to be one."""
        try:
            from ...server import Server
        except ImportError as error:
            raise CommandError(
                f"serve needs Granian and watchfiles ({error}): "
                'install "django-durable-tasks[serve]".'
            ) from error
        asgi = options["asgi"]
        if asgi and options["threads"] is not None:
            raise CommandError("--threads: an ASGI application has its own; use --workers.")
        try:
            path = path_of(asgi=asgi)
            # What can't be loaded is said here, once, and not by each process of the site's.
            lifespan = not isinstance(load(path, asgi=asgi), ASGIHandler)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        host, number = self.place(options)
        set_up_logging(options["verbosity"])
        worker = self.worker_beside(options)
        # Not fork: it would hand the code that is loaded here to the processes of the site.
        multiprocessing.set_start_method("spawn", force=True)
        server = Server(
            path,
            asgi=asgi,
            lifespan=lifespan,
            address=host,
            port=number,
            workers=options["workers"] or from_environment("GRANIAN_WORKERS", above_zero, 1),
            threads=None if asgi else options["threads"] or 2 * (os.cpu_count() or 1) + 1,
            reload=options["reload"],
            grace=GRACE,
            log_access=settings.DEBUG and options["verbosity"] > 0,
            verbosity=options["verbosity"],
            on_stop=worker.ask_to_stop if worker is not None else lambda: None,
            on_second_signal=worker.kill if worker is not None else lambda: None,
        )
        if worker is None:
            server.run()
            return
        server.on_startup(worker.start)
        server.on_reload(worker.reload)
        try:
            server.run()
        finally:
            worker.stop()
        if (failure := worker.failure) is not None:
            raise CommandError(str(failure), returncode=failure.exit_code) from failure

    def place(self, options: dict[str, Any]) -> tuple[str, int]:
        """Return the address and the port. Raises ``CommandError`` if nobody can listen there."""
        host, number = options["addrport"]
        if number is not None and options["port"] is not None:
            raise CommandError("Say the port once: as --port, or with the address.")
        host = host or os.environ.get("GRANIAN_HOST") or "127.0.0.1"
        number = number or options["port"] or from_environment("GRANIAN_PORT", port, 8000)
        try:
            family, kind, _, _, where = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            # Granian's own sockets share a port with whoever lets them.
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CommandError(
                f"The server can't listen at {host}, port {number}: {reason}."
            ) from error
        return str(where[0]), number

    def worker_beside(self, options: dict[str, Any]) -> WorkerBeside | None:
        """Return the worker to run, or None. Raises ``CommandError`` if it can't work."""
        if options["tasks"] is None:
            return None
        if options["tasks"] > MAX_TASKS:
            raise CommandError(
                f"--tasks: {options['tasks']} threads are too many. If it is the port, write it "
                f"before --tasks."
            )
        backend = durable_backend(options["backend_name"])
        try:
            # What a worker would refuse is said here, once.
            WorkerSettings(type(backend), backend.durable_options, Queues(backend.alias, None))
            command = command_line(getattr(self, "arguments", []), "--tasks")
        except (DurableTasksError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        return WorkerBeside(
            [*command, "--supervised", "--skip-checks"],
            options["worker_id"] or new_worker_id(),
            grace=GRACE,
            patient=options["reload"] is not None,
            on_failure=lambda: os.kill(os.getpid(), signal.SIGTERM),
        )
