"""``manage.py tasks_health``: whether work gets done, for monitoring and probes."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseFault

from ... import health
from ...health import Report, Thresholds
from .. import durable_backend, one_line_errors, plain, queue_names, readers_may_leave

# What the exit code says.
HEALTHY, UNHEALTHY, UNKNOWN = 0, 1, 2
_HELP = {
    "max_backlog": "jobs that are due and wait, in all queues together",
    "max_waiting": "for how long the oldest of them has waited",
    "max_failure_rate": "the share that failed of the jobs that succeeded or failed",
    "over": "the time over which failures are counted, up to 3h",
    "min_runs": "with fewer of these, failures are not judged",
    "min_workers": "workers that are alive and claim jobs, of each backend or queue",
    "max_beat_age": "since the last heartbeat of any worker",
    "max_late": "for how long a periodic task may be overdue",
}
_SHAPES = {health.number: "N", health.rate: "SHARE"}


def parsed_by(parse: Callable[[Any], Any], *, off: bool) -> Callable[[str], Any]:
    """Return a type for argparse; ``off``: "none" switches the check off."""

    def parse_text(text: str) -> Any:
        if off and text.lower() == "none":
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error

    return parse_text


class Command(BaseCommand):
    help = (
        "Says whether work gets done. Exit codes: 0 healthy, 1 not, 2 could not be asked. "
        'A threshold of "none" leaves its check out.'
    )
    # A probe: what "manage.py check" says would have the wrong exit code, and takes its time.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        one_line_errors(parser)
        for each in fields(Thresholds):
            default = "worker_timeout" if each.name == "max_beat_age" else each.default
            if each.name == "max_failure_rate":
                default = "10%"
            parser.add_argument(
                f"--{each.name.replace('_', '-')}",
                type=parsed_by(each.metadata["parse"], off=each.name not in ("over", "min_runs")),
                default=each.default,
                metavar=_SHAPES.get(each.metadata["parse"], "TIME"),
                help=f"{_HELP[each.name]} (default: {default})".replace("%", "%%"),
            )
        parser.add_argument("--queue-name", help="only these queues, separated by commas")
        parser.add_argument("--backend", dest="backend_name", help="only this one of TASKS")
        parser.add_argument(
            "--format", choices=("text", "json"), default="text", help="(default: text)"
        )

    def handle(self, **options: Any) -> None:
        try:
            thresholds = Thresholds.of(
                **{each.name: options[each.name] for each in fields(Thresholds)}
            )
            names = options["queue_name"] and queue_names(options["queue_name"], "--queue-name")
            if options["backend_name"]:
                durable_backend(options["backend_name"])
            report = health.report(
                thresholds, backend_name=options["backend_name"], queue_names=names or None
            )
        except CommandError as error:
            raise CommandError(str(error), returncode=UNKNOWN) from error
        except (DatabaseFault, ImproperlyConfigured) as error:
            text = " ".join(str(error).split())
            if options["format"] == "json":
                with readers_may_leave(self.stdout):
                    self.stdout.write(json.dumps({"status": "unknown", "error": text}))
                raise SystemExit(UNKNOWN) from error
            if isinstance(error, DatabaseFault):
                text = f"The database can't be asked: {text}"
            raise CommandError(text, returncode=UNKNOWN) from error
        with readers_may_leave(self.stdout):
            if options["format"] == "json":
                self.stdout.write(json.dumps(_as_json(report)))
            else:
                self._show(report)
        if not report.is_healthy:
            raise SystemExit(UNHEALTHY)

    def _show(self, report: Report) -> None:
        for check in report.checks:
            style = self.style.SUCCESS if check.is_ok else self.style.ERROR
            word = style("OK  " if check.is_ok else "FAIL")
            self.stdout.write(f"{word}  {check.name:<11} {plain(check.text)}")
        for note in report.notes:
            self.stdout.write(f"{self.style.WARNING('NOTE')}  {plain(note)}")


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "status": "healthy" if report.is_healthy else "unhealthy",
        "at": report.at.isoformat(),
        "checks": [asdict(check) for check in report.checks],
        "notes": report.notes,
    }
