"""What a worker waits on between two heartbeats, and how an enqueue is heard.

A notification is a hint: everything is right without one, only later.
"""

import select
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.db import transaction

from ..statuses import JobStatus
from .base import CHANNEL, THROTTLE, Store
from .messages import NewJob

# A job that is due so soon may be due before a worker's next look.
SOON = timedelta(minutes=1)

READY = JobStatus.READY.value

_last_rings: dict[tuple[str, str, str], float] = {}


class Bell:
    """Waits for a time, for ``wake()``, or for a notification.

    ``on_ring`` is called with the payload of each notification.
    """

    def __init__(self, on_ring: Callable[[str], None]) -> None:
        self._on_ring = on_ring
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        self._driver: Any = None

    def listen(self, store: Store, channel: str = CHANNEL) -> None:
        """Hear notifications on this store's connection from now on."""
        with store.connection.cursor() as cursor:
            cursor.execute(f"LISTEN {channel}")
        self._driver = store.connection.connection
        # Also those that come along with the answer to another statement.
        self._driver.add_notify_handler(lambda notify: self._on_ring(notify.payload))

    def ignore(self, store: Store | None = None) -> None:
        """Hear no notifications; ``store``: a connection that is not to bring them any more."""
        self._driver = None
        if store is not None:
            with store.connection.cursor() as cursor:
                cursor.execute(f"UNLISTEN {CHANNEL}")

    def wait(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for ``wake()``; call ``on_ring`` meanwhile.

        Returns early if the connection was lost: the next use of it says so.
        """
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            poll = select.poll()  # select() can't watch the files of a process with many
            poll.register(self._here, select.POLLIN)
            if self._driver is not None and not self._driver.closed:
                poll.register(self._driver, select.POLLIN)
            ready = [file for file, _ in poll.poll(left * 1000)]
            if self._here.fileno() in ready:
                with suppress(BlockingIOError):
                    while self._here.recv(1024):
                        pass
                return
            if ready:
                try:
                    self._take(self._driver.pgconn)
                except Exception:
                    self._driver = None
                    return

    def _take(self, pgconn: Any) -> None:
        pgconn.consume_input()
        while (notify := pgconn.notifies()) is not None:
            self._on_ring(notify.extra.decode())

    def wake(self) -> None:
        """Let ``wait()`` return; may be called from any thread and from a signal handler."""
        with suppress(OSError):  # enough wait to be read, or nobody reads any more
            self._there.send(b"!")

    def close(self) -> None:
        self._here.close()
        self._there.close()


def ring_for(store: Store, rows: Iterable[NewJob]) -> None:
    """Notify the workers of these new jobs' queues once the caller's transaction has committed.

    Not for jobs that are due later than a worker looks anyway.
    """
    ring_on_commit(
        store,
        {
            (row.backend_name, row.queue_name)
            for row in rows
            if row.status == READY or row.run_at - row.enqueued_at < SOON
        },
    )


def ring_on_commit(store: Store, queues: set[tuple[str, str]]) -> None:
    """Notify the workers of these queues once the caller's transaction has committed.

    ``queues``: pairs of a backend and a queue.
    """
    alias = store.connection.alias

    def ring() -> None:
        now = time.monotonic()
        for backend_name, queue_name in queues:
            key = (alias, backend_name, queue_name)
            if now - _last_rings.get(key, float("-inf")) >= THROTTLE:
                _last_rings[key] = now
                store.notify(f"{backend_name}\n{queue_name}")

    if queues:
        # Robust: the jobs are saved, whatever becomes of the notification.
        transaction.on_commit(ring, using=alias, robust=True)
