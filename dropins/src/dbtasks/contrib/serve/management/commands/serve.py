"""``manage.py serve``: durable_tasks' own, but for what ``-a`` is."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError, CommandParser

from durable_tasks.contrib.serve.management.commands import serve


class Command(serve.Command):
    def create_parser(self, *names: str, **options: Any) -> CommandParser:
        # A later -a is the one that counts.
        return super().create_parser(*names, **{"conflict_handler": "resolve", **options})

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("-a", "--address", help="the address alone")

    def place(self, options: dict[str, Any]) -> tuple[str, int]:
        host, number = options["addrport"]
        if options["address"] is not None:
            if host is not None:
                raise CommandError("Say the address once: as --address, or with the port.")
            options = {**options, "addrport": (options["address"], number)}
        return super().place(options)
