"""Signals and log lines of what the worker does, on a thread of its own."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from queue import SimpleQueue

from django.db import connections

from ..announcements import Announcements
from ..compat import task_started
from ..execute import Executor
from ..signals import is_heard
from ..store import Claim, Finish
from .pools import tidy_connections

logger = logging.getLogger("durable_tasks")

# So many endings may wait to be announced before the worker waits for its receivers.
MAX_BEHIND = 10_000


class Announcer:
    """Tells receivers and logs: a slow receiver of a signal must not stop claims.

    ``sender``: the backend's class, as Django's signals have it.
    """

    def __init__(self, sender: type) -> None:
        self._sender = sender
        self._announcements: Announcements
        self._sends = True
        self._on_ended: Callable[[list[Finish]], None]
        self._queue: SimpleQueue[tuple[Claim, datetime] | list[Finish] | None] = SimpleQueue()
        self._tells_starts = True
        self._behind = 0
        self._room = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self, executor: Executor, on_ended: Callable[[list[Finish]], None]) -> None:
        """Begin to announce what ``executor`` starts.

        ``on_ended``: called at once, whatever waits to be announced, with the jobs that ended.
        """
        self._announcements = Announcements(self._sender, executor)
        self._sends = executor.options.signals
        self._on_ended = on_ended
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Announce what is left, within ``timeout`` seconds if not None, then end."""
        self._queue.put(None)
        self._thread.join(timeout)

    def look(self) -> None:
        """See whether anybody listens to the starts of what is about to be claimed."""
        heard = self._sends and is_heard(task_started)
        self._tells_starts = heard or logger.isEnabledFor(logging.DEBUG)

    def started(self, claim: Claim, started_at: datetime) -> None:
        """A job is about to run; called by the thread that runs it."""
        if self._tells_starts:
            self._queue.put((claim, started_at))

    def ended(self, finishes: list[Finish]) -> None:
        """Jobs ended and it counted. Waits if the receivers are far behind."""
        if not finishes:
            return
        self._on_ended(finishes)
        with self._room:
            self._room.wait_for(lambda: self._behind < MAX_BEHIND)
            self._behind += len(finishes)
        self._queue.put(finishes)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                tidy_connections()
                if isinstance(item, tuple):
                    self._announcements.start(*item)
                else:
                    self._announcements.ends(item)
            except Exception:
                logger.exception("An announcement failed; the jobs themselves are saved.")
            finally:
                if isinstance(item, list):
                    with self._room:
                        self._behind -= len(item)
                        self._room.notify_all()
        connections.close_all()
