"""A worker in a mule of a real uWSGI."""

import os
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import skipUnless

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.test import SimpleTestCase

from durable_tasks.contrib.mule import from_options, settings_from
from durable_tasks.models import Wish, Worker
from durable_tasks.wishes import ask

from ..app import tasks
from ..helpers import WorkerTestCase, ended, eventually, held, let_go
from ..servers import free_port
from .project import may_expect, site

# Beside the Python that runs the tests, as pip installs it; or the system's.
UWSGI = shutil.which("uwsgi", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.any_database
class SettingsTests(SimpleTestCase):
    def test_without_variables_it_serves_every_queue(self):
        settings = settings_from({}, 1)
        self.assertEqual((settings.threads, settings.worker_id), (4, None))
        self.assertEqual((settings.queues.backend_name, settings.queues.names), ("default", None))

    def test_each_variable_counts(self):
        settings = settings_from(
            {
                "DURABLE_TASKS_THREADS": "2",
                "DURABLE_TASKS_QUEUES": "mail, reports",
                "DURABLE_TASKS_BACKEND": "default",
                "DURABLE_TASKS_WORKER_ID": "mule",
            },
            3,
        )
        self.assertEqual((settings.threads, settings.worker_id), (2, "mule-3"))
        self.assertEqual(settings.queues.names, ("mail", "reports"))

    def test_options_of_uwsgi_are_read_as_variables(self):
        options = {
            "master": True,
            "durable-tasks-threads": b"2",
            "durable-tasks-queues": [b"mail", b"reports"],
            "durable-tasks-worker-id": True,  # without a value
        }
        self.assertEqual(
            from_options(options),
            {
                "DURABLE_TASKS_THREADS": "2",
                "DURABLE_TASKS_QUEUES": "reports",
                "DURABLE_TASKS_WORKER_ID": "",
            },
        )

    def test_a_bad_value_is_an_error_that_names_the_variable(self):
        for name, value, message in (
            ("THREADS", "0", "must be a whole number above 0, not '0'"),
            ("QUEUES", ",", "it must name at least one queue"),
            ("BACKEND", "nope", "There is no task backend 'nope' in TASKS"),
            ("WORKER_ID", "w" * 199, "must have 1 to 200 characters, not 201"),
        ):
            with self.assertRaisesMessage(ImproperlyConfigured, f"DURABLE_TASKS_{name}: {message}"):
                settings_from({f"DURABLE_TASKS_{name}": value}, 1)


@skipUnless(may_expect(UWSGI), "uWSGI is not installed: pip install pyuwsgi.")
class MuleTests(WorkerTestCase):
    @contextmanager
    def running(self, *options, ready=True, **env):
        """Give a site and its uWSGI, with a worker in its mule."""
        with site(free_port()) as made:
            line = [
                *(UWSGI, "--master", "--need-app", "--http-socket", f"127.0.0.1:{made.port}"),
                *("--module", "project.wsgi:application"),
                *("--mule=durable_tasks.contrib.mule:taskrunner", *options),
                *("--set", "durable-tasks-worker-id=mule"),
                # A reload starts the program anew: the interpreter with what is installed here.
                f"--binary-path={sys.executable}",
            ]
            with made.running(*line, **env) as server:
                if ready:
                    self.ready()
                yield made, server

    def ready(self, other_than=None):
        """Wait until the worker has a row; return its process id."""
        rows = Worker.objects.filter(id="mule-1").exclude(pid=other_than)
        eventually(rows.exists, "the worker starts")
        return rows.get().pid

    def holds(self, key):
        """Return a result whose task runs."""
        result = tasks.hold.using(queue_name="any").enqueue(key)
        held(key)
        self.assertEqual(result.job.worker_id, "mule-1")
        return result

    def assert_ended_well(self, result):
        job = ended(result)
        self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 1, 0))

    def test_site_and_tasks_run_reload_and_stop_together(self):
        with self.running() as (made, server):
            status, text = made.get("enqueue/")
            self.assertEqual(status, 200, text)
            first = self.ready()
            result = self.holds("x")
            server.send_signal(signal.SIGHUP)
            server.says("gracefully killing workers")
            let_go("x")
            self.assert_ended_well(result)
            self.ready(other_than=first)
            result = self.holds("y")
            server.send_signal(signal.SIGINT)
            server.says("killing workers...")
            self.assertEqual(result.job.status, "RUNNING")
            let_go("y")
            self.assertEqual(server.wait(), 0)
            self.assert_ended_well(result)
            self.assertFalse(Worker.objects.exists())

    @pytest.mark.any_database
    def test_ctrl_c_lets_what_runs_end(self):
        with self.running("--die-on-term") as (_, server):
            result = self.holds("x")
            os.killpg(server.pid, signal.SIGINT)
            server.says("killing workers...")
            let_go()
            self.assertEqual(server.wait(), 0)
            self.assert_ended_well(result)
            self.assertFalse(Worker.objects.exists())

    @pytest.mark.any_database
    def test_a_mule_whose_worker_was_asked_to_stop_is_idle_until_a_reload(self):
        with self.running("--die-on-term") as (_, server):
            first = self.ready()
            ask(["mule-1"], Wish.STOP, router.db_for_write(Worker))
            server.says("This mule is idle until uWSGI reloads it")
            self.assertFalse(Worker.objects.exists())
            server.send_signal(signal.SIGHUP)
            self.ready(other_than=first)
            self.assertEqual(server.stop(), 0)

    def test_a_mule_that_is_killed_is_replaced_and_its_job_runs_again(self):
        with self.running("--die-on-term") as (_, server):
            result = self.holds("x")
            os.kill(self.ready(), signal.SIGKILL)
            held("x", times=2)
            let_go()
            job = ended(result)
            self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 2, 1))
            self.assertEqual(server.stop(), 0)
            self.assertFalse(Worker.objects.exists())

    @pytest.mark.any_database
    def test_what_is_wrong_is_said_and_does_not_keep_uwsgi_from_stopping(self):
        with self.running("--die-on-term", ready=False, DURABLE_TASKS_THREADS="many") as (
            _,
            server,
        ):
            server.says(
                "The mule can't run tasks: DURABLE_TASKS_THREADS: must be a whole number above 0"
            )
            self.assertEqual(server.stop(), 0)
