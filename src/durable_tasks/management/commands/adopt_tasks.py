"""``manage.py adopt_tasks``: move the tasks that django-tasks-db and django-dbtasks have stored."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from ... import clock
from ...adoption.adopt import Adopted, Adoption, Report
from ...adoption.rows import Outcome
from ...adoption.tables import WORKERS, OldTable
from ...exceptions import DurableTasksError
from .. import durable_backend, one_line_errors

# Characters of the progress bar.
BAR = 30
NOT_MOVED = (Outcome.THERE, Outcome.RAN, Outcome.EXPIRED, Outcome.PERIODIC)


def batch_size(text: str) -> int:
    """Parse how many rows a batch has."""
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise ArgumentTypeError(f"must be a whole number from 1 to 10000, not {text!r}")
    return int(text)


def renaming(text: str) -> tuple[str, str]:
    """Parse OLD=NEW."""
    old, _, new = text.partition("=")
    if not (old and new):
        raise ArgumentTypeError(f"must be OLD=NEW, two aliases of TASKS, not {text!r}")
    return old, new


class Command(BaseCommand):
    help = (
        "Moves the tasks that django-tasks-db and django-dbtasks have stored, with their ids: "
        "those that wait, to run, and those that have ended, as history. Their tables stay."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        one_line_errors(parser)
        parser.add_argument(
            "--database", help="the alias of the database with their tables (default: our jobs')"
        )
        parser.add_argument(
            "--running",
            choices=("retry", "fail"),
            help="what becomes of tasks whose worker was stopped while they ran: run again, or "
            "fail (default: what the task's on_worker_lost says)",
        )
        parser.add_argument(
            "--finished",
            action=BooleanOptionalAction,
            default=True,
            help="whether to move tasks that have ended (default: they are moved)",
        )
        parser.add_argument(
            "--backend",
            action="append",
            type=renaming,
            default=[],
            dest="backends",
            metavar="OLD=NEW",
            help="the alias of TASKS that is to have the tasks of another; may be given repeatedly",
        )
        parser.add_argument(
            "--batch-size",
            type=batch_size,
            default=1000,
            help="rows of one transaction; fewer if they are very large (default: %(default)s)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only say what would become of how many"
        )

    def handle(self, **options: Any) -> None:
        self._says = options["verbosity"] > 0
        database = options["database"]
        if database is not None and database not in connections.settings:
            known = ", ".join(connections.settings)
            raise CommandError(f"--database: {database!r} is not in DATABASES. Known: {known}.")
        for _, alias in options["backends"]:
            durable_backend(alias)
        adoption = Adoption(
            database=database,
            running=options["running"],
            finished=options["finished"],
            backends=dict(options["backends"]),
            batch_size=options["batch_size"],
            dry_run=options["dry_run"],
        )
        try:
            self._adopt(adoption)
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. What was moved stays; run this again for the rest.", returncode=130
            ) from None
        except (DurableTasksError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(
                f"The database can't be used: {str(error).strip()}\n"
                "What was moved stays; run this again for the rest."
            ) from error

    def _adopt(self, adoption: Adoption) -> None:
        began = clock.now()
        tables = adoption.prepare(self._say)
        if not tables:
            self._say(
                f"The database {adoption.database!r} has no table of django-tasks-db or "
                "django-dbtasks: there is nothing to adopt."
            )
        total = Report()
        for table in tables:
            report = self._move(adoption, table)
            self._summarise(adoption, table, report)
            total.add(report)
        for line in (*total.bad, *total.ran):
            self.stderr.write(line)
        problems = []
        if total.bad:
            problems.append(f"{len(total.bad):,} rows can't be moved, see above.")
        if total.ran:
            problems.append(
                f"An old worker has run {len(total.ran):,} tasks since they were taken, see above: "
                "they run here as well, or have. Stop all old workers."
            )
        if not adoption.dry_run:
            for table in tables:
                if count := table.run_since(began):
                    problems.append(
                        f"A worker of {table.package} has started or ended {count:,} tasks "
                        "meanwhile: they may run twice. Stop all of its workers, then run this "
                        "again."
                    )
        if problems:
            raise CommandError("\n".join(problems))
        if tables and not adoption.finished:
            self._say("What has ended was left out: without --no-finished it follows.")
        elif tables and not adoption.dry_run:
            drops = [name for table in tables for name in table.drops]
            self._say(
                "If processes with the old package have enqueued since, run this again. Once "
                "nothing uses it any more, and you don't want to go back, you can drop "
                f"{', '.join([*drops, Adopted._meta.db_table])}."
            )

    def _move(self, adoption: Adoption, table: OldTable) -> Report:
        total = table.count(finished=adoption.finished)
        report = Report()
        shows = self._says and self.stdout.isatty() and total > 0
        done = 0
        try:
            for batch in adoption.move(table):
                report.add(batch)
                if shows:
                    done = min(total, done + batch.outcomes.total() + len(batch.bad))
                    bar = ("#" * (BAR * done // total)).ljust(BAR, ".")
                    self.stdout.write(f"\r[{bar}] {done:,} of {total:,} rows", ending="")
                    self.stdout.flush()
        finally:
            if shows:
                self.stdout.write("")  # an error gets a line of its own
        return report

    def _summarise(self, adoption: Adoption, table: OldTable, report: Report) -> None:
        would = adoption.dry_run
        moved = {each: n for each, n in report.outcomes.items() if each not in NOT_MOVED}
        self._say(
            f"{table.package} ({table.name}): {sum(moved.values()):,} tasks "
            f"{'would be adopted' if would else 'adopted'}"
        )
        for outcome in Outcome:
            if count := report.outcomes[outcome]:
                label = f"not moved: {outcome}" if outcome in NOT_MOVED else str(outcome)
                self._say(f"  {count:>9,}  {label}")
        if report.bad:
            self._say(f"  {len(report.bad):>9,}  that can't be moved")
        if WORKERS not in table.drops:
            self._say(
                f"  Whether workers of {table.package} still run can't be seen in its tables: make "
                "sure that they are stopped, or tasks run twice."
            )

    def _say(self, text: str) -> None:
        if self._says:
            self.stdout.write(text)
