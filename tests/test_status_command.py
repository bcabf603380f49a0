import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError
from django.test import SimpleTestCase, override_settings

from durable_tasks.histogram import bucket
from durable_tasks.management.commands import tasks_status
from durable_tasks.management.status import Section, cells, paint, plain, screen, span
from durable_tasks.models import ErrorGroup
from durable_tasks.state import Look

from .helpers import (
    PATIENCE,
    ROOT,
    command,
    environment,
    eventually,
    run_command,
    run_unread,
    tasks_setting,
)
from .store.jobs import make_jobs, make_running
from .test_health import make_statistic
from .test_state import BACKEND, StateTestCase, ago, make_schedule, make_worker, pause

STEERING = "\x1b[2J\x07\u202e"


def make_error(**changes: Any) -> ErrorGroup:
    hour = int(Look().seconds) // 3600 * 3600
    fields = {"backend_name": "default", "exception_class_path": "ValueError", "count": 9}
    fields |= {"place": "shop/tasks.py in charge", "hours": {str(hour): 7}}
    fields |= {"first_seen": ago(9000), "last_seen": ago(3), "message": "declined"}
    fields |= {"task_path": "shop.tasks.pay", "last_job_id": uuid4()}
    return ErrorGroup.objects.create(**fields | changes)


@pytest.mark.any_database
class TextTests(SimpleTestCase):
    def test_times(self) -> None:
        for seconds, text in (
            (None, "-"),
            (0.0304, "30 ms"),
            (1.25, "1.2 s"),
            (61, "1m1s"),
            (90_000, "1d1h"),
        ):
            self.assertEqual(span(seconds), text)

    def test_nothing_of_a_job_steers_the_terminal(self) -> None:
        self.assertEqual(plain(f"a{STEERING}b ü 日"), "a?[2J??b ü 日")

    def test_a_line_is_cut_to_its_width(self) -> None:
        line = [("ab日本", "bold"), ("cd", "red")]
        self.assertEqual(cells("ab日本"), 6)
        self.assertEqual(paint(line, 5, colour=False), "ab日")
        self.assertEqual(paint(line, 7, colour=True), "\x1b[1mab日本\x1b[0m\x1b[31mc\x1b[0m")
        self.assertEqual(paint(line, None, colour=False), "ab日本cd")

    def test_a_table_is_aligned(self) -> None:
        rows = [[("日", ""), ("7", "")], [("abc", ""), ("1,000", "")]]
        section = Section("T", ("n", "count"), rows, frozenset([1]))
        lines = [paint(line, None, colour=False) for line in section.lines()]
        self.assertEqual(lines, ["", "T", "  n    count", "  日       7", "  abc  1,000"])


class ScreenTests(StateTestCase):
    def text(self, **sizes: Any) -> str:
        return "\n".join(paint(line, None, colour=False) for line in screen(Look(), **sizes))

    def test_an_empty_database_says_what_to_do(self) -> None:
        text = self.text()
        self.assertIn("Workers  none is running: start one with manage.py db_worker", text)
        self.assertIn("0 alive", text)
        self.assertIn("Queues  no jobs", text)
        self.assertIn("Errors of the last hour  none", text)
        self.assertIn("p95  wait -, run -", text)

    def test_all_there_is(self) -> None:
        make_jobs(3, queue_name="mail", run_at=ago(125))
        make_jobs(2, queue_name="mail", status="SCHEDULED", run_at=ago(-100))
        make_running(4, "w1")
        make_worker("w1", 1, memory=100 * 2**20)
        make_worker("w2", 20)
        make_worker("w3", 0, wish="drain")
        make_schedule("nightly", late=4000)
        pause(queue_name="mail")
        pause(task_path="shop.tasks.resize")
        make_statistic(successful=99, failed=1, runs={bucket(2.0): 100}, waits={bucket(0.05): 100})
        make_error()
        make_error(exception_class_path="KeyError", hours={}, last_seen=ago(9000))
        text = self.text()
        for pattern in (
            r"Workers  2 alive, 1 silent   Running  4 of 12   Throughput  ",
            r"Last hour  100 ended, 1 failed \(1.0%\), 0 retried, 0 lost",
            r"p95  wait 5\d ms, run [12]\.\d s",
            r"Paused tasks  shop.tasks.resize",
            r"\n  mail +3 +2m\ds +2 +0 +paused by ann",
            r"\n  w2 +silent +2\d\.\d s +0 +4 +-  default",
            r"\n  w1 +alive +\d\.\d s +4 +4 +100 MiB  default",
            r"\n  w3 +to drain ",
            r"\n  nightly +1h6m4\ds  tests.app.tasks.add",
            r"\n  ValueError +7 +\d\.\d s  shop/tasks.py in charge  declined",
        ):
            with self.subTest(pattern):
                self.assertRegex(text, pattern)
        self.assertNotIn("KeyError", text)

    def test_it_fits_the_height_and_says_what_is_hidden(self) -> None:
        make_jobs(20, queue_name=lambda n: f"q{n}")
        text = self.text(height=20)
        self.assertEqual(len(text.splitlines()), 20)
        self.assertRegex(text, r"\.\.\. and \d+ more")
        self.assertIn("Errors of the last hour", text)
        self.assertEqual(len(self.text(height=5).splitlines()), 5)

    def test_the_summary_flows_in_a_narrow_terminal(self) -> None:
        make_worker()
        for line in self.text(width=70).split("Queues")[0].splitlines():
            self.assertLessEqual(len(line), 70)

    def test_several_backends_are_told_apart(self) -> None:
        make_jobs(1, backend_name="other", queue_name="mail")
        other = {"BACKEND": BACKEND, "QUEUES": []}
        with override_settings(TASKS={**tasks_setting(), "other": other}):
            text = self.text()
        self.assertIn("all backends", text)
        self.assertIn("other: mail", text)

    def test_names_that_steer_are_made_harmless(self) -> None:
        make_jobs(queue_name=f"q{STEERING}")
        make_worker(f"w{STEERING}", queues=STEERING)
        make_schedule(f"s{STEERING}", late=99, task_path=STEERING)
        pause(queue_name=f"p{STEERING}", paused_by=STEERING)
        pause(task_path=STEERING)
        make_error(exception_class_path=STEERING, place=STEERING, message=STEERING)
        text = self.text()
        for sign in STEERING:
            if not sign.isprintable():
                self.assertNotIn(sign, text)


class OnceTests(StateTestCase):
    def test_a_pipe_gets_plain_text_once(self) -> None:
        make_jobs(3)
        done = run_command("tasks_status")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("\x1b", done.stdout)
        self.assertRegex(done.stdout, r"\n  default      3 ")

    def test_a_database_that_is_away_is_told(self) -> None:
        done = run_command("tasks_status", env={"DURABLE_TASKS_TEST_DB_NAME": "/nonexistent/there"})
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^CommandError: The database can't be asked: ")

    def test_a_reader_that_has_seen_enough_is_no_error(self) -> None:
        for buffered in (True, False):
            with self.subTest(buffered=buffered):
                done = run_unread("tasks_status", "--once", buffered=buffered)
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_colours_only_if_asked_for(self) -> None:
        output = StringIO()
        call_command("tasks_status", stdout=output)
        self.assertNotIn("\x1b", output.getvalue())
        call_command("tasks_status", stdout=output, force_color=True)
        self.assertIn("\x1b[1m", output.getvalue())

    def test_bad_options_are_named(self) -> None:
        for arguments, text in (
            (["--interval", "0"], "argument --interval: must be a number of seconds"),
            (["--interval", "nan"], "argument --interval: must be a number of seconds"),
            (["--backend", "gone"], "There is no task backend 'gone'"),
        ):
            with self.subTest(arguments), self.assertRaisesMessage(CommandError, text):
                call_command("tasks_status", *arguments)


class Session:
    """A ``tasks_status`` on a terminal of its own."""

    def __init__(self, master: int, process: "subprocess.Popen[bytes]") -> None:
        self.master = master
        self.process = process
        self.output = ""
        os.set_blocking(master, False)

    def read(self) -> str:
        """What it has written so far."""
        try:
            while data := os.read(self.master, 65536):
                self.output += data.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass
        return self.output

    def shows(self, text: str, since: int = 0) -> None:
        eventually(lambda: text in self.read()[since:], lambda: f"{text!r}: {self.output!r}")

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self) -> int:
        """Wait until it has ended and return its exit code."""
        eventually(lambda: self.read() is not None and self.process.poll() is not None)
        self.read()
        return self.process.wait(PATIENCE)


@contextmanager
def on_a_terminal(*arguments: str, **env: str) -> Iterator[Session]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        command("tasks_status", *arguments),
        cwd=ROOT,
        env={**environment(), "NO_COLOR": "", **env},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    session = Session(master, process)
    try:
        yield session
        assert termios.tcgetattr(slave) == before, "the terminal is as it was"
        assert session.output.count("\x1b[?1049h") == session.output.count("\x1b[?1049l") == 1
        assert session.output.rstrip().endswith("\x1b[?25h\x1b[?1049l")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(slave)
        os.close(master)


@pytest.mark.any_database
@pytest.mark.any_version
class TerminalTests(StateTestCase):
    def test_it_shows_what_changes_until_q(self) -> None:
        with on_a_terminal("--interval", "0.2") as session:
            session.shows("Queues")
            session.shows("q ends it")
            self.assertIn("\x1b[1mQueues", session.read())
            make_jobs(3, queue_name="mail")
            session.shows("mail")
            os.write(session.master, b"xq")  # no more: once it has ended, the terminal echoes
            self.assertEqual(session.end(), 0)

    def test_signals_end_it_as_well(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number), on_a_terminal(NO_COLOR="1") as session:
                session.shows("q ends it")
                self.assertNotIn("\x1b[1m", session.read())
                session.process.send_signal(number)
                self.assertEqual(session.end(), 0)

    def test_it_follows_the_size(self) -> None:
        make_jobs(40, queue_name=lambda n: f"q{n}")
        with on_a_terminal("--no-color", "--interval", "3600") as session:
            session.shows("q ends it")
            seen = len(session.output)
            session.resize(12, 40)
            session.process.send_signal(signal.SIGWINCH)
            session.shows("q ends it", since=seen)
            drawn = re.sub(r"\x1b\[\??\w+|\r", "", session.output[seen:])
            self.assertEqual(len(drawn.splitlines()), 12)
            self.assertLessEqual(max(map(len, drawn.splitlines())), 40)
            os.write(session.master, b"q")
            self.assertEqual(session.end(), 0)

    def test_a_database_that_is_away_comes_back(self) -> None:
        calls = [OperationalError("gone away"), [[("here again", "")]]]
        drawn: list[list[str]] = []
        terminal = mock.MagicMock()
        terminal.__enter__.return_value = terminal
        terminal.size.return_value = os.terminal_size((80, 24))
        terminal.draw.side_effect = drawn.append
        terminal.key.side_effect = ["", "q"]
        output = mock.Mock(isatty=lambda: True, spec=StringIO)
        with (
            mock.patch.object(tasks_status, "screen", side_effect=calls),
            mock.patch.object(tasks_status, "Terminal", return_value=terminal),
            mock.patch.object(tasks_status.sys.stdin, "isatty", return_value=True, create=True),
            mock.patch.object(tasks_status.time, "monotonic", side_effect=range(0, 99, 2)),
        ):
            call_command("tasks_status", stdout=output, no_color=True, interval=3)
        self.assertEqual(drawn[0], ["The database can't be asked: gone away"])
        self.assertEqual(drawn[1], ["here again", "every 3 s, q ends it"])
