"""What our commands share: each parses, calls, and prints."""

import os
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, OutputWrapper

from ..backend import DatabaseBackend
from ..compat import InvalidTaskBackend, task_backends


def durable_backend(alias: str) -> DatabaseBackend:
    """Return the backend ``alias``. Raises ``CommandError`` if it is unknown or not ours."""
    try:
        backend = task_backends[alias]
    except InvalidTaskBackend as error:
        known = ", ".join(task_backends.settings)
        raise CommandError(
            f"There is no task backend {alias!r} in TASKS. Known: {known}."
        ) from error
    if not isinstance(backend, DatabaseBackend):
        raise CommandError(
            f"TASKS[{alias!r}] is a {type(backend).__name__}, not a durable_tasks backend."
        )
    return backend


def queue_names(text: str, option: str, *, empty: bool = False) -> tuple[str, ...] | None:
    """Parse a list of queues separated by commas; None stands for all queues, if ``*`` is one."""
    if not is_text(text):
        raise CommandError(f"{option}: {text!r} is no valid text.")
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if "*" in names:
        return None
    if not names and not empty:
        raise CommandError(f"{option} must name at least one queue.")
    return names


def is_text(text: str) -> bool:
    """Return whether a database can store what the command line had."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def plain(text: object) -> str:
    """Return a text of a job or a worker without what would steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))


@contextmanager
def readers_may_leave(output: OutputWrapper) -> Iterator[None]:
    """Let a reader such as ``head`` close the pipe early: the rest goes nowhere, without an error.

    What Python writes at its exit goes nowhere, too: "Note on SIGPIPE" in the docs of ``signal``.
    """
    try:
        yield
        output.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output.fileno())
        os.close(nowhere)


def one_line_errors(parser: ArgumentParser) -> None:
    """Let the error about a bad value be one line, without the usage of ten above it."""
    parser.print_usage = lambda file=None: None  # type: ignore[method-assign]


def with_defaults(command: BaseCommand, options: dict[str, Any]) -> dict[str, Any]:
    """Return a command's options, with the default of each that is None, as code may give them."""
    parser = command.create_parser("manage.py", "")
    return {
        name: parser.get_default(name) if value is None else value
        for name, value in options.items()
    }


def or_without_value(default: Any = None) -> dict[str, Any]:
    """Let an option that is given without a value, as by an empty variable, mean its default."""
    return {"nargs": "?", "default": default, "const": default}
