"""How a worker tells those who wait for a job that it has ended.

A process that waits says so on the workers' channel, and again as long as it waits, since workers
come, go and forget. The worker that ends such a job says so once the ending is committed. While
nobody waits nothing is sent. All of it is a hint: those who wait look by themselves as well.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import batched
from queue import Empty, SimpleQueue
from uuid import UUID

from django.db import Error as DatabaseFault

from . import own_connection, store_for
from .base import CHANNEL, Store
from .bells import Bell
from .messages import Finish

logger = logging.getLogger("durable_tasks")

ENDED_CHANNEL = "durable_tasks_ended"
# How a wait begins on the workers' channel: where others name a backend, it names none.
WAIT = "\n"
# How it is said there that one of a worker's jobs is to be cancelled; the worker's id follows.
CANCEL = "\n\n"
# The same of what somebody wants of a worker.
WISH = "\n\n\n"
# Ids in one notification, which takes less than 8,000 bytes.
MAX_IDS = 200
# Seconds between two times that a wait is said, and for which a worker remembers it.
REPEAT, REMEMBER = 1.0, 5.0
# Jobs that a worker remembers to be waited for.
MAX_AWAITED = 10_000
# Seconds for which a process listens on after its last wait. Short: PostgreSQL drops no database
# that is in use, such as a test's, but waits 5 seconds for connections to go.
LINGER = 2.0


def _texts(ids: Iterable[UUID]) -> Iterator[str]:
    for some in batched(ids, MAX_IDS):
        yield " ".join(id.hex for id in some)


def _ids(text: str) -> Iterator[UUID]:
    for word in text.split():
        with suppress(ValueError):  # anybody may send on a channel
            yield UUID(word)


def tell(store: Store, ids: Iterable[UUID]) -> None:
    """Notify those who wait for these jobs that they have ended."""
    for text in _texts(ids):
        store.notify(text, ENDED_CHANNEL)


# In a worker ----------------------------------------------------------------------------------


class Awaited:
    """The jobs that others wait for, as far as this worker has heard."""

    def __init__(self) -> None:
        self._until: dict[UUID, float] = {}
        self._untold: SimpleQueue[UUID] = SimpleQueue()

    def hear(self, text: str) -> None:
        """Remember, for a while, the jobs that a notification names."""
        self.forget()
        now = time.monotonic()
        for id in _ids(text):
            if id not in self._until:
                if len(self._until) >= MAX_AWAITED:
                    continue
                logger.debug("Job %s is waited for.", id)
            self._until[id] = now + REMEMBER

    def forget(self) -> None:
        """Forget the waits that were not said again."""
        now = time.monotonic()
        for id in [id for id, until in list(self._until.items()) if until < now]:
            self._until.pop(id, None)

    def note(self, finishes: Iterable[Finish]) -> bool:
        """Note which of these jobs' waiters are to be told; return whether there are any.

        May be called from any thread. Costs nothing while nobody waits.
        """
        if not self._until:
            return False
        ids = [finish.id for finish in finishes if self._until.pop(finish.id, None)]
        for id in ids:
            self._untold.put(id)
        return bool(ids)

    def tell(self, store: Store) -> bool:
        """Notify those who wait for what was noted; return whether there was anything."""
        ids = []
        with suppress(Empty):
            while True:
                ids.append(self._untold.get_nowait())
        tell(store, ids)
        return bool(ids)


# In a process that waits ----------------------------------------------------------------------


class Listener:
    """Hears of endings for all who wait in this process, on a thread and a connection of its own.

    They are there only while somebody waits, and ``LINGER`` seconds more.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._wakes: dict[UUID, set[Callable[[], object]]] = {}
        self._unsaid: set[UUID] = set()
        self._bell: Bell | None = None  # while the thread runs

    @contextmanager
    def watch(self, id: UUID, wake: Callable[[], object]) -> Iterator[Callable[[], None]]:
        """Give a function to call before each pause in a wait for this job.

        Within the block ``wake`` is called, from another thread, when it is time to look: when
        listening begins, since the job may have ended before, and when a worker has ended it.
        """
        try:
            yield lambda: self._begin(id, wake)
        finally:
            with self._lock:
                wakes = self._wakes.get(id, set())
                wakes.discard(wake)
                if not wakes:
                    self._wakes.pop(id, None)

    def _begin(self, id: UUID, wake: Callable[[], object]) -> None:
        with self._lock:
            wakes = self._wakes.setdefault(id, set())
            if wake not in wakes:
                wakes.add(wake)
                self._unsaid.add(id)
                if self._bell is not None:
                    self._bell.wake()
            if self._bell is None:  # the first wait, or the connection was lost
                self._bell = Bell(self._ended)
                threading.Thread(
                    target=self._run,
                    args=[self._bell],
                    name=f"waits of {self._database}",
                    daemon=True,
                ).start()

    def _run(self, bell: Bell) -> None:
        connection = own_connection(self._database)
        try:
            self._listen(bell, store_for(connection, own=True))
        except DatabaseFault as error:
            logger.debug("Waiting without notifications: %s", str(error).strip())
        finally:
            connection.close()
            with self._lock:
                if self._bell is bell:
                    self._bell = None
                bell.close()

    def _listen(self, bell: Bell, store: Store) -> None:
        bell.listen(store, ENDED_CHANNEL)
        said = waited = time.monotonic()
        with self._lock:
            self._unsaid = set(self._wakes)
        while True:
            now = time.monotonic()
            with self._lock:
                new, self._unsaid = self._unsaid, set()
                ids = new
                if now - said >= REPEAT:
                    said, ids = now, set(self._wakes)
                if self._wakes:
                    waited = now
                elif now - waited > LINGER:
                    self._bell = None  # the next wait starts a new thread
                    return
            for text in _texts(ids):
                store.notify(WAIT + text, CHANNEL)
            for id in new:
                self._wake(id)
            bell.wait(REPEAT)

    def _ended(self, payload: str) -> None:
        for id in _ids(payload):
            self._wake(id)

    def _wake(self, id: UUID) -> None:
        with self._lock:
            wakes = list(self._wakes.get(id, ()))
        for wake in wakes:
            with suppress(RuntimeError):  # its event loop is closed
                wake()


@cache
def listener(database: str) -> Listener:
    """Return this process's listener on the database with this alias."""
    return Listener(database)


# A fork has the memory of its parent, but neither its threads nor, to itself, its connections.
os.register_at_fork(after_in_child=listener.cache_clear)
