"""The tasks beside the site: a worker in a process of its own.

Not a thread of the server's: a task that crashes its process, or keeps it busy, leaves the site
alone, and one that does not end can be left behind. The worker is this very command line again, as
under a supervisor: see ``worker.supervisor``, whose parts it is made of.
"""

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from ...worker.restarts import how_it_ended
from ...worker.stopping import DISMISSED, RENEW, STUCK, say
from ...worker.supervisor import GRACE as KILL_AFTER
from ...worker.supervisor import Place, WorkersFail

logger = logging.getLogger("durable_tasks")

# Seconds after which a stop says what it waits for.
SAY_AFTER = 1.0


class WorkerBeside:
    """Keeps one worker at work until it is stopped.

    ``command``: the worker's command line, without its id. ``grace``: seconds that what runs has to
    end; the worker keeps to it itself, and is killed if it does not. ``patient``: wait for the next
    reload if the worker comes to nothing; otherwise ``on_failure`` is called once there is no use
    in another start, and ``failure`` says why.
    """

    def __init__(
        self,
        command: Sequence[str],
        worker_id: str,
        *,
        grace: float,
        patient: bool,
        on_failure: Callable[[], None],
    ) -> None:
        self.failure: WorkersFail | None = None
        self._command = command
        self._grace = grace
        self._patient = patient
        self._on_failure = on_failure
        self._place = Place(worker_id)
        self._stopping = False
        # Set when it is to start again, or to stop.
        self._asked = threading.Event()
        # Held to change what runs, or to ask it to end.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tasks")

    def start(self) -> None:
        """Start the worker; returns at once."""
        self._thread.start()

    def reload(self) -> None:
        """Let the worker finish what runs, then start it with the code as it is by then.

        Returns at once.
        """
        with self._lock:
            self._end()

    def ask_to_stop(self) -> None:
        """Let the worker finish what runs; returns at once."""
        with self._lock:
            if not self._stopping:
                timer = threading.Timer(SAY_AFTER, self._say_what_it_waits_for)
                timer.daemon = True
                timer.start()
            self._stopping = True
            self._end()

    def kill(self) -> None:
        """End the worker at once; may be called from a signal handler."""
        say("The tasks are stopped at once; what ran will run again.\n")
        self._place.kill()

    def stop(self) -> None:
        """Let the worker finish what runs and wait for its end."""
        self.ask_to_stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _end(self) -> None:
        if self._asked.is_set():
            return
        self._asked.set()
        self._place.stop()
        if self._place.process is not None:
            timer = threading.Timer(self._grace + KILL_AFTER, self._kill, [self._place.process])
            timer.daemon = True
            timer.start()

    def _say_what_it_waits_for(self) -> None:
        if self._thread.is_alive():
            logger.info(
                "Waiting up to %g s for the tasks that run. A second Ctrl-C stops them at once.",
                self._grace,
                extra={"worker_id": self._place.worker_id},
            )

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        if process.poll() is None:
            logger.warning(
                "Worker %s did not stop in time and is killed; what ran will run again.",
                self._place.worker_id,
                extra={"worker_id": self._place.worker_id},
            )
            process.kill()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._stopping:
                    return
                self._asked.clear()
                try:
                    self._place.start(self._command, time.monotonic())
                except OSError as error:
                    self.failure = WorkersFail(f"The worker can't be started: {error}", 1)
                    self._on_failure()
                    return
                process = self._place.process
            assert process is not None
            code = process.wait()
            with self._lock:
                asked = self._asked.is_set()
                worked = self._place.has_worked()
                said = self._place.leave()
            if not asked:
                pause = self._pause_after(code, process.pid, said, worked=worked)
                if self.failure is not None:
                    self._on_failure()
                    return
                self._asked.wait(pause)

    def _pause_after(self, code: int, pid: int, said: str, *, worked: bool) -> float | None:
        """Return the seconds until the next start, or None to leave it to the next reload."""
        restarts = self._place.restarts
        level = logging.WARNING
        pause: float | None = restarts.ended(
            time.monotonic(), worked=worked, renew=code in (RENEW, STUCK)
        )
        if code == DISMISSED:
            level, pause, then = logging.INFO, None, "the site goes on without it until a reload"
        elif self._patient and not worked:
            pause, then = None, "waiting for a change"
        elif (failure := restarts.failure(said, others_work=False)) is not None:
            self.failure = WorkersFail(*failure)
            return None
        else:
            then = f"starting it again {f'in {pause:g} s' if pause else 'at once'}"
        logger.log(
            level,
            "Worker %s (process %s) %s; %s.",
            *(self._place.worker_id, pid, how_it_ended(code), f"{said} {then}".strip()),
            extra={"worker_id": self._place.worker_id},
        )
        return pause
