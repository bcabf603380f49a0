"""The site and its tasks with one command: a real server, a real worker beside it."""

import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from unittest import mock, skipUnless

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import SimpleTestCase, override_settings

from durable_tasks.contrib.serve import beside
from durable_tasks.contrib.serve.application import load_site, path_of
from durable_tasks.contrib.serve.beside import WorkerBeside
from durable_tasks.contrib.serve.management.commands import serve
from durable_tasks.models import Job, Worker
from durable_tasks.worker.process import process_start
from durable_tasks.worker.stopping import DISMISSED, RENEW

from ..app import tasks
from ..app.models import Effect
from ..helpers import PATIENCE, WorkerTestCase, ended, eventually, held, let_go, tasks_setting
from ..servers import free_port
from .project import FILES, may_expect, site

needs_granian = skipUnless(
    may_expect(find_spec("granian") and find_spec("watchfiles")),
    "Granian is not installed: the extra `serve`.",
)


@pytest.mark.any_database
class ValueTests(SimpleTestCase):
    def test_addresses_are_those_of_runserver(self):
        for text, parsed in (
            ("8000", (None, 8000)),
            ("0.0.0.0:80", ("0.0.0.0", 80)),
            ("[::1]:8000", ("::1", 8000)),
            ("localhost:8000", ("localhost", 8000)),
        ):
            self.assertEqual(serve.address(text), parsed)

    def assert_refused(self, message, *arguments):
        said = StringIO()
        with (
            self.subTest(arguments=arguments),
            redirect_stderr(said),
            self.assertRaises(SystemExit) as ending,
        ):
            serve.Command().run_from_argv(["manage.py", "serve", "--skip-checks", *arguments])
        self.assertNotIn(ending.exception.code, (0, None))
        self.assertIn(message, said.getvalue())
        self.assertEqual(len(said.getvalue().splitlines()), 1, said.getvalue())

    def test_each_bad_value_is_one_line(self):
        for message, *arguments in (
            ("addrport: must be a port, 1 to 65535, not 'x'", "x"),
            ("addrport: must be a port, 1 to 65535, not '65536'", "127.0.0.1:65536"),
            ("addrport: must be PORT, ADDRESS:PORT or [IPV6 ADDRESS]:PORT, not '::1:80'", "::1:80"),
            ("addrport: must be PORT", ":8000"),
            ("--port: must be a port, 1 to 65535, not '0'", "-p", "0"),
            ("--tasks: must be a whole number above 0", "-k", "many"),
            ("--reload: must be a folder, not '/no/such'\n", "-r", "/no/such"),
            ("not '8124'. If it is the port, write it before --reload", "-r", "8124"),
            ("--workers: must be a whole number above 0", "-w", "0"),
            ("--threads: must be a whole number above 0", "-t", "0"),
            ("--worker-id: must have 1 to 200 characters", "-i", ""),
            ("--delay: must be a number of seconds", "--delay", "soon"),
        ):
            self.assert_refused(message, *arguments)

    @needs_granian
    def test_so_is_what_contradicts(self):
        port = str(free_port())
        for message, *arguments in (
            ("Say the port once", "8000", "-p", "8000"),
            ("--threads: an ASGI application has its own", "-a", "-t", "2"),
            ("There is no task backend 'nope'", port, "-k", "-b", "nope"),
            ("8001 threads are too many", port, "-k", "8001"),
            ("--tasks works only on the command line of manage.py", port, "-k"),
            ("can't listen at 198.51.100.1, port 80: ", "198.51.100.1:80"),  # of nobody
            ("can't listen at a..b, port 80: ", "a..b:80"),
        ):
            self.assert_refused(message, *arguments)

    @needs_granian
    @override_settings(TASKS=tasks_setting(immediate=True))
    def test_so_are_tasks_that_run_where_they_are_enqueued(self):
        self.assert_refused('["immediate"] is on: tasks run', str(free_port()), "-k")

    def test_the_command_line_comes_before_the_environment(self):
        one, two = free_port(), free_port()
        environment = {"GRANIAN_HOST": "0.0.0.0", "GRANIAN_PORT": str(one)}
        for addrport, port, place in (
            ((None, None), None, ("0.0.0.0", one)),
            ((None, None), two, ("0.0.0.0", two)),
            ((None, two), None, ("0.0.0.0", two)),
            (("127.0.0.1", two), None, ("127.0.0.1", two)),
        ):
            with mock.patch.dict(os.environ, environment):
                found = serve.Command().place({"addrport": addrport, "port": port})
            self.assertEqual(found, place)

    @needs_granian
    def test_so_is_what_the_environment_says(self):
        with mock.patch.dict(os.environ, {"GRANIAN_PORT": "http"}):
            self.assert_refused("GRANIAN_PORT: must be a port, 1 to 65535, not 'http'")
        with mock.patch.dict(os.environ, {"GRANIAN_WORKERS": "0"}):
            self.assert_refused("GRANIAN_WORKERS: must be a whole number", "-p", str(free_port()))

    @needs_granian
    def test_a_port_that_is_taken_is_said(self):
        with socket.socket() as taken:
            # As Granian's own sockets: they would share it.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.assert_refused(
                f"can't listen at 127.0.0.1, port {port}: Address already", f"{port}"
            )

    @needs_granian
    def test_an_application_that_is_not_there_is_said(self):
        with override_settings(WSGI_APPLICATION="no.such.application"):
            self.assert_refused("WSGI_APPLICATION: 'no.such.application' can't be loaded: No mod")
        with override_settings(WSGI_APPLICATION="tests.wsgi.application"):
            self.assert_refused("ASGI_APPLICATION: 'tests.asgi.application' can't be loaded", "-a")

    def test_without_granian_it_names_the_extra(self):
        with mock.patch.dict(sys.modules, {"granian": None}):
            sys.modules.pop("durable_tasks.contrib.serve.server", None)
            self.assert_refused('install "django-durable-tasks[serve]"')

    def test_static_files_are_served_while_debugging_only(self):
        for asgi in (False, True):
            with override_settings(DEBUG=True):
                self.assertIn("StaticFilesHandler", type(load_site("", asgi=asgi)).__name__)
            self.assertNotIn("StaticFilesHandler", type(load_site("", asgi=asgi)).__name__)

    def test_the_asgi_application_is_beside_that_of_wsgi_unless_it_is_named(self):
        for wsgi, asgi, path in (
            (None, None, ""),
            ("a.b.wsgi.application", None, "a.b.asgi.application"),
            ("wsgi.app", None, "asgi.app"),
            ("a.wsgi.application", "a.routing.application", "a.routing.application"),
        ):
            with override_settings(WSGI_APPLICATION=wsgi, ASGI_APPLICATION=asgi):
                self.assertEqual(path_of(asgi=True), path)
                self.assertEqual(path_of(asgi=False), wsgi or "")
        with (
            override_settings(WSGI_APPLICATION="a.server.application"),
            self.assertRaisesMessage(ImproperlyConfigured, "Set ASGI_APPLICATION"),
        ):
            path_of(asgi=True)


@pytest.mark.any_database
class BesideTests(SimpleTestCase):
    """The worker beside the site, without either."""

    @contextmanager
    def beside(self, *lives, grace=PATIENCE, patient=False):
        """Give a worker that lives these lives, one after the other; the last one again and again.

        Each is the text of a program.
        """
        with ExitStack() as stack:
            folder = Path(stack.enter_context(site(0)).folder)
            for number, text in enumerate(lives):
                (folder / f"{number}.py").write_text(text)
            text = (
                "import os, pathlib; here = pathlib.Path(__file__).parent; "
                "count = len(list(here.glob('began*'))); (here / f'began{count}').touch(); "
                f"exec((here / f'{{min(count, {len(lives) - 1})}}.py').read_text())"
            )
            (folder / "life.py").write_text(text)
            self.failed = []
            worker = WorkerBeside(
                [sys.executable, str(folder / "life.py")],
                "w",
                grace=grace,
                patient=patient,
                on_failure=lambda: self.failed.append(True),
            )
            self.lives = lambda: len(list(folder.glob("began*")))
            worker.start()
            try:
                yield worker
            finally:
                worker.stop()

    OBEYS = "os.write(0, b'ready\\n'); os.read(0, 1)"
    ENDS = "os.write(0, b'ready\\n'); raise SystemExit({})"
    DEAF = "import time; os.write(0, b'ready\\n'); time.sleep(60)"

    def began(self, count):
        eventually(lambda: self.lives() >= count, lambda: f"{self.lives()} of {count} lives began")

    def test_it_is_stopped_and_started_again_when_asked(self):
        with self.beside(self.OBEYS) as worker:
            self.began(1)
            worker.reload()
            self.began(2)
            worker.reload()
            worker.reload()
            self.began(3)
        self.assertIsNone(worker.failure)

    def test_one_that_dies_is_replaced(self):
        with self.assertLogs("durable_tasks") as logs, self.beside(self.ENDS.format(7), self.OBEYS):
            self.began(2)
        self.assertRegex(logs.output[0], "Worker w .* ended with exit code 7; starting it again")

    def test_one_that_can_not_work_is_told_once(self):
        with self.beside("os.write(0, b'no table'); raise SystemExit(1)") as worker:
            eventually(lambda: self.failed, "it fails")
            self.assertEqual(self.lives(), 1)
        self.assertEqual((str(worker.failure), worker.failure.exit_code), ("no table", 1))
        self.assertEqual(self.failed, [True])

    def test_while_code_changes_it_waits_for_the_next_change(self):
        with (
            self.assertLogs("durable_tasks") as logs,
            self.beside("raise SystemExit(1)", self.OBEYS, patient=True) as worker,
        ):
            eventually(lambda: logs.output, "it says what happened")
            self.assertIn("ended with exit code 1; waiting for a change.", logs.output[0])
            self.assertEqual(self.lives(), 1)
            worker.reload()
            self.began(2)
        self.assertEqual(self.failed, [])

    def test_one_that_does_not_end_in_time_is_killed(self):
        with (
            mock.patch.object(beside, "KILL_AFTER", 0),
            self.assertLogs("durable_tasks") as logs,
            self.beside(self.DEAF, grace=0.1),
        ):
            self.began(1)
        self.assertIn("Worker w did not stop in time and is killed", logs.output[0])

    def test_one_that_is_to_be_renewed_begins_again(self):
        with (
            self.assertLogs("durable_tasks") as logs,
            self.beside(self.ENDS.format(RENEW), self.OBEYS),
        ):
            self.began(2)
        self.assertIn("has reached its limit; starting it again", logs.output[0])

    def test_one_that_was_asked_to_stop_is_started_again_by_a_reload_only(self):
        with (
            self.assertLogs("durable_tasks") as logs,
            self.beside(self.ENDS.format(DISMISSED), self.OBEYS) as worker,
        ):
            eventually(lambda: logs.output, "it says what happened")
            self.assertIn("was asked to stop; the site goes on without it", logs.output[0])
            self.assertEqual(self.lives(), 1)
            worker.reload()
            self.began(2)
        self.assertEqual(self.failed, [])

    def test_a_stop_before_the_start_is_no_error(self):
        WorkerBeside(["x"], "w", grace=1, patient=False, on_failure=lambda: None).stop()


@needs_granian
class ServeTests(WorkerTestCase):
    @contextmanager
    def serving(self, *arguments, **env):
        """Give a site and its server, with a worker that is ready."""
        with site(free_port()) as made:
            line = ["-m", "django", "serve", str(made.port), "-k", "2", "-i", "beside", *arguments]
            with made.running(*line, **env) as server:
                eventually(
                    lambda: Worker.objects.exists() or server.process.poll() is not None,
                    "the worker starts",
                )
                yield made, server

    def ran(self, made):
        """Let the site enqueue a task; return what the task returned."""
        status, text = made.get("enqueue/")
        self.assertEqual(status, 200, text)
        eventually(lambda: Job.objects.finished().filter(id=text).exists(), "the job ends")
        job = Job.objects.get(id=text)
        self.assertEqual((job.status, job.worker_id), ("SUCCESSFUL", "beside"))
        return job.return_value

    def assert_looks_right(self, made):
        status, text = made.get("admin/login/")
        self.assertEqual(status, 200, text)
        self.assertIn("/static/admin/css/base.css", text)
        status, text = made.get("static/admin/css/base.css")
        self.assertEqual(status, 200)
        self.assertIn("--primary", text)

    def test_site_and_tasks_run_and_stop_together(self):
        with self.serving() as (made, server):
            self.assert_looks_right(made)
            self.assertEqual(self.ran(made), "one")
            result = tasks.hold.using(queue_name="any").enqueue("x")
            held("x")
            # As the terminal's Ctrl-C does.
            os.killpg(server.pid, signal.SIGINT)
            server.says("worker beside finishes what runs")
            self.assertEqual(result.job.status, "RUNNING")
            let_go()
            self.assertEqual(server.wait(), 0)
            self.assertEqual(result.job.status, "SUCCESSFUL")
            self.assertFalse(Worker.objects.exists())
            for text in ("Traceback", "refused to gracefully stop"):
                self.assertNotIn(text, server.output())

    def test_nothing_outlives_a_server_that_is_killed(self):
        with self.serving() as (made, server):
            self.assertEqual(self.ran(made), "one")
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            eventually(lambda: not Worker.objects.exists(), "the worker ends")
            eventually(made.is_closed, "the site ends")

    @contextmanager
    def busy(self, made):
        """Let a task and a request run for a minute; give the ids of their processes."""
        tasks.minute.enqueue("task")
        held("task")
        made.get("word/")  # it listens
        request = threading.Thread(target=made.ask, args=["hang/"])
        request.start()
        held("request")
        yield [int(effect.worker) for effect in Effect.objects.all()]
        request.join()

    @pytest.mark.any_database
    def test_nor_do_a_task_and_a_request_that_take_longer(self):
        with (
            self.serving(DURABLE_TASKS_TEST_SERVE_GRACE="1") as (made, server),
            self.busy(made) as processes,
        ):
            self.assertEqual([bool(process_start(pid)) for pid in processes], [True, True])
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            for pid in processes:
                eventually(lambda pid=pid: not process_start(pid), "the process ends")
            self.assertIn("what runs did not end within 1 s", server.output())

    @pytest.mark.any_database
    def test_a_second_signal_ends_them_at_once(self):
        with (
            # Not what ends them.
            self.serving(DURABLE_TASKS_TEST_SERVE_GRACE="3600") as (made, server),
            self.busy(made) as processes,
        ):
            server.send_signal(signal.SIGINT)
            server.says("Waiting up to 3600 s for the tasks that run")
            server.send_signal(signal.SIGINT)
            self.assertEqual(server.wait(), 128 + signal.SIGINT)
            for pid in processes:
                eventually(lambda pid=pid: not process_start(pid), "the process ends")
            self.assertIn("The tasks are stopped at once", server.output())

    @pytest.mark.any_database
    def test_a_terminal_that_is_closed_ends_a_server_that_reloads(self):
        with self.serving("--reload") as (made, server):
            self.assertEqual(self.ran(made), "one")
            os.killpg(server.pid, signal.SIGHUP)
            self.assertEqual(server.wait(), 0)
            self.assertFalse(Worker.objects.exists())
            self.assertTrue(made.is_closed())

    @pytest.mark.any_database
    def test_with_asgi(self):
        with self.serving("--asgi", "--workers", "2") as (made, server):
            self.assert_looks_right(made)
            self.assertEqual(self.ran(made), "one")
            self.assertEqual(server.stop(), 0)
            self.assertFalse(Worker.objects.exists())
            self.assertNotIn("Lifespan", server.output())

    @pytest.mark.any_database
    def test_a_change_reaches_both(self):
        with self.serving("--reload") as (made, server):
            self.assert_says(made, "one")
            made.write("tasks", FILES["tasks"].replace("one", "two"))
            self.assert_says(made, "two")
            # An error is waited out.
            made.write("settings", "def broken(")
            server.says("waiting for a change")
            made.write("tasks", FILES["tasks"].replace("one", "three"))
            made.write("settings", FILES["settings"])
            self.assert_says(made, "three")
            self.assertEqual(server.stop(), 0)
            self.assertFalse(Worker.objects.exists())

    def assert_says(self, made, word):
        """Wait until the site and its tasks have this word."""
        eventually(lambda: made.get("word/") == (200, word), f"the site says {word}")
        eventually(lambda: self.ran(made) == word, f"a task says {word}")

    def test_a_worker_that_is_killed_is_replaced_and_the_site_goes_on(self):
        with self.serving() as (made, server):
            result = tasks.hold.enqueue("x")
            held("x")
            os.kill(Worker.objects.get().pid, signal.SIGKILL)
            held("x", times=2)
            self.assertEqual(made.get("admin/login/")[0], 200)
            let_go()
            job = ended(result)
            self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 2, 1))
            self.assertEqual(server.stop(), 0)

    def test_tasks_that_can_not_run_end_the_site_and_say_why(self):
        name = "/no/such/folder/x" if connection.vendor == "sqlite" else "durable_no_such"
        with self.serving("--skip-checks", DURABLE_TASKS_TEST_DB_NAME=name) as (_, server):
            self.assertEqual(server.wait(), 1)
            said = server.output()
            self.assertEqual(said.count("CommandError: The database can't be used: "), 1, said)
            self.assertNotIn("Traceback", said)
