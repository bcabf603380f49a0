"""What the real packages have stored is adopted, and their results read as they did before.

With ``DURABLE_TASKS_LONG=1`` there are thousands of rows, and the packages' older versions.
"""

import json
import os
import subprocess
import time
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from unittest import SkipTest, skipIf, skipUnless

from django.core.management import call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from durable_tasks.compat import task_backends
from durable_tasks.models import Job

from ..app.models import Effect
from ..environments import InstallFailed, make_environment
from ..helpers import (
    ROOT,
    WorkerTestCase,
    eventually,
    let_go,
    run_command,
    running,
    running_worker,
)
from .old import drop_tables
from .project.results import seen

LONG = bool(os.environ.get("DURABLE_TASKS_LONG"))
PATIENCE = 900 if LONG else 60
DRIVE = "tests.adoption.project.drive"
WORKER_LOST = "durable_tasks.exceptions.WorkerLost"

# How many of each are made: waiting, deferred, running, successful and failed.
WAITING, DEFERRED, RUNNING, ENDED = (1000, 200, 50, 5000) if LONG else (30, 10, 2, 30)
# Seconds after which half of the deferred ones are due.
SOON = 60 if LONG else 3


def python_with(requirement):
    """Return the Python of an environment with a package, and our Django and drivers."""
    wanted = [f"Django=={version('Django')}", f"psycopg[binary]=={version('psycopg')}"]
    if find_spec("MySQLdb"):
        wanted.append(f"mysqlclient=={version('mysqlclient')}")
    name = requirement.replace("==", "-")
    try:
        return make_environment(ROOT / ".venvs" / name, [*wanted, requirement])
    except InstallFailed as error:
        if os.environ.get("CI"):
            raise
        raise SkipTest(str(error)) from error


class Package:
    """The test of one package. ``backport``: whether it is made for Django's backport."""

    name = ""
    requirement = ""
    table = ""
    backport = False

    def setUp(self):
        super().setUp()
        self.python = python_with(self.requirement)
        known = set(MigrationRecorder.Migration.objects.values_list("app", flat=True))
        self.addCleanup(drop_tables)
        self.addCleanup(lambda: MigrationRecorder.Migration.objects.exclude(app__in=known).delete())
        database = {
            key: connection.settings_dict[key]
            for key in ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
        }
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
            "DJANGO_SETTINGS_MODULE": "tests.adoption.project.settings",
            "OLD_PACKAGE": self.name,
            "OLD_DATABASES": json.dumps({"default": {**database, "NAME": str(database["NAME"])}}),
            "OLD_BACKPORT": "1" if self.backport else "",
        }
        self.run_theirs("django", "migrate", "-v0")

    def theirs(self, *words):
        return [str(self.python), "-m", *words]

    def run_theirs(self, *words, given=None):
        """Run a command in their environment and return what it printed."""
        done = subprocess.run(
            self.theirs(*words),
            cwd=ROOT,
            env=self.env,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def enqueue(self, *kinds):
        """Enqueue with their package; return the ids by key."""
        return dict(json.loads(self.run_theirs(DRIVE, "enqueue", given=kinds)))

    def rows(self, status):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM {self.table} WHERE status = %s", [status])
            return cursor.fetchone()[0]

    def wait_for(self, status, count):
        eventually(
            lambda: self.rows(status) >= count,
            lambda: f"{count} are {status}; there are {self.rows(status)}",
            PATIENCE,
        )

    def fill(self):
        """Enqueue rows of every kind, and have the ones run that are to have run.

        Returns the ids by key: all, those to run at once, those that are due soon, and later.
        """
        history = self.enqueue(
            ("give", "good", ENDED, {"value": [1, {"é": None}]}, {"priority": 3}, None),
            ("fail", "bad", ENDED, {}, {"queue_name": "mail"}, None),
        )
        self.work_off(2 * ENDED)
        now = self.enqueue(("hold", "held", RUNNING, {}, {}, None))
        with running(self.holder(), self.env) as process:
            self.wait_for("RUNNING", RUNNING)
            self.see_alive()
            process.kill()
        waiting = self.enqueue(
            ("mark", "waiting", WAITING, {}, {"priority": -5}, None),
            ("mark", "soon", DEFERRED // 2, {}, {}, SOON),
            ("mark", "later", DEFERRED // 2, {}, {"queue_name": "mail"}, 3600),
        )
        soon, later = (
            {key: id for key, id in waiting.items() if key.startswith(word)}
            for word in ("soon", "later")
        )
        ids = history | now | waiting
        now |= {key: id for key, id in waiting.items() if key.startswith("waiting")}
        return ids, now, soon, later

    def assert_as_before(self, before):
        """Our results say what theirs said, but for those that were running."""
        backend = task_backends["default"]
        for id, old in before.items():
            new = seen(backend.get_result(id))
            if old["status"] == "RUNNING":
                self.assertEqual((new.pop("status"), old.pop("status")), ("READY", "RUNNING"))
                [(path, _)] = new.pop("errors")
                self.assertEqual((path, old.pop("errors")), (WORKER_LOST, []))
            self.assertEqual(new, old)
        jobs = Counter(Job.objects.values_list("status", flat=True))
        self.assertEqual((jobs["SUCCESSFUL"], jobs["FAILED"]), (ENDED, ENDED))
        self.assertEqual(jobs["SCHEDULED"] + jobs["READY"], WAITING + DEFERRED + RUNNING)

    def assert_run_once(self, now, soon, later):
        """Our worker runs each once that is due, and none before."""
        left = Job.objects.exclude(id__in=later.values()).exclude(
            status__in=("SUCCESSFUL", "FAILED")
        )
        let_go()
        with running_worker("--queue-name", "*", "--threads", "4") as worker:
            eventually(lambda: not left.exists(), "all that is due has ended", PATIENCE)
            self.assertEqual(worker.stop(), 0)
        effects = list(Effect.objects.exclude(key="go").values_list("key", "at"))
        self.assertEqual(Counter(key for key, _ in effects), Counter([*now, *soon]))
        due = {str(job.id): job.run_after for job in Job.objects.filter(id__in=soon.values())}
        for key, at in effects:
            if key in soon:
                self.assertGreaterEqual(at, due[soon[key]])
        waiting = {str(id) for id in Job.objects.scheduled().values_list("id", flat=True)}
        self.assertEqual(waiting, set(later.values()))

    def test_everything_is_adopted(self):
        began = time.monotonic()
        ids, now, soon, later = self.fill()
        before = json.loads(self.run_theirs(DRIVE, "show", given=list(ids.values())))
        self.forget_workers()
        filled = time.monotonic()
        adopted = run_command("adopt_tasks")
        took = time.monotonic() - filled
        self.assertEqual((adopted.returncode, adopted.stderr), (0, ""))
        self.assertIn(f": {len(ids):,} tasks adopted", adopted.stdout)
        self.assert_as_before(before)
        self.assert_run_once(now, soon, later)
        again = StringIO()
        call_command("adopt_tasks", stdout=again)
        self.assertIn(": 0 tasks adopted", again.getvalue())
        self.assertEqual(Job.objects.count(), len(ids))
        if LONG:
            print(
                f"\n{self.requirement} on {connection.vendor}: {len(ids)} rows made in "
                f"{filled - began:.0f} s, adopted in {took:.1f} s, all in "
                f"{time.monotonic() - began:.0f} s"
            )


here = skipIf(os.environ.get("DURABLE_TASKS_LEG"), "They are tested with one Python and Django.")
in_full = skipUnless(LONG, "An older version: in the long form.")


@here
class DjangoTasksDbTests(Package, WorkerTestCase):
    name = "django-tasks-db"
    requirement = "django-tasks-db==0.13.0"
    table = "django_tasks_database_dbtaskresult"

    def work_off(self, count):
        words = ("--batch", "--no-startup-delay", "--no-reload", "--queue-name", "*")
        self.run_theirs("django", "db_worker", *words)
        self.assertEqual(self.rows("SUCCESSFUL") + self.rows("FAILED"), count)

    def holder(self):
        return self.theirs(DRIVE, "workers", str(RUNNING))

    def see_alive(self):
        """Nothing in its table tells."""

    def forget_workers(self):
        """It has none."""


@here
class DjangoDbtasksTests(Package, WorkerTestCase):
    name = "django-dbtasks"
    requirement = "django-dbtasks==0.5.0"
    table = "dbtasks_scheduledtask"

    def runner(self, name, threads):
        words = ("--worker-id", name, "--workers", str(threads), "--delay", "0.01")
        return self.theirs("django", "taskrunner", *words)

    def work_off(self, count):
        with running(self.runner("first", 8), self.env):
            eventually(
                lambda: self.rows("SUCCESSFUL") + self.rows("FAILED") >= count,
                lambda: f"{count} end; {self.rows('READY')} are left",
                PATIENCE,
            )

    def holder(self):
        return self.runner("second", RUNNING)

    def see_alive(self):
        refused = run_command("adopt_tasks")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("A taskrunner of django-dbtasks is alive", refused.stderr)
        self.assertEqual(Job.objects.count(), 0)

    def forget_workers(self):
        if not LONG:  # as if half a minute had passed
            with connection.cursor() as cursor:
                cursor.execute("UPDATE dbtasks_worker SET last_seen = '2020-01-01 00:00:00'")


@in_full
@here
class OlderDjangoTasksDbTests(DjangoTasksDbTests):
    requirement = "django-tasks-db==0.12.0"
    backport = True

    def setUp(self):
        if connection.vendor == "mysql":
            self.skipTest("Its migrations rename an index that MariaDB does not have.")
        super().setUp()


@in_full
@here
class OlderDjangoDbtasksTests(DjangoDbtasksTests):
    requirement = "django-dbtasks==0.4.0"

    def see_alive(self):
        """It has no table that tells."""
