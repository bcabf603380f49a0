"""A project with the settings of django-tasks-db's README, verbatim, as its users go about it."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import skipUnless
from uuid import UUID

from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from django_tasks_db.models import DBTaskResult
from durable_tasks.compat import EXPRESSION_IDS, task_enqueued, task_finished, task_started
from durable_tasks.models import Job
from tests.app import tasks
from tests.helpers import (
    ROOT,
    WorkerProcess,
    WorkerTestCase,
    ended,
    environment,
    eventually,
    run_command,
    run_worker,
    running,
    running_worker,
    tasks_setting,
    work,
)
from tests.store.jobs import make_jobs

PROJECT = "tests.dropins.django_tasks_db_project"


def settings(name: str = "settings") -> dict[str, str]:
    return {"DJANGO_SETTINGS_MODULE": f"{PROJECT}.{name}"}


def shell(code: str, name: str = "settings") -> Any:
    """Run code in the project's shell and return the JSON that it prints."""
    code = f"import json\nfrom {PROJECT}.tasks import *\n{code}"
    done = run_command("shell", "-v", "0", "-c", code, env=settings(name))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class ReadmeTests(WorkerTestCase):
    def test_nothing_is_wrong_and_no_migration_is_missing(self) -> None:
        for words in (("check",), ("migrate", "--check"), ("makemigrations", "--check")):
            with self.subTest(words):
                done = run_command(*words, env=settings())
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(done.stderr, "")

    def test_enqueue_work_look_and_prune(self) -> None:
        ids = shell(
            "from datetime import timedelta\n"
            "from django.utils import timezone\n"
            "later = timezone.now() + timedelta(days=1)\n"
            "made = [greet.enqueue('Ada', word='Hi'), attempt.enqueue(), fail.enqueue(),\n"
            "    greet.using(run_after=later).enqueue('Eve')]\n"
            "print(json.dumps([made.id for made in made]))"
        )
        run_worker("--worker-id", "w", env=settings())
        shown = shell(
            f"ids = {ids}\n"
            "from django_tasks_db.models import DBTaskResult\n"
            "results = [greet.get_result(ids[0]), attempt.get_result(ids[1])]\n"
            "failed = DBTaskResult.objects.failed().get()\n"
            "print(json.dumps({\n"
            "    'values': [each.return_value for each in results],\n"
            "    'rows': [each.db_result.status for each in results],\n"
            "    'failed': [failed.task_name, failed.exception_class_path, failed.worker_ids],\n"
            "    'error': failed.task_result.errors[0].traceback.splitlines()[-1],\n"
            "    'waiting': [str(row.pk) for row in DBTaskResult.objects.filter(status='READY')],\n"
            "    'ready': DBTaskResult.objects.ready().count(),\n"
            "}))"
        )
        self.assertEqual(
            shown,
            {
                "values": ["Hi, Ada!", [1, ids[1]]],
                "rows": ["SUCCESSFUL", "SUCCESSFUL"],
                "failed": ["fail", "builtins.LookupError", ["w"]],
                "error": "LookupError: nothing there",
                "waiting": ids[3:],
                "ready": 0,
            },
        )
        for options, words in (
            (("--min-age-days", "0", "--dry-run"), "Would delete 3 results."),
            (("--min-age-days", "0", "--failed-min-age-days", "1"), "Deleted 2 results."),
            (("--backend", "default", "--queue-name", "*", "--min-age-days=0"), "Deleted 1 "),
        ):
            done = run_command("prune_db_task_results", *options, env=settings())
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn(words, done.stdout)
        self.assertEqual([str(job.pk) for job in Job.objects.all()], ids[3:])

    def test_a_worker_runs_what_comes_until_it_is_told_to_stop(self) -> None:
        line = ("--queue-name", "*", "--exclude-queues", "slow", "--interval", "0.1")
        with running_worker(*line, "--backend", "default", env=settings()) as worker:
            [job] = make_jobs(1, task_path=f"{PROJECT}.tasks.greet", args=["Bob"])
            self.assertEqual(ended(job).return_value, "Hello, Bob!")
            self.assertEqual(worker.stop(), 0)
        with running_worker("--max-tasks", "1", env=settings()) as worker:
            jobs = make_jobs(2, task_path=f"{PROJECT}.tasks.greet", args=["Bob"])
            self.assertEqual(worker.wait(), 0)
        left = Job.objects.ready().filter(pk__in=[job.pk for job in jobs])
        self.assertEqual(left.count(), 1)

    def test_in_debug_the_worker_reloads_when_code_changes(self) -> None:
        with copied_project() as (folder, worker):
            code = (folder / "tasks.py").read_text()
            [job] = make_jobs(1, task_path="project.tasks.greet", args=["Bob"])
            self.assertEqual(ended(job).return_value, "Hello, Bob!")

            def changed() -> bool:
                # Again and again: the reloader only sees what changes after its first look.
                (folder / "tasks.py").write_text(code.replace("Hello", "Goodbye"))
                [job] = make_jobs(1, task_path="project.tasks.greet", args=["Bob"])
                return bool(ended(job).return_value == "Goodbye, Bob!")

            eventually(changed, worker.output)

    def test_ids_are_made_by_the_id_function(self) -> None:
        made = shell("print(json.dumps([greet.enqueue('Ada').id]))", "settings_uuid7")
        self.assertEqual(UUID(made[0]).version, 7)
        self.assertEqual(str(Job.objects.get().pk), made[0])

    @skipUnless(connection.vendor == "postgresql" and EXPRESSION_IDS, "Django 6.0, PostgreSQL")
    def test_ids_are_made_by_the_database(self) -> None:
        [made] = shell(
            "print(json.dumps([greet.enqueue('Ada').db_result.task_result.id]))",
            "settings_random_uuid",
        )
        self.assertEqual(UUID(made).version, 4)
        run_worker(env=settings("settings_random_uuid"))
        self.assertEqual(Job.objects.get(pk=made).return_value, "Hello, Ada!")


@contextmanager
def copied_project() -> Iterator[tuple[Path, WorkerProcess]]:
    """Give the folder of a copy of the project with DEBUG on, and a worker that runs it."""
    with tempfile.TemporaryDirectory(prefix="durable-tasks-project-") as name:
        folder = Path(name) / "project"
        shutil.copytree(Path(__file__).parent / PROJECT.rpartition(".")[2], folder)
        with (folder / "settings.py").open("a") as file:
            file.write("DEBUG = True\n")
        variables = environment(
            {
                "DJANGO_SETTINGS_MODULE": "project.settings",
                "PYTHONPATH": f"{name}:{ROOT}:{':'.join(sys.path)}",
                # A change within a second of the one before would be taken for the same file.
                "PYTHONDONTWRITEBYTECODE": "1",
            }
        )
        command = [sys.executable, "-m", "django", "db_worker", "--no-startup-delay"]
        with running(command, variables, Path(name)) as worker:
            yield folder, worker


class CallTests(WorkerTestCase):
    def test_tests_call_the_commands_in_their_own_process(self) -> None:
        quiet: dict[str, Any] = {"verbosity": 0, "skip_checks": True}
        worker = {"batch": True, "startup_delay": False, "reload": False, "interval": 0, **quiet}
        for backend, queues in (
            ({}, {}),
            ({"backend_name": "default"}, {"queue_name": "*", "exclude_queues": "slow"}),
            ({"backend": "default"}, {"queue_name": "default,other"}),
        ):
            result = tasks.add.enqueue(1, 2)
            call_command("db_worker", max_tasks=1, worker_id="w", **backend, **queues, **worker)
            self.assertEqual(DBTaskResult.objects.get(pk=result.id).worker_ids, ["w"])
            ages: dict[str, Any] = {"min_age_days": 0, "failed_min_age_days": 0, "dry_run": False}
            call_command("prune_db_task_results", queue_name="*", **backend, **ages, **quiet)
            self.assertFalse(DBTaskResult.objects.exists())


class ResultTests(WorkerTestCase):
    def test_results_know_their_rows(self) -> None:
        seen: list[tuple[str, str]] = []

        def receiver(signal: Any, task_result: Any, **kwargs: Any) -> None:
            row = task_result.db_result
            self.assertIsInstance(row, DBTaskResult)
            self.assertEqual(row.status, task_result.status)
            seen.append((str(row.pk), row.status))

        for signal in (task_enqueued, task_started, task_finished):
            signal.connect(receiver)
            self.addCleanup(signal.disconnect, receiver)
        with override_settings(TASKS=tasks_setting("django_tasks_db.DatabaseBackend")):
            result = tasks.add.enqueue(1, 2)
            self.assertEqual(result.db_result.args_kwargs, {"args": [1, 2], "kwargs": {}})
            work()
            self.assertEqual(tasks.add.get_result(result.id).db_result.return_value, 3)
        self.assertEqual(
            seen, [(result.id, "READY"), (result.id, "RUNNING"), (result.id, "SUCCESSFUL")]
        )
        row = result.db_result
        self.assertIs(row, result.db_result)
        row.refresh_from_db()
        self.assertEqual((row.return_value, row.worker_ids != []), (3, True))
        Job.objects.all().delete()
        with self.assertRaises(DBTaskResult.DoesNotExist):
            result.db_result.refresh_from_db()

    async def test_async_code_sees_the_row(self) -> None:
        result: Any = await tasks.add.aenqueue(1, 2)
        self.assertEqual((str(result.db_result.pk), result.db_result.status), (result.id, "READY"))
        self.assertEqual(result.db_result.args_kwargs, {"args": [1, 2], "kwargs": {}})
