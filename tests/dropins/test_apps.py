"""The names in ``INSTALLED_APPS``, in any order, and the loggers."""

import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import run_checks
from django.core.management import call_command, get_commands
from django.test import SimpleTestCase, TestCase, override_settings

from dbtasks.models import ScheduledTask
from django_tasks_db.apps import TasksAppConfig
from django_tasks_db.models import DBTaskResult
from durable_tasks import DatabaseBackend
from durable_tasks.apps import DurableTasksConfig
from durable_tasks.management.commands.db_worker import set_up_logging
from durable_tasks.models import Job
from tests.app import tasks
from tests.helpers import ROOT, tasks_setting

NAMES = ("durable_tasks", "django_tasks_db", "dbtasks")
OTHERS = [name for name in settings.INSTALLED_APPS if name not in NAMES]
PATHS = ("django_tasks_db.DatabaseBackend", "dbtasks.backend.DatabaseBackend")


class OwnConfig(TasksAppConfig):
    verbose_name = "Our tasks"


class OrderTests(TestCase):
    databases = {"default", "other"}

    @contextmanager
    def installed(self, *names: str) -> Iterator[None]:
        # Django loads the apps before the setting is in effect, which the drop-ins look at; the
        # tests' own lists durable_tasks.
        changed = {"INSTALLED_APPS": [*OTHERS, *names]}
        with self.settings(**changed), self.settings(**changed):
            yield

    def orders(self) -> Iterable[tuple[str, ...]]:
        for count in (1, 2, 3):
            yield from itertools.permutations(NAMES, count)

    def test_every_order_gives_one_app_with_our_label(self) -> None:
        orders = list(self.orders())
        self.assertEqual(len(orders), 15)
        for order in orders:
            with self.subTest(order), self.installed(*order):
                get_commands.cache_clear()
                found = [type(config) for config in apps.get_app_configs()]
                self.assertEqual(found.count(DurableTasksConfig), 1)
                self.assertEqual(len(found), len(order) + len(OTHERS))
                self.assertIs(apps.get_model("durable_tasks", "Job"), Job)
                for command in ("db_worker", "taskrunner", "prune_db_task_results"):
                    self.assertEqual(get_commands()[command], "durable_tasks")
                models = apps.get_models(include_auto_created=True)
                self.assertFalse({DBTaskResult, ScheduledTask}.intersection(models))
                self.assertEqual(run_checks(), [])
        get_commands.cache_clear()

    def test_no_order_asks_for_a_migration(self) -> None:
        for order in (("django_tasks_db",), ("dbtasks",), NAMES, NAMES[::-1]):
            with self.subTest(order), self.installed(*order):
                call_command("makemigrations", check=True, dry_run=True, verbosity=0)

    def test_an_app_may_be_named_by_its_configuration(self) -> None:
        for entry in ("django_tasks_db.apps.TasksAppConfig", "dbtasks.apps.DbtasksConfig"):
            for others in ([], ["durable_tasks"], ["durable_tasks.apps.DurableTasksConfig"]):
                with self.subTest(entry, others=others):
                    with self.installed(entry, *others):
                        found = [type(each) for each in apps.get_app_configs()]
                    self.assertEqual(found.count(DurableTasksConfig), 1)
                    self.assertEqual(len(found), 1 + len(others) + len(OTHERS))

    def test_a_project_may_derive_a_configuration(self) -> None:
        own = f"{__name__}.{OwnConfig.__name__}"
        for names, count in (([own], 0), (["durable_tasks", own], 1), ([own, "dbtasks"], 1)):
            with self.subTest(names), self.installed(*names):
                found = [type(each) for each in apps.get_app_configs()]
                self.assertEqual(found.count(DurableTasksConfig), 1)
                self.assertEqual(len(found), 1 + count + len(OTHERS))

    def test_a_test_may_exchange_one_dropin_for_the_other(self) -> None:
        for names in (["dbtasks"], ["dbtasks", "django_tasks_db"], ["durable_tasks", "dbtasks"]):
            with (
                self.subTest(names),
                self.installed("django_tasks_db"),
                self.settings(INSTALLED_APPS=[*OTHERS, *names]),
            ):
                found = [type(each) for each in apps.get_app_configs()]
                self.assertEqual(found.count(DurableTasksConfig), 1)

    def test_the_backend_goes_by_each_name(self) -> None:
        for path in PATHS:
            with self.subTest(path), override_settings(TASKS=tasks_setting(path)):
                backend = tasks.add.get_backend()
                self.assertIs(type(backend), DatabaseBackend)
                self.assertEqual(tasks.add.enqueue(1, 2).backend, "default")


INFO = {"handlers": ["console"], "level": "INFO"}
ROOT_LOGGER = {"handlers": ["console"], "level": "DEBUG"}
BOTH_LINES = ["an error", "some info"]


class LoggerTests(SimpleTestCase):
    def test_the_loggers_of_both_packages_hear_the_engine(self) -> None:
        one, other, ours = "django_tasks_db", "dbtasks", "durable_tasks"
        at_level = {**INFO, "level": "WARNING", "propagate": False}
        cases: list[tuple[list[str], dict[str, Any], list[str]]] = [
            ([one], {one: INFO}, BOTH_LINES),
            ([other], {other: INFO}, BOTH_LINES),
            ([one, other], {one: INFO}, BOTH_LINES),
            ([other, one], {one: INFO}, BOTH_LINES),
            # No line twice.
            ([one, other], {one: INFO, other: INFO}, BOTH_LINES),
            ([other, ours, one], {one: INFO, other: INFO}, BOTH_LINES),
            ([one], {one: INFO, ours: INFO}, BOTH_LINES),
            # Levels and propagation are obeyed.
            ([one], {one: {"level": "INFO"}, "": ROOT_LOGGER}, BOTH_LINES),
            ([one], {one: at_level, "": ROOT_LOGGER}, ["an error"]),
            ([other], {other: {"level": "CRITICAL"}, "": ROOT_LOGGER}, []),
        ]
        projects = [(names, self.logging(loggers)) for names, loggers, _ in cases]
        done = subprocess.run(
            [sys.executable, Path(__file__).parent / "says.py", json.dumps(projects)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        shown = done.stdout.split(".\n")
        self.assertEqual(len(shown), len(cases) + 1, done.stdout)
        for (names, loggers, lines), text in zip(cases, shown, strict=False):
            with self.subTest(apps=names, loggers=loggers):
                self.assertEqual(text.splitlines(), lines)

    def test_a_worker_is_heard_after_a_second_setup_of_django(self) -> None:
        engine = logging.getLogger("durable_tasks")
        engine.disabled = True  # as by Django's LOGGING, which knows the other loggers
        self.addCleanup(setattr, engine, "disabled", False)
        set_up_logging(verbosity=1)
        self.assertTrue(engine.isEnabledFor(logging.WARNING))

    def logging(self, loggers: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": 1,
            "disable_existing_loggers": True,
            "handlers": {"console": {"class": "logging.StreamHandler"}},
            "loggers": loggers,
        }
