"""Several worker processes: started, replaced, renewed and stopped together."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import SimpleTestCase

from durable_tasks.exceptions import DurableTasksError
from durable_tasks.models import Job, Worker
from durable_tasks.worker.process import process_start, resident_mib
from durable_tasks.worker.restarts import MAX_FAILED_STARTS, STEADY, Restarts, how_it_ended
from durable_tasks.worker.stopping import CUT_SHORT, GAVE_UP, RENEW, STUCK, with_jitter
from durable_tasks.worker.supervisor import Supervisor, command_line

from ..app import tasks
from ..helpers import (
    PATIENCE,
    QUICK,
    ROOT,
    WorkerTestCase,
    effects,
    ended,
    environment,
    eventually,
    held,
    let_go,
    run_command,
    run_worker,
    running_worker,
    statuses,
)

# No worker of these tests is missed by its heartbeat: what is noticed is noticed otherwise.
NEVER = {"worker_timeout": 3600}
TWO = ("--processes", "2", "--worker-id", "w")


@pytest.mark.any_database
class RestartTests(SimpleTestCase):
    def setUp(self):
        self.restarts = Restarts()
        self.now = 1000.0

    def pause(self, lived, **how):
        """Return the pause after a worker that lived for so many seconds."""
        self.restarts.started(self.now)
        self.now += lived
        return self.restarts.ended(self.now, **{"worked": True, **how})

    def test_each_end_soon_after_the_start_is_followed_by_a_longer_pause(self):
        pauses = [self.pause(1) for _ in range(9)]
        self.assertEqual(pauses, [0, 1, 2, 4, 8, 16, 30, 30, 30])

    def test_a_worker_that_ran_for_a_while_is_replaced_at_once(self):
        for _ in range(5):
            self.pause(1)
        self.assertEqual(self.pause(STEADY), 0)
        self.assertEqual([self.pause(1) for _ in range(3)], [0, 1, 2])

    def test_a_worker_that_is_renewed_is_replaced_at_once_each_time(self):
        for _ in range(5):
            self.pause(1)
        self.assertEqual([self.pause(1, renew=True) for _ in range(5)], [0] * 5)
        self.assertEqual([self.pause(1) for _ in range(3)], [0, 1, 2])

    def test_a_start_that_takes_long_and_fails_is_no_work(self):
        pauses = [self.pause(10 * STEADY, worked=False) for _ in range(4)]
        self.assertEqual(pauses, [0, 1, 2, 4])

    def test_after_some_starts_that_came_to_nothing_it_gives_up(self):
        for number in range(MAX_FAILED_STARTS):
            self.assertIsNone(self.restarts.failure("", others_work=False), number)
            self.pause(1, worked=False)
        text, code = self.restarts.failure("", others_work=False)
        self.assertIn(f"{MAX_FAILED_STARTS} starts in a row", text)
        self.assertEqual(code, GAVE_UP)
        self.assertIsNone(self.restarts.failure("", others_work=True))

    def test_one_that_worked_begins_the_count_anew(self):
        for worked in [False] * (MAX_FAILED_STARTS - 1) + [True] + [False] * 2:
            self.pause(1, worked=worked)
        self.assertIsNone(self.restarts.failure("", others_work=False))

    def test_what_the_first_worker_says_is_the_reason_to_give_up_at_once(self):
        self.pause(1, worked=False)
        for others in (True, False):
            self.assertEqual(self.restarts.failure("no table", others_work=others), ("no table", 1))

    def test_an_error_after_good_work_is_given_its_time(self):
        self.pause(1, worked=True)
        self.pause(1, worked=False)
        self.assertIsNone(self.restarts.failure("the database is away", others_work=False))
        for _ in range(MAX_FAILED_STARTS):
            self.pause(1, worked=False)
        self.assertIsNone(self.restarts.failure("the database is away", others_work=True))
        text, code = self.restarts.failure("the database is away", others_work=False)
        self.assertIn("the database is away", text)
        self.assertEqual(code, GAVE_UP)


@pytest.mark.any_database
class PartTests(SimpleTestCase):
    def test_an_end_is_told_in_words(self):
        self.assertEqual(how_it_ended(RENEW), "has reached its limit")
        self.assertIn("a task that did not end", how_it_ended(STUCK))
        self.assertEqual(how_it_ended(1), "ended with exit code 1")
        self.assertEqual(how_it_ended(-signal.SIGKILL), "was killed by SIGKILL")
        self.assertEqual(how_it_ended(-300), "was killed by signal 300")

    def test_jitter_is_up_to_a_tenth_more(self):
        self.assertEqual({with_jitter(9) for _ in range(50)}, {9})
        self.assertEqual({with_jitter(20) for _ in range(200)}, {20, 21, 22})

    def test_the_command_line_is_the_interpreters_own(self):
        line = ["python3", "-X", "dev", "manage.py", "db_worker", "--processes=2"]
        with mock.patch.object(sys, "orig_argv", line):
            self.assertEqual(
                command_line(["db_worker", "--processes=2"]), [sys.executable, *line[1:]]
            )
            # Not what this process was started with: it would start something else.
            for other in ([], ["db_worker"], ["db_worker", "--processes=3"]):
                with self.assertRaisesMessage(DurableTasksError, "--processes works only on"):
                    command_line(other)

    def test_called_from_python_it_is_refused(self):
        with self.assertRaisesMessage(CommandError, "--processes works only on the command line"):
            call_command("db_worker", processes=2, reload=False, skip_checks=True)

    def test_the_memory_in_use_is_known_with_and_without_proc(self):
        self.assertTrue(10 < resident_mib() < 10_000)
        with mock.patch.object(Path, "read_text", side_effect=FileNotFoundError):
            self.assertTrue(10 < resident_mib() < 10_000)


class SupervisedTestCase(WorkerTestCase):
    @contextmanager
    def running(self, *arguments, ids=("w-1", "w-2"), **how):
        """Give a supervisor whose workers are ready."""
        with running_worker(*TWO, *arguments, options=NEVER, ready=False, **how) as supervisor:
            eventually(lambda: set(self.workers()) == set(ids), "the workers start")
            yield supervisor

    def workers(self):
        """Return the process ids by the workers' names."""
        return dict(Worker.objects.values_list("id", "pid"))

    def owner(self, result):
        """Return the process id of the worker that runs a job."""
        return Worker.objects.get(id=result.job.worker_id).pid

    def assert_gone(self, *pids):
        for pid in pids:
            eventually(lambda pid=pid: not process_start(pid), f"process {pid} ends")


class SupervisorTests(SupervisedTestCase):
    def test_the_workers_share_the_queue(self):
        with self.running() as supervisor:
            both = [tasks.hold.enqueue("a"), tasks.hold.enqueue("b")]
            held("a")
            held("b")
            self.assertEqual({result.job.worker_id for result in both}, {"w-1", "w-2"})
            self.assertNotIn(supervisor.pid, self.workers().values())
            let_go()
            more = [tasks.effect.enqueue(f"job {n}") for n in range(30)]
            for result in (*both, *more):
                self.assertEqual((ended(result).status, result.job.attempts), ("SUCCESSFUL", 1))
            self.assertEqual(len(set(effects("job"))), 30)
            self.assertEqual(supervisor.stop(), 0)
            self.assertFalse(Worker.objects.exists())
            for text in ("Worker w-1 has stopped.", "Supervisor w has stopped."):
                self.assertEqual(supervisor.output().count(text), 1, supervisor.output())

    @pytest.mark.any_database
    def test_without_a_name_the_workers_have_one_in_common(self):
        with running_worker("--processes", "2", options=NEVER, ready=False) as supervisor:
            eventually(lambda: len(self.workers()) == 2, "the workers start")
            names = {name.rpartition("-")[::2] for name in self.workers()}
            self.assertEqual({number for _, number in names}, {"1", "2"})
            self.assertEqual(len({name for name, _ in names}), 1)
            self.assertEqual(supervisor.stop(), 0)

    def test_a_killed_worker_is_replaced_and_its_job_runs_again(self):
        with self.running() as supervisor:
            result = tasks.hold.enqueue("x")
            held("x")
            name, pid = result.job.worker_id, self.owner(result)
            os.kill(pid, signal.SIGKILL)
            held("x", times=2)
            let_go()
            job = ended(result)
            self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 2, 1))
            # The other one was told of it before the new one had even started.
            self.assertNotEqual(job.worker_id, name)
            eventually(lambda: len(self.workers()) == 2, "there are two again")
            self.assertNotEqual(self.workers()[name], pid)
            supervisor.says(
                f"Worker {name} (process {pid}) was killed by SIGKILL; starting it again at once."
            )
            self.assertEqual(supervisor.stop(), 0)

    def test_a_worker_that_somebody_else_stops_is_replaced(self):
        with self.running() as supervisor:
            pid = self.workers()["w-2"]
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: self.workers().get("w-2", pid) != pid, "it is replaced")
            supervisor.says(f"Worker w-2 (process {pid}) ended with exit code 0; starting")
            self.assertEqual(supervisor.stop(), 0)

    def test_the_workers_of_a_killed_supervisor_finish_what_runs(self):
        with self.running() as supervisor:
            result = tasks.hold.enqueue("x")
            held("x")
            pids = self.workers().values()
            os.kill(supervisor.pid, signal.SIGKILL)
            supervisor.process.wait()
            for name in ("w-1", "w-2"):
                eventually(
                    lambda name=name: (
                        f"The supervisor is gone: worker {name} finishes" in supervisor.output()
                    ),
                    f"{name} notices",
                )
            self.assertEqual(result.job.status, "RUNNING")
            let_go()
            self.assert_gone(*pids)
            self.assertEqual(result.job.status, "SUCCESSFUL")
            self.assertFalse(Worker.objects.exists())

    @pytest.mark.any_database
    def test_a_task_does_not_see_the_socket_to_the_supervisor(self):
        with self.running() as supervisor:
            self.assertEqual(ended(tasks.read_standard_input.enqueue()).return_value, "")
            self.assertEqual(supervisor.stop(), 0)

    def test_a_batch_is_drained_by_all(self):
        results = [tasks.effect.enqueue(f"job {n}") for n in range(50)]
        done = run_worker(*TWO)
        self.assertEqual(set(statuses(results)), {"SUCCESSFUL"})
        self.assertEqual(len(effects("job")), 50)
        self.assertNotIn("starting it again", done.stderr)


class StopTests(SupervisedTestCase):
    @pytest.mark.any_database
    def test_a_signal_lets_what_runs_end(self):
        for name in ("SIGTERM", "SIGINT", "SIGQUIT"):
            with self.subTest(signal=name), self.running() as supervisor:
                result = tasks.hold.enqueue(name)
                held(name)
                supervisor.send_signal(getattr(signal, name))
                supervisor.says("The supervisor stops: worker w-1")
                supervisor.says("The supervisor stops: worker w-2")
                self.assertEqual(result.job.status, "RUNNING")
                let_go(name)
                self.assertEqual(supervisor.wait(), 0)
                self.assertEqual((result.job.status, result.job.attempts), ("SUCCESSFUL", 1))
                self.assertFalse(Worker.objects.exists())

    @pytest.mark.any_database
    def test_a_signal_to_all_processes_is_not_counted_twice(self):
        with self.running() as supervisor:
            result = tasks.hold.enqueue("x")
            held("x")
            os.killpg(supervisor.pid, signal.SIGINT)
            for text in ("The supervisor stops: worker w-1", "The supervisor stops: worker w-2"):
                supervisor.says(text)
            self.assertEqual(result.job.status, "RUNNING")
            let_go()
            self.assertEqual(supervisor.wait(), 0)
            self.assertEqual((result.job.status, effects("done")), ("SUCCESSFUL", ["done x"]))
            self.assertNotIn("Stopped at once", supervisor.output())

    @pytest.mark.any_database
    def test_a_signal_to_all_processes_interrupts_no_start(self):
        with running_worker(*TWO, options=NEVER, ready=False) as supervisor:
            supervisor.says("Supervisor w starts 2 workers.")
            os.killpg(supervisor.pid, signal.SIGINT)
            self.assertEqual(supervisor.wait(), 0)
            self.assertNotIn("Traceback", supervisor.output())
            self.assertFalse(Worker.objects.exists())

    @pytest.mark.any_database
    def test_a_second_signal_stops_at_once(self):
        with self.running() as supervisor:
            result = tasks.hold.enqueue("x")
            held("x")
            pids = self.workers().values()
            supervisor.send_signal(signal.SIGINT)
            supervisor.says("SIGINT: the workers finish what runs.")
            supervisor.send_signal(signal.SIGTERM)
            self.assertEqual(supervisor.wait(), 128 + signal.SIGTERM)
            self.assertIn("SIGTERM: the workers are stopped at once", supervisor.output())
            self.assert_gone(*pids)
        self.assertEqual((result.job.status, effects("done")), ("RUNNING", []))

    @pytest.mark.any_database
    def test_a_signal_that_comes_twice_at_once_is_one(self):
        supervisor = Supervisor([], "w", 1)
        with mock.patch.object(supervisor, "_kill") as kill:
            supervisor._heed(signal.SIGINT)
            supervisor._heed(signal.SIGINT)
            kill.assert_not_called()
            supervisor._heed(signal.SIGTERM)
            kill.assert_called_once()

    @pytest.mark.any_database
    def test_one_process_stops_at_once_after_its_time(self):
        result = tasks.hold.enqueue("x")
        with running_worker("--shutdown-timeout", "0.2", options=NEVER) as worker:
            held("x")
            worker.send_signal(signal.SIGTERM)
            self.assertEqual(worker.wait(), CUT_SHORT)
            self.assertIn("what runs did not end within 0.2 s", worker.output())
        self.assertEqual(result.job.status, "RUNNING")
        let_go()
        run_worker()
        self.assertEqual((result.job.status, result.job.lost), ("SUCCESSFUL", 1))

    @pytest.mark.any_database
    def test_a_worker_that_ends_in_time_is_not_cut_short(self):
        with self.running("--shutdown-timeout", "3600") as supervisor:
            self.assertEqual(ended(tasks.add.enqueue(1, 2)).return_value, 3)
            self.assertEqual(supervisor.stop(), 0)

    @pytest.mark.any_database
    def test_workers_are_stopped_after_their_time_even_if_they_do_not_hear(self):
        with self.running("--shutdown-timeout", "0.2") as supervisor:
            result = tasks.hold.enqueue("x")
            held("x")
            pids = self.workers()
            deaf = "w-2" if result.job.worker_id == "w-1" else "w-1"
            os.kill(pids[deaf], signal.SIGSTOP)
            supervisor.send_signal(signal.SIGTERM)
            supervisor.says(f"Worker {result.job.worker_id} stops at once")
            supervisor.says("Killing the workers that did not stop in time.")
            self.assertEqual(supervisor.wait(), CUT_SHORT)
            self.assert_gone(*pids.values())
        self.assertEqual(result.job.status, "RUNNING")


class LimitTests(SupervisedTestCase):
    @pytest.mark.any_database
    def test_a_process_is_renewed_after_its_tasks_and_nothing_is_lost(self):
        results = [tasks.effect.enqueue(f"job {n}") for n in range(12)]
        done = run_worker(*TWO, "--max-tasks-per-process", "3")
        self.assertEqual(set(statuses(results)), {"SUCCESSFUL"})
        self.assertEqual(sorted(effects("job")), sorted(f"job {n}" for n in range(12)))
        self.assertEqual(set(Job.objects.values_list("attempts", "lost")), {(1, 0)})
        # Four processes at least.
        self.assertGreaterEqual(done.stderr.count("has reached its limit; starting it again"), 2)
        self.assertNotIn("again in", done.stderr)

    @pytest.mark.any_database
    def test_a_process_that_takes_too_much_memory_is_renewed_once_its_jobs_have_ended(self):
        with self.running("--max-memory", "250") as supervisor:
            first = self.workers()
            result = tasks.hold_memory.enqueue("x", 300)
            held("x")
            name = result.job.worker_id
            supervisor.says(f"Worker {name} takes ")
            self.assertEqual(result.job.status, "RUNNING")
            let_go()
            job = ended(result)
            self.assertEqual((job.status, job.attempts, job.lost), ("SUCCESSFUL", 1, 0))
            eventually(lambda: self.workers().get(name, first[name]) != first[name], "renewed")
            supervisor.says(f"Worker {name} (process {first[name]}) has reached its limit; start")
            self.assertEqual(supervisor.stop(), 0)

    @pytest.mark.any_database
    def test_one_process_alone_ends_at_its_limits_with_a_code_that_says_so(self):
        tasks.add.enqueue(1, 2)
        with running_worker("--max-tasks-per-process", "1", ready=False) as worker:
            self.assertEqual(worker.wait(), RENEW)
        tasks.hold_memory.enqueue("x", 300)
        let_go()
        with running_worker("--max-memory", "250", ready=False) as worker:
            self.assertEqual(worker.wait(), RENEW)
        self.assertEqual(set(Job.objects.values_list("status", flat=True)), {"SUCCESSFUL"})
        self.assertFalse(Worker.objects.exists())


class Deadly:
    """A database router that ends each process that asks where to work."""

    def db_for_write(self, model, **hints):
        os.kill(os.getpid(), signal.SIGKILL)


class FailureTests(SupervisedTestCase):
    def assert_fails_once(self, message, *arguments, **how):
        done = run_command("db_worker", *QUICK, *TWO, "--skip-checks", *arguments, **how)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stderr.count(message), 1, done.stderr)
        self.assertEqual(done.stderr.count("CommandError"), 1, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertNotIn("starting it again", done.stderr)
        return done

    def test_missing_tables_are_said_once(self):
        name = ":memory:"
        if connection.vendor != "sqlite":
            name = f"{connection.settings_dict['NAME']}_none"
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name}")
                self.addCleanup(self.drop, name)
        self.assert_fails_once(
            "has no table durable_tasks_job: run manage.py migrate",
            env={"DURABLE_TASKS_TEST_DB_NAME": name},
        )

    def drop(self, name):
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")

    @pytest.mark.any_database
    def test_a_limit_that_no_worker_can_keep_is_said_once(self):
        self.assert_fails_once("--max-memory 1 is too low: a worker takes", "--max-memory", "1")

    def test_a_name_in_use_stops_them_all(self):
        with running_worker("--worker-id", "w-2", options=NEVER) as other:
            done = self.assert_fails_once("choose another --worker-id", options=NEVER)
            self.assertIn(f"worker 'w-2' (process {other.pid} on ", done.stderr)
            self.assertEqual(self.workers(), {"w-2": other.pid})

    @pytest.mark.any_database
    def test_workers_that_die_at_every_start_are_given_up(self):
        path = f"{Deadly.__module__}.{Deadly.__qualname__}"
        with running_worker(
            *TWO, "--skip-checks", env={"DURABLE_TASKS_TEST_ROUTERS": path}, ready=False
        ) as supervisor:
            self.assertEqual(supervisor.wait(4 * PATIENCE), GAVE_UP)
            output = supervisor.output()
        self.assertEqual(output.count(f"Gave up: {MAX_FAILED_STARTS} starts in a row"), 1, output)
        for then in ("at once", "in 1 s", "in 2 s", "in 4 s"):
            self.assertIn(f"was killed by SIGKILL; starting it again {then}.", output)


MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
sys.path.insert(0, os.environ["TESTS"])
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""


@pytest.mark.any_database
class StartTests(SupervisedTestCase):
    """However it is started, its workers are started in the same way."""

    def assert_works(self, *command):
        result = tasks.add.enqueue(1, 2)
        env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
        del env["DJANGO_SETTINGS_MODULE"]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "manage.py").write_text(MANAGE)
            done = subprocess.run(
                [*command, *QUICK, *TWO, "--batch"],
                cwd=folder,
                env={**env, "TESTS": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(result.job.status, "SUCCESSFUL", done.stderr)
        self.assertIn(result.job.worker_id, ("w-1", "w-2"))

    def test_from_manage_py(self):
        self.assert_works(sys.executable, "manage.py", "db_worker")

    def test_from_django_as_a_module_with_settings_and_path(self):
        self.assert_works(
            *(sys.executable, "-m", "django", "db_worker"),
            *("--settings", "tests.settings", "--pythonpath", str(ROOT)),
        )

    def test_from_django_admin(self):
        self.assert_works(
            *(str(Path(sys.executable).with_name("django-admin")), "db_worker"),
            *("--settings=tests.settings", f"--pythonpath={ROOT}"),
        )

    def test_a_program_with_arguments_of_its_own_is_refused(self):
        program = (
            "import django, sys; from django.core.management import execute_from_command_line;"
            "execute_from_command_line(['manage.py', 'db_worker', '--processes', '2'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stderr.count("--processes works only on the command line"), 1)

    def test_reload_is_left_out_with_a_warning(self):
        tasks.add.enqueue(1, 2)
        done = run_worker(*TWO, "--reload")
        self.assertEqual(done.stderr.count("--reload does not work with"), 1, done.stderr)
