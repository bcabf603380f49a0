"""``manage.py prune_db_task_results``: delete old results."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connections, router
from django.utils import timezone

from ...chores.prune import prune
from ...compat import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME
from ...models import Job
from ...statuses import JobStatus
from ...store import store_for
from .. import durable_backend, one_line_errors, or_without_value, queue_names, with_defaults


def days(text: str) -> int:
    """Parse an age."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0 or value > 36500:
        raise ArgumentTypeError(f"must be a whole number of days, 0 or more, not {text!r}")
    return value


class Command(BaseCommand):
    help = "Deletes the results of tasks that ended some days ago."

    def add_arguments(self, parser: ArgumentParser) -> None:
        one_line_errors(parser)
        parser.add_argument(
            "--backend",
            **or_without_value(DEFAULT_TASK_BACKEND_ALIAS),
            dest="backend_name",
            help="the backend whose results to delete (default: %(default)s)",
        )
        parser.add_argument(
            "--queue-name",
            **or_without_value(DEFAULT_TASK_QUEUE_NAME),
            help="the queues, separated by commas; '*' for all (default: %(default)s)",
        )
        parser.add_argument(
            "--min-age-days",
            type=days,
            **or_without_value(14),
            help="how many days ago a task must have ended (default: %(default)s)",
        )
        parser.add_argument(
            "--failed-min-age-days",
            type=days,
            **or_without_value(),
            help="the same for failed tasks (default: --min-age-days)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only say how many would be deleted"
        )

    def handle(self, **options: Any) -> None:
        options = with_defaults(self, options)
        backend = durable_backend(options["backend_name"])
        names = queue_names(options["queue_name"], "--queue-name")
        ages = {
            (JobStatus.SUCCESSFUL, JobStatus.CANCELLED): options["min_age_days"],
            (JobStatus.FAILED,): (
                options["min_age_days"]
                if options["failed_min_age_days"] is None
                else options["failed_min_age_days"]
            ),
        }
        alias = router.db_for_write(Job)
        store = store_for(connections[alias])
        shows = options["verbosity"] > 0 and not options["dry_run"] and self.stdout.isatty()
        total = 0
        for statuses, age in ages.items():
            before = timezone.now() - timedelta(days=age)
            if options["dry_run"]:
                jobs = Job.objects.using(alias).filter(
                    status__in=statuses, finished_at__lt=before, backend_name=backend.alias
                )
                total += (jobs if names is None else jobs.filter(queue_name__in=names)).count()
                continue
            for deleted in prune(
                store,
                statuses=[status.value for status in statuses],
                before=before,
                backend_name=backend.alias,
                queue_names=names,
            ):
                total += deleted
                if shows:
                    self.stdout.write(f"\rDeleted {total:,} results ...", ending="")
                    self.stdout.flush()
        if shows and total:
            self.stdout.write("\r", ending="")
        if options["verbosity"] > 0:
            word = "Would delete" if options["dry_run"] else "Deleted"
            self.stdout.write(f"{word} {total:,} results.")
