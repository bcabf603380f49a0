"""``manage.py tasks_status``: what there is now, in a terminal."""

import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseFault
from django.db import connections

from ...state import Look
from .. import durable_backend, one_line_errors, readers_may_leave
from ..status import Part, paint, screen
from ..terminal import Terminal

QUIT = "q"


def seconds(text: str) -> float:
    """Parse the time between two looks."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.2 <= value <= 3600:  # nor NaN
        raise ArgumentTypeError(f"must be a number of seconds from 0.2 to 3600, not {text!r}")
    return value


class Command(BaseCommand):
    help = "Shows queues, workers, late schedules and errors, live in a terminal. q ends it."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        one_line_errors(parser)
        parser.add_argument(
            "--interval", type=seconds, default=2.0, help="seconds between two looks (default: 2)"
        )
        parser.add_argument(
            "--once", action="store_true", help="print it once, as without a terminal"
        )
        parser.add_argument("--backend", dest="backend_name", help="only this one of TASKS")

    def handle(self, **options: Any) -> None:
        self._backend_name = options["backend_name"]
        if self._backend_name:
            durable_backend(self._backend_name)
        is_terminal = sys.stdin.isatty() and self.stdout.isatty()
        self._colour = options["force_color"] or (
            self.stdout.isatty() and not (options["no_color"] or os.environ.get("NO_COLOR"))
        )
        try:
            if options["once"] or not is_terminal:
                lines = screen(Look(self._backend_name))
                with readers_may_leave(self.stdout):
                    for line in lines:
                        self.stdout.write(paint(line, None, colour=self._colour))
            else:
                self._watch(options["interval"])
        except KeyboardInterrupt:
            pass
        except DatabaseFault as error:
            raise CommandError(f"The database can't be asked: {_one_line(error)}") from error
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def _watch(self, interval: float) -> None:
        """Draw until somebody ends it; a database that is away comes back."""
        lines: list[list[Part]] = []
        key = ""
        with Terminal() as terminal:
            while QUIT not in key:
                size = terminal.size()
                try:
                    lines = screen(Look(self._backend_name), size.columns, size.lines - 1)
                    note = f"every {interval:g} s, q ends it"
                    style = "dim"
                except DatabaseFault as error:
                    for connection in connections.all(initialized_only=True):
                        connection.close()
                    note, style = f"The database can't be asked: {_one_line(error)}", "red"
                shown = [*lines[: size.lines - 1], [(note, style)]]
                terminal.draw([paint(line, size.columns, colour=self._colour) for line in shown])
                key = self._pause(terminal, interval)

    def _pause(self, terminal: Terminal, interval: float) -> str:
        """Wait for the next look; return the key that ends the wait, "" if none did."""
        size = terminal.size()
        until = time.monotonic() + interval
        while (left := until - time.monotonic()) > 0 and terminal.size() == size:
            if QUIT in (key := terminal.key(left).lower()):  # several, if typed at once
                return key
        return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
