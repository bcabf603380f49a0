"""The scheduler: enqueues periodic tasks when they are due."""

import logging
import threading
from collections.abc import Callable

from django.db import Error as DatabaseFault
from django.db import connections

from .. import clock
from ..chores.schedule import Fired, Timetable
from .clock import Clock
from .pools import tidy_connections

logger = logging.getLogger("durable_tasks")

# Seconds until the next try when the database is away.
PAUSE = 1.0
# Seconds between two looks while a test's clock tells the time, which may move on at any moment.
MOVED_LOOK = 0.05
# Seconds that a stop waits for the project's code.
STOP_TIMEOUT = 5.0


class Scheduler:
    """Fires periodic tasks on a thread and a connection of its own.

    What their arguments are made from is the project's code, which may take its time.
    ``look_every``: seconds between two looks at the rows, which others may change. ``on_fired``:
    called when there is something to claim.
    """

    def __init__(
        self,
        timetable: Timetable,
        *,
        worker_id: str,
        clock: Clock,
        look_every: float,
        on_fired: Callable[[], None],
    ) -> None:
        self._timetable = timetable
        self._worker_id = worker_id
        self._clock = clock
        self._look_every = look_every
        self._on_fired = on_fired
        self._synced = False
        self._failing = False
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT)

    def look(self) -> Fired:
        """Bring the rows up to date, if that was not done yet, and enqueue what is due.

        Raises Django's ``DatabaseError``.
        """
        connection = connections[self._timetable.rows().db]
        if not connection.get_autocommit():  # as its settings may have it
            connection.set_autocommit(True)
        if not self._synced:
            self._timetable.sync(self._clock.now())
            self._synced = True
        fired = self._timetable.tick(self._clock.now())
        if fired.jobs:
            self._on_fired()
        return fired

    def _run(self) -> None:
        try:
            self._fire()
        finally:
            connections.close_all()

    def _fire(self) -> None:
        extra = {"worker_id": self._worker_id}
        while not self._stopping:
            try:
                pause = self._pause(self.look())
                if self._failing:
                    logger.info("Periodic tasks are fired again.", extra=extra)
                    self._failing = False
                if not (self._timetable.entries or self._timetable.schedulable):
                    break
            except DatabaseFault as error:
                pause = PAUSE
                if not self._failing:
                    logger.warning(
                        "Periodic tasks can't be fired, and this is tried again: %s",
                        str(error).strip(),
                        extra=extra,
                    )
                    self._failing = True
            except Exception:  # of the project's schedules: what others have to do goes on
                pause = self._look_every
                logger.exception("Periodic tasks can't be fired.", extra=extra)
            tidy_connections()
            self._wake.wait(pause)

    def _pause(self, fired: Fired) -> float:
        if fired.next_due is None:
            return self._look_every
        wait = (fired.next_due - self._clock.now()).total_seconds()
        longest = self._look_every if clock.source is None else MOVED_LOOK
        return min(max(wait, 0.0), longest)
