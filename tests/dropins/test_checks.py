"""What ``manage.py check`` says about the drop-ins."""

import importlib
import os
import sys
import tempfile
from pathlib import Path
from unittest import skipIf, skipUnless

import django
from django.test import SimpleTestCase

from durable_tasks_dropins import checks
from tests.helpers import run_command

from .test_django_tasks_db import settings

HAS_TASKS = django.VERSION >= (6, 0)


class ChecksTestCase(SimpleTestCase):
    """Tests with a folder on the path for modules."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        before = set(sys.modules)
        sys.path.insert(0, str(self.folder))
        self.addCleanup(lambda: [sys.modules.pop(name) for name in set(sys.modules) - before])
        self.addCleanup(sys.path.remove, str(self.folder))

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        importlib.invalidate_caches()


class DistributionTests(ChecksTestCase):
    def test_nothing_is_said_where_the_dropins_are_alone(self) -> None:
        self.assertEqual(checks.check_distributions(), [])

    def test_an_original_package_beside_the_dropins_is_an_error_with_the_fix(self) -> None:
        for name in ("django-tasks-db", "django-dbtasks"):
            with self.subTest(name):
                metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.5\n"
                self.write(f"{name.replace('-', '_')}-0.5.dist-info/METADATA", metadata)
                error = checks.check_distributions()[-1]
                self.assertIn(f"{name} is installed beside django-durable-tasks-dropins", error.msg)
                hint = f"pip uninstall {name} django-durable-tasks-dropins"
                self.assertIn(hint, str(error.hint))
                self.assertEqual(error.id, "durable_tasks_dropins.E001")
                self.assertTrue(error.is_serious())
        path = os.pathsep.join(sys.path)
        # Where durable_tasks alone is of ours, too: apps.py of a drop-in may be the original's.
        for project in (settings(), {}):
            done = run_command("check", env={**project, "PYTHONPATH": path})
            self.assertEqual(done.returncode, 1)
            for name in ("django-tasks-db", "django-dbtasks"):
                self.assertIn(f"(durable_tasks_dropins.E001) {name} is installed", done.stderr)


class BackportTests(ChecksTestCase):
    def setUp(self) -> None:
        super().setUp()
        if HAS_TASKS:  # else it is there
            self.write(
                "django_tasks/__init__.py",
                "from django.core.signals import setting_changed\n\n\ndef task(function): ...\n",
            )
            self.write(
                "django_tasks/signals.py",
                "from django.dispatch import Signal\n\ntask_finished = Signal()\n",
            )

    def use(self, name: str, text: str) -> None:
        self.write(f"{name}.py", text)
        importlib.import_module(name)

    @skipUnless(HAS_TASKS, "Django 6.0")
    def test_modules_that_use_the_backport_are_named(self) -> None:
        self.assertEqual(checks.check_backport(), [])
        self.use("by_name", "from django_tasks import task as job")
        self.use("by_signal", "from django_tasks.signals import task_finished")
        self.use("by_module", "import django_tasks")
        self.use("not_at_all", "from django.core.signals import setting_changed")
        [warning] = checks.check_backport()
        self.assertIn(
            "Imported from django_tasks, the backport for Django 5.2: "
            "by_module, by_name, by_signal.",
            warning.msg,
        )
        self.assertIn('"from django.tasks import task"', str(warning.hint))
        self.assertEqual((warning.id, warning.is_serious()), ("durable_tasks_dropins.W001", False))

    @skipUnless(HAS_TASKS, "Django 6.0")
    def test_tasks_that_nobody_has_imported_yet_are_found(self) -> None:
        self.write("unseen/__init__.py", "")
        self.write("unseen/tasks.py", "from django_tasks import task")
        self.write("broken/__init__.py", "")
        self.write("broken/tasks.py", "1 / 0")
        with self.settings(INSTALLED_APPS=["broken", "unseen"]):
            [warning] = checks.check_backport()
        self.assertIn("Django 5.2: unseen.tasks.", warning.msg)

    @skipIf(HAS_TASKS, "Django 5.2")
    def test_on_django_52_tasks_come_from_it(self) -> None:
        self.use("by_name", "from django_tasks import task")
        self.assertEqual(checks.check_backport(), [])
