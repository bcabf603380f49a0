"""``manage.py periodic_tasks``: list the periodic tasks and when they run next."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from ...chores.schedule import Timetable
from ...compat import DEFAULT_TASK_BACKEND_ALIAS
from ...models import PeriodicTask
from ...timetable import Entry, entry_of, next_time
from .. import durable_backend, one_line_errors, plain
from .db_worker import above_zero


class Command(BaseCommand):
    help = "Lists the periodic tasks and the next times of each."

    def add_arguments(self, parser: ArgumentParser) -> None:
        one_line_errors(parser)
        parser.add_argument(
            "--backend",
            default=DEFAULT_TASK_BACKEND_ALIAS,
            dest="backend_name",
            help="the backend whose periodic tasks to list (default: %(default)s)",
        )
        parser.add_argument(
            "--count", type=above_zero, default=5, help="how many times of each (default: 5)"
        )

    def handle(self, **options: Any) -> None:
        backend = durable_backend(options["backend_name"])
        timetable = Timetable.of(backend.alias, backend.durable_options)
        try:
            rows = {row.name: row for row in timetable.rows()}
        except DatabaseError as error:
            raise CommandError(f"The database can't be used: {str(error).strip()}") from error
        for name, periodic in timetable.periodic.items():
            try:
                entry = entry_of(backend.alias, name, periodic)
            except Exception as error:
                raise CommandError(f"{name}: {error}") from error
            self._show(entry, rows.pop(name, None), options["count"])
        for name, row in rows.items():
            if row.source != PeriodicTask.DATABASE:
                text = "not in these settings; the next worker to start removes it"
                self.stdout.write(f"{plain(name)}: {text}")
                continue
            try:
                self._show(timetable.entry_for(row), row, options["count"])
            except Exception as error:
                self.stdout.write(plain(f"{name}: made in the admin, does not run: {error}"))
        if not timetable.periodic and not rows:
            self.stdout.write(f'TASKS["{backend.alias}"]["OPTIONS"]["periodic"] names none.')

    def _show(self, entry: Entry, row: PeriodicTask | None, count: int) -> None:
        columns = entry.columns
        notes = [
            "" if columns["task_path"] == entry.name else columns["task_path"],
            " ".join(filter(None, (columns["spec"], columns["time_zone"]))),
            "no worker has seen it yet" if row is None else "",
            "disabled" if row is not None and not row.enabled else "",
        ]
        text = plain(", ".join(filter(None, notes)))
        self.stdout.write(f"{self.style.MIGRATE_HEADING(plain(entry.name))}: {text}")
        after: datetime | None = timezone.now()
        for _ in range(count):
            after = next_time(entry.when, after) if after is not None else None
            if after is None:
                self.stdout.write("  no further time")
                break
            self.stdout.write(f"  {_shown(after, entry)}")


def _shown(at: datetime, entry: Entry) -> str:
    """Return a time as the schedule's time zone has it."""
    if timezone.is_aware(at):
        at = at.astimezone(getattr(entry.when, "timezone", None) or timezone.get_default_timezone())
    return at.isoformat(" ", "seconds")
