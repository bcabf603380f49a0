"""The reference leaves nothing out, and names nothing that is not there."""

import os
import re
import sys
from argparse import SUPPRESS
from collections import Counter
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from inspect import getmembers, isclass, signature
from pathlib import Path
from unittest import skipUnless

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.test import SimpleTestCase, TestCase

import durable_tasks
from durable_tasks import exceptions, models, testing
from durable_tasks.compat import Task
from durable_tasks.options import Options
from durable_tasks.redaction import SECRETS
from durable_tasks.statuses import MOVES, JobStatus
from durable_tasks.tasks import DurableTask

from ..helpers import ROOT
from ..store.jobs import make_jobs

pytestmark = [pytest.mark.any_database, pytest.mark.any_version]

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
SOURCE = ROOT / "src" / "durable_tasks"
# What is to be imported from modules, beside what the package itself has.
PUBLIC = {
    "health": ("Thresholds", "report", "view"),
    "metrics": ("view",),
    "pauses": ("pause_queue", "pause_task", "paused", "resume"),
    "wishes": ("ask",),
}
# Django's own, which each command has.
OF_DJANGO = {
    option
    for action in BaseCommand().create_parser("manage.py", "any")._actions
    for option in action.option_strings
}


def page(name):
    return (REFERENCE / name).read_text()


def section(text, heading):
    """Return what is below a heading, up to the next of its level."""
    found = re.search(rf"^(#+) {re.escape(heading)}$\n(.*?)(?=^\1 |\Z)", text, re.M | re.S)
    assert found, heading
    return found[2]


def first_cells(text):
    """Return what the first columns of the tables name in code, in their order."""
    return [
        name
        for row in re.findall(r"^\| (`.*?) \|", text, re.M)
        for name in re.findall(r"`([^`]+)`", row)
    ]


def samples(metric):
    """Return what each sample of a metric is of: a task, a queue by its name, or a backend."""
    for each in metric.samples:
        yield "task" if "task" in each.labels else each.labels.get("queue", "backend")


def arguments_of(call):
    """Return the arguments of a function with their defaults, in their order."""
    return [(each.name, each.default) for each in signature(call).parameters.values()]


def sources():
    return {path: path.read_text() for path in SOURCE.rglob("*.py")}


class WrittenTests(SimpleTestCase):
    def test_the_pages_made_from_the_models_are_up_to_date(self):
        sys.path.insert(0, str(DOCS))
        self.addCleanup(sys.path.remove, str(DOCS))
        for name, text in import_module("reference").pages().items():
            self.assertEqual(page(name), text, "Run python docs/reference.py.")


class OptionTests(SimpleTestCase):
    def test_each_option_of_a_backend(self):
        known = [field.name for field in fields(Options) if field.name != "where"]
        self.assertCountEqual(first_cells(section(page("options.md"), "Of a backend")), known)

    def test_the_names_of_secrets(self):
        text = (DOCS / "how-to" / "secure-admin.md").read_text()
        self.assertEqual([each for each in SECRETS if f"`{each}`" not in text], [])

    def test_each_argument_of_the_decorator(self):
        known = {field.name for field in fields(DurableTask)} - {each.name for each in fields(Task)}
        text = section(page("options.md"), "The task decorator")
        self.assertCountEqual(first_cells(text), known)


class CommandTests(SimpleTestCase):
    def test_each_command_with_all_its_flags(self):
        text = page("commands.md")
        ours = {name for name, app in get_commands().items() if app == "durable_tasks"}
        self.assertCountEqual(re.findall(r"^## (\w+)$", text, re.M), ours | {"serve"})
        for name in sorted(ours | {"serve"}):
            app = "durable_tasks.contrib.serve" if name == "serve" else "durable_tasks"
            parser = load_command_class(app, name).create_parser("manage.py", name)
            known = {
                option
                for action in parser._actions
                for option in action.option_strings
                if option not in OF_DJANGO and action.help != SUPPRESS
            }
            words = " ".join(first_cells(section(text, name)))
            with self.subTest(name):
                self.assertEqual(set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", words)), known)


class NameTests(SimpleTestCase):
    def setUp(self):
        self.text = page("api.md")

    def assert_named(self, names):
        missing = [name for name in names if not re.search(rf"`[^`]*\b{name}\b[^`]*`", self.text)]
        self.assertEqual(missing, [])

    def test_each_public_name(self):
        self.assert_named(durable_tasks.__all__)
        self.assert_named(testing.__all__)
        models_ = [name for name in models.__all__ if not name.isupper()]
        self.assert_named(set(models_) - {"JobQuerySet", "PartialIndex"})

    def test_each_exception(self):
        known = [
            name for name, each in getmembers(exceptions, isclass) if issubclass(each, Exception)
        ]
        self.assert_named(known)
        self.assertEqual(
            set(first_cells(section(self.text, "Exceptions"))), set(known) - {"DurableTasksError"}
        )

    def test_each_word_of_a_queryset(self):
        own = [name for name in vars(models.JobQuerySet) if not name.startswith("_")]
        self.assert_named(own)
        found = first_cells(section(self.text, "Querysets of jobs"))
        self.assertEqual({each.partition("(")[0] for each in found} - set(own), set())

    def test_each_signal_and_logger(self):
        from django.dispatch import Signal

        from durable_tasks import signals

        self.assert_named(name for name, each in vars(signals).items() if isinstance(each, Signal))
        loggers = {
            name
            for text in sources().values()
            for name in re.findall(r"""getLogger\(["']([\w.]+)""", text)
        }
        self.assertTrue(loggers)
        self.assert_named(loggers)

    def test_arguments_and_their_defaults(self):
        for heading, of in {
            "`durable_tasks`": durable_tasks,
            "Results": durable_tasks.DurableTaskResult,
            "The backend": durable_tasks.DatabaseBackend,
            "Querysets of jobs": models.JobQuerySet,
            "Pauses": import_module("durable_tasks.pauses"),
            "Wishes to workers": None,
            "Health and metrics": None,
        }.items():
            found = re.findall(r"`([\w.]+\.)?(\w+)\((?!\.)([^`]+)\)`", section(self.text, heading))
            self.assertTrue(found, heading)
            for module, name, arguments in found:
                place = import_module(module.rstrip(".")) if module else of
                written = arguments_of(eval(f"lambda {arguments}: None"))
                known = arguments_of(getattr(place, name))
                with self.subTest(heading, name=name):
                    self.assertEqual([each for each in known if each in written], written)

    def test_what_is_to_be_imported_from_modules(self):
        for name, members in PUBLIC.items():
            module = import_module(f"durable_tasks.{name}")
            for member in members:
                self.assertTrue(hasattr(module, member), f"{name}.{member}")
            self.assert_named([f"durable_tasks.{name}", *members])


class StatusTests(SimpleTestCase):
    def test_each_status_with_its_moves(self):
        rows = re.findall(r"^\| `([A-Z]+)` \|[^|]*\| ([^|]*) \|", page("statuses.md"), re.M)
        found = {status: set(re.findall(r"`([A-Z]+)`", moves)) for status, moves in rows}
        self.assertEqual(
            found, {str(status): set(map(str, moves)) for status, moves in MOVES.items()}
        )
        self.assertEqual(set(found), set(JobStatus.values))


class CheckTests(SimpleTestCase):
    def test_each_id(self):
        known = {
            each
            for text in sources().values()
            for each in re.findall(r"durable_tasks\.[EWI]\d{3}", text)
        }
        self.assertGreater(len(known), 10)
        self.assertCountEqual(first_cells(page("checks.md")), known)


@skipUnless(find_spec("prometheus_client") or os.environ.get("CI"), "prometheus-client is missing")
class MetricTests(TestCase):
    def test_each_metric_with_its_labels(self):
        from durable_tasks.metrics import Collector

        known = {
            metric.name + "_total" * (metric.type == "counter"): (metric.type, metric._labelnames)
            for metric in Collector().collect()
        }
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", page("metrics.md"), re.M)
        found = {name: (kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}
        self.assertEqual(found, {name: (kind, tuple(of)) for name, (kind, of) in known.items()})

    def test_how_many_time_series(self):
        from durable_tasks.metrics import Collector

        backend = Counter(each for metric in Collector().collect() for each in samples(metric))
        models.Statistic.objects.create(
            backend_name="default",
            period=0,
            begins=0,
            queue_name="gone",
            task_path="shop.tasks.pay",
        )
        make_jobs(queue_name="mail")
        all_ = Counter(each for metric in Collector().collect() for each in samples(metric))
        known = [all_["task"], all_["gone"], all_["mail"], backend["backend"]]
        table = section(page("metrics.md"), "How many time series")
        found = re.findall(r"^\| (?:task, |queue |backend ).*\| (\d+)", table, re.M)
        self.assertEqual(list(map(int, found)), known)


class SettingTests(SimpleTestCase):
    def test_each_variable_of_the_environment(self):
        text = page("settings.md")
        found = set()
        for each in sources().values():
            found |= set(re.findall(r"""(?:environ(?:\.get\(|\[)|getenv\()["']([A-Z_]+)""", each))
            found |= set(re.findall(r"""["']([A-Z_]+)["'] (?:not )?in os\.environ""", each))
            found |= set(re.findall(r"""from_environment\(["']([A-Z_]+)""", each))
        mule = (SOURCE / "contrib" / "mule.py").read_text()
        found |= {f"DURABLE_TASKS_{name}" for name in re.findall(r'read\("([A-Z_]+)"', mule)}
        self.assertGreater(len(found), 5)
        self.assertEqual([name for name in sorted(found) if f"`{name}`" not in text], [])

    def test_each_setting_of_django_that_is_read(self):
        text = page("settings.md")
        found = {
            name
            for each in sources().values()
            for name in re.findall(r"""\bsettings(?:\.|, ["'])([A-Z][A-Z_]+)""", each)
        }
        of_serve = {"WSGI_APPLICATION", "ASGI_APPLICATION", "BASE_DIR"}  # on its own page
        self.assertEqual([name for name in found - of_serve if f"`{name}" not in text], [])


class NavigationTests(SimpleTestCase):
    def test_each_page_is_in_the_navigation(self):
        named = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
        there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
        self.assertEqual(there - set(named), set())
        self.assertEqual(len(named), len(set(named)))
        self.assertTrue(Path(DOCS, "index.md").exists())
