"""The supervisor: starts several workers, replaces those that end, and stops them all.

A worker is this very command line again, in a new process. Not ``fork``: a database driver or a
thread of the parent's may not survive it, and macOS has reasons of its own against it. Not
``multiprocessing`` either: it would go round ``manage.py``, and what that sets up.

Each worker has a socket to the supervisor as its standard input. A byte on it, or its end when the
supervisor is gone, however that went, lets the worker stop gracefully. So no worker outlives its
supervisor by more than what it runs; and as a stop is no signal, one that the terminal or systemd
has sent to all processes is not counted twice. Another byte says that one of the workers has ended:
those beside it look at once for the jobs that it left.
"""

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from ..exceptions import DurableTasksError
from .restarts import Restarts, how_it_ended
from .stopping import (
    CUT_SHORT,
    DISMISSED,
    LOST,
    READY,
    RENEW,
    SAME_ASK,
    STOP,
    STOP_SIGNALS,
    STUCK,
)

logger = logging.getLogger("durable_tasks")

# Seconds beyond --shutdown-timeout after which a worker that does not obey it is killed.
GRACE = 5.0
# The longest wait, in seconds, should a signal be missed.
LOOK = 1.0


class WorkersFail(DurableTasksError):
    """The workers can't work. ``exit_code``: the supervisor's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Place:
    """A worker's place: its id, its process while there is one, and when the next one starts."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.restarts = Restarts()
        self.process: subprocess.Popen[bytes] | None = None
        self.start_at: float | None = 0.0  # None: never, as things are
        self._line: socket.socket | None = None
        self._said = b""

    @property
    def is_over(self) -> bool:
        return self.process is None and self.start_at is None

    def start(self, command: Sequence[str], now: float) -> None:
        """Start a worker. Raises ``OSError`` if the system refuses."""
        self.start_at = None
        self._said = b""
        self.restarts.started(now)
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        with theirs:
            # Blocked until the worker is ready for them: none of them ends it during its imports.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                self.process = subprocess.Popen(
                    [*command, f"--worker-id={self.worker_id}"], stdin=theirs.fileno()
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """Let the worker finish what runs, and start no other."""
        self.start_at = None
        self.tell(STOP)

    def tell(self, what: bytes) -> None:
        """Tell the worker, if there is one."""
        if self._line is not None:
            with suppress(OSError):
                self._line.send(what)

    def kill(self) -> None:
        """End the worker at once."""
        if self.process is not None:
            self.process.kill()

    def has_worked(self) -> bool:
        """Return whether the worker got to work, or had got to it before its end."""
        self._listen()
        return self._said.startswith(READY)

    def leave(self) -> str:
        """Forget the worker, which has ended; return the error that it told, or ""."""
        self._listen()
        self.process = None
        if self._line is not None:
            self._line.close()
            self._line = None
        return self._said.removeprefix(READY).decode(errors="replace").strip()

    def _listen(self) -> None:
        with suppress(OSError):
            while self._line is not None and (more := self._line.recv(65536)):
                self._said += more


class Supervisor:
    """Keeps ``count`` workers at work, and does no work itself: it needs no database.

    ``command``: the command line of a worker, without its id. ``name``: the workers are called
    NAME-1, NAME-2 and so on. ``batch``: a worker that ends well has done its part.
    ``shutdown_timeout``: the one that the workers have, in seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        count: int,
        *,
        batch: bool = False,
        shutdown_timeout: float | None = None,
    ) -> None:
        self._command = command
        self._name = name
        self._batch = batch
        self._shutdown_timeout = shutdown_timeout
        self._places = [Place(f"{name}-{number}") for number in range(1, count + 1)]
        self._signals: SimpleQueue[int] = SimpleQueue()
        self._asked = 0  # how many signals to stop there were
        self._first_ask: tuple[int, float] | None = None  # which signal, and when
        self._stopping = False
        self._kill_at: float | None = None
        self._exit_code = 0
        self._failure: tuple[str, int] | None = None

    def run(self) -> int:
        """Work until every worker has ended for good; return the exit code.

        Raises ``WorkersFail`` if there is no use in starting more.
        """
        for number in [*STOP_SIGNALS, signal.SIGCHLD]:
            signal.signal(number, lambda number, frame: self._signals.put(number))
        self._log(logging.INFO, "Supervisor %s starts %s workers.", self._name, len(self._places))
        while not all(place.is_over for place in self._places):
            self._start_what_is_due()
            self._wait()
            for place in self._places:
                if place.process is not None and (code := place.process.poll()) is not None:
                    self._ended(place, code)
        if self._failure is not None:
            raise WorkersFail(*self._failure)
        self._log(logging.INFO, "Supervisor %s has stopped.", self._name)
        return self._exit_code

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for place in self._places:
            if place.start_at is not None and place.start_at <= now:
                try:
                    place.start(self._command, now)
                except OSError as error:
                    self._ended(place, 1, f"It can't be started: {error}")

    def _wait(self) -> None:
        """Wait for a signal, the next start, or the moment when patience ends."""
        now = time.monotonic()
        moments = [self._kill_at, *(place.start_at for place in self._places)]
        waits = [moment - now for moment in moments if moment is not None]
        with suppress(Empty):
            number = self._signals.get(timeout=max(0.0, min([LOOK, *waits])))
            while True:
                if number != signal.SIGCHLD:
                    self._heed(signal.Signals(number))
                number = self._signals.get_nowait()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            self._log(logging.WARNING, "Killing the workers that did not stop in time.")
            self._kill()

    def _heed(self, number: signal.Signals) -> None:
        now = time.monotonic()
        number_before, came = self._first_ask = self._first_ask or (number, now)
        if self._asked and number == number_before and now < came + SAME_ASK:
            return
        self._asked += 1
        if self._asked == 1:
            self._log(
                logging.INFO,
                "%s: the workers finish what runs. A second signal stops them at once.",
                number.name,
            )
            self._stop()
        else:
            self._log(
                logging.WARNING,
                "%s: the workers are stopped at once; what ran will run again.",
                number.name,
            )
            self._exit_code = 128 + number
            self._kill()

    def _stop(self) -> None:
        if not self._stopping and self._shutdown_timeout is not None:
            self._kill_at = time.monotonic() + self._shutdown_timeout + GRACE
        self._stopping = True
        for place in self._places:
            place.stop()

    def _kill(self) -> None:
        for place in self._places:
            place.kill()

    def _ended(self, place: Place, code: int, error: str = "") -> None:
        """Decide what follows the end of a worker."""
        pid = place.process.pid if place.process is not None else None
        worked = place.has_worked()
        error = place.leave() or error
        if code not in (0, RENEW):
            for other in self._places:
                other.tell(LOST)
        if self._stopping:
            if worked and code not in (0, RENEW, STUCK, DISMISSED) and self._asked < 2:
                self._exit_code = CUT_SHORT
                self._log_end(logging.WARNING, place, pid, code, error or "what ran will run again")
            return
        if self._batch and code == 0:
            return
        if code == DISMISSED:
            self._log_end(logging.INFO, place, pid, code, "no other takes its place")
            return
        now = time.monotonic()
        renew = code == RENEW
        pause = place.restarts.ended(now, worked=worked, renew=renew or code == STUCK)
        others_work = any(other.has_worked() for other in self._places if other.process)
        self._failure = place.restarts.failure(error, others_work=others_work)
        if self._failure is not None:
            self._stop()
            return
        place.start_at = now + pause
        then = f"starting it again {f'in {pause:g} s' if pause else 'at once'}"
        if renew:
            self._log_end(logging.INFO, place, pid, code, then)
        else:
            self._log_end(logging.WARNING, place, pid, code, f"{error} {then}".strip())

    def _log_end(self, level: int, place: Place, pid: int | None, code: int, then: str) -> None:
        self._log(
            level,
            "Worker %s (process %s) %s; %s.",
            *(place.worker_id, pid, how_it_ended(code), then.removesuffix(".")),
            worker_id=place.worker_id,
        )

    def _log(self, level: int, text: str, *values: object, worker_id: str = "") -> None:
        logger.log(level, text, *values, extra={"worker_id": worker_id or self._name})


def command_line(arguments: Sequence[str], option: str = "--processes") -> list[str]:
    """Return the command line of this process, to start it again.

    ``arguments``: those with which it came to be here. ``option``: the one that asks for it. Raises
    ``DurableTasksError`` if it does not end with them: a program that puts its arguments together
    itself would run something else, or start a supervisor again and again.
    """
    if not arguments or sys.orig_argv[-len(arguments) :] != list(arguments):
        raise DurableTasksError(
            f"{option} works only on the command line of manage.py or django-admin: "
            "each worker is that command line again, in a process of its own."
        )
    return [sys.executable, *sys.orig_argv[1:]]
