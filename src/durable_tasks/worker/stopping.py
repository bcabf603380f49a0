"""Why and how a worker's process ends: signals, its supervisor, its limits, its exit code."""

import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from ..exceptions import DurableTasksError
from .process import resident_mib
from .worker import Worker

logger = logging.getLogger("durable_tasks")

# Exit codes, beside 0 (all is done), 1 (an error that was printed) and 128 + a signal's number (a
# second one). The first two are those of sysexits.h, for which systemd has names.
GAVE_UP = 70  # EX_SOFTWARE: the workers ended at every start
CUT_SHORT = 75  # EX_TEMPFAIL: what ran did not end within --shutdown-timeout and will run again
RENEW = 80  # --max-tasks-per-process or --max-memory was reached: to be started again
STUCK = 81  # a run did not end although its time was over, or its job cancelled: the same
DISMISSED = 82  # somebody asked this very worker to stop: not to be started again

# What a worker tells its supervisor once it looks for work; after it, why it ended if it failed.
READY = b"ready\n"
# What a supervisor tells its workers, a byte each: to stop, and that one of them has ended badly.
STOP, LOST = b"s", b"l"

STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGQUIT") if hasattr(signal, name)
]
# Seconds within which a signal that comes again is the same ask: timeout(1) sends its own to the
# process and to its group.
SAME_ASK = 0.5
# Seconds between two looks at the memory in use.
MEMORY_LOOK = 1.0


def say(text: str) -> None:
    """Print a line on stderr, even in a signal handler."""
    with suppress(OSError):
        os.write(2, text.encode())


class Stop:
    """Stops a worker when asked: gracefully, and at once after ``timeout`` seconds, if not None."""

    def __init__(self, worker: Worker, timeout: float | None = None) -> None:
        self.asked = False
        self.dismissed = False
        self._worker = worker
        self._timeout = timeout
        self._asks: SimpleQueue[None] = SimpleQueue()
        self._over = threading.Event()
        if timeout is not None:
            # Started now: a signal handler must not start threads. What it interrupts may hold the
            # very locks that this takes.
            threading.Thread(target=self._watch, name="shutdown", daemon=True).start()

    def gracefully(self) -> None:
        """Let what runs end; may be called from any thread and from a signal handler."""
        self.asked = True
        self._asks.put(None)
        self._worker.stop()

    def dismiss(self) -> None:
        """The same, and let the supervisor, if there is one, start no other in its place."""
        self.dismissed = True
        self.gracefully()

    def over(self) -> None:
        """The worker has ended."""
        self._over.set()

    def on_signals(self) -> None:
        """Let the first signal stop the worker gracefully and the second one at once."""

        def first(number: int, frame: Any) -> None:
            came = time.monotonic()

            def second(again: int, frame: Any) -> None:
                if again == number and time.monotonic() < came + SAME_ASK:
                    return
                say("Stopped at once; what ran will run again.\n")
                os._exit(128 + again)

            for each in STOP_SIGNALS:
                signal.signal(each, second)
            # Not through logging: its lock may be held by the very code that was interrupted.
            name = signal.Signals(number).name
            say(f"{name}: finishing what runs. A second signal stops at once.\n")
            self.gracefully()

        for each in STOP_SIGNALS:
            signal.signal(each, first)
        # A supervisor starts its workers with these blocked, lest one of them end an import.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _watch(self) -> None:
        self._asks.get()
        if not self._over.wait(self._timeout):
            logger.warning(
                "Worker %s stops at once: what runs did not end within %g s. It will run again.",
                *(self._worker.id, self._timeout),
                extra={"worker_id": self._worker.id},
            )
            os._exit(DISMISSED if self.dismissed else CUT_SHORT)


class Lifeline:
    """A supervised worker's end of the socket between the two; it comes as standard input."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=os.dup(0))
        # The processes that tasks start inherit standard input; they must not read from this.
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)

    def tell(self, text: bytes) -> None:
        """Tell the supervisor, if it is there."""
        with suppress(OSError):
            self._socket.sendall(text)

    def watch(self, worker: Worker, stop: Callable[[], None]) -> None:
        """Call ``stop`` when the supervisor asks for it, or is gone.

        When another worker has ended, this one looks at once for the jobs that it left.
        """

        def wait() -> None:
            asked = LOST
            while asked == LOST:
                asked = b""
                with suppress(OSError):
                    asked = self._socket.recv(1)
                if asked == LOST:
                    worker.look_for_lost()
            why = "The supervisor stops" if asked else "The supervisor is gone"
            logger.info(
                "%s: worker %s finishes what runs.", why, worker.id, extra={"worker_id": worker.id}
            )
            stop()

        threading.Thread(target=wait, name="lifeline", daemon=True).start()


class MemoryLimit:
    """Stops a worker gracefully once its process takes more than ``mib`` MiB of memory."""

    def __init__(self, worker: Worker, mib: int) -> None:
        self.exceeded = False
        self._worker = worker
        self._mib = mib
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to watch. Raises ``DurableTasksError`` if the limit can't be kept at all."""
        if (used := resident_mib()) > self._mib:
            # Otherwise one worker after another would start and end without a single job.
            raise DurableTasksError(
                f"--max-memory {self._mib} is too low: a worker takes {used:.0f} MiB before its "
                "first job."
            )
        threading.Thread(target=self._watch, name="memory", daemon=True).start()

    def over(self) -> None:
        """The worker has ended."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(MEMORY_LOOK):
            if (used := resident_mib()) > self._mib:
                logger.info(
                    "Worker %s takes %.0f MiB, more than %s: it ends after what runs.",
                    *(self._worker.id, used, self._mib),
                    extra={"worker_id": self._worker.id},
                )
                self.exceeded = True
                self._worker.stop()
                return


def with_jitter(tasks: int) -> int:
    """Return up to a tenth more, so that workers that started together do not end together."""
    return tasks + random.randint(0, tasks // 10)
