"""A way to the database that can be cut."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from django.db import connections

# Seconds after which a thread looks whether it may go on.
LOOK = 0.02


class Proxy:
    """Forwards TCP connections to the database of the running test.

    ``hold()``: forwards nothing from now on and closes nothing, as when a cable is cut, and new
    connections are not answered. ``cut()``: closes every connection. ``lose_reply(words)``: closes
    the first connection on which these words pass by, one after the other, in place of the answer.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        settings = connections["default"].settings_dict
        self._settings = settings
        self._listener = socket.create_server((host, 0), backlog=50)
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._closed = False
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._words: tuple[bytes, ...] = ()
        self.replies_lost = 0
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        settings = self._settings
        postgres = settings["ENGINE"].endswith("postgresql")
        user = quote(settings["USER"] or "", safe="")
        password = f":{quote(settings['PASSWORD'], safe='')}" if settings["PASSWORD"] else ""
        scheme, name = ("postgresql", "postgres") if postgres else ("mysql", "")
        return f"{scheme}://{user}{password}@{self.host}:{self.port}/{name}"

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def cut(self) -> int:
        """Close every connection; return how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for each in [each for pair in pairs for each in pair]:
            _close(each)
        return len(pairs)

    def lose_reply(self, *words: bytes) -> None:
        self._words = words

    def close(self) -> None:
        self._closed = True
        self._open.set()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                if not select.select([self._listener], [], [], LOOK)[0]:
                    continue
                client, _ = self._listener.accept()
            except (OSError, ValueError):
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        self._open.wait()
        server: socket.socket | None = None
        try:
            server = self._connect()
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            self._forward(client, server)
        except (OSError, ValueError):  # closed meanwhile
            pass
        finally:
            _close(client)
            if server is not None:
                _close(server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0  # how many of the words
        while not self._closed:
            ready = select.select([client, server], [], [], 1.0)[0] if self._open.wait(1.0) else []
            for each in ready:
                if not self._open.is_set():
                    break
                data = each.recv(65536)
                if not data:
                    return
                words = self._words
                if each is client:
                    while passed < len(words) and words[passed] in data:
                        passed += 1
                elif words and passed == len(words):
                    self._words = ()
                    self.replies_lost += 1
                    return
                (server if each is client else client).sendall(data)

    def _connect(self) -> socket.socket:
        host, port = self._settings["HOST"] or "127.0.0.1", self._settings["PORT"]
        postgres = self._settings["ENGINE"].endswith("postgresql")
        if host.startswith("/"):
            made = socket.socket(socket.AF_UNIX)
            made.connect(f"{host}/.s.PGSQL.{port or 5432}" if postgres else host)
            return made
        return socket.create_connection((host, int(port or (5432 if postgres else 3306))))


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def running_proxy(host: str = "127.0.0.1") -> Iterator[Proxy]:
    """Give a proxy at this address that is gone after the block."""
    proxy = Proxy(host)
    try:
        yield proxy
    finally:
        proxy.close()
