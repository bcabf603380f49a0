"""The web server: Granian, which keeps the site's workers as processes of their own."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels
from watchfiles import Change, DefaultFilter

from .application import load_site

LOG_LEVELS = [LogLevels.warning, LogLevels.info, LogLevels.debug]


class SourceFilter(DefaultFilter):  # type: ignore[misc]
    """What is worth a reload. Not every file: the database may be one, and uploads are."""

    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith((".py", ".html", ".mo")) and super().__call__(change, path)


class Server(Granian):  # type: ignore[misc]
    """Granian with the site.

    ``path``: of the application, see ``application``. ``lifespan``: whether an ASGI application is
    told of its start and its end. ``threads``: per worker, or None for what suits the interface.
    ``reload``: the folder whose changes count, or None. ``grace``: whole seconds that requests have
    to end when the server stops or reloads. ``on_stop``: called as soon as the server
    is to stop, when it still has requests to answer. ``on_second_signal``: called when it is to
    stop at once, from a signal handler.
    """

    def __init__(
        self,
        path: str,
        *,
        asgi: bool,
        lifespan: bool,
        address: str,
        port: int,
        workers: int,
        threads: int | None,
        reload: Path | None,
        grace: int,
        log_access: bool,
        verbosity: int,
        on_stop: Callable[[], None],
        on_second_signal: Callable[[], None],
    ) -> None:
        self._on_stop = on_stop
        self._on_second_signal = on_second_signal
        self._load = partial(start_site, path, asgi=asgi, grace=grace)
        with_asgi = Interfaces.ASGI if lifespan else Interfaces.ASGINL
        super().__init__(
            path,
            address=address,
            port=port,
            interface=with_asgi if asgi else Interfaces.WSGI,
            workers=workers,
            blocking_threads=threads,
            websockets=asgi,
            log_level=LOG_LEVELS[min(verbosity, 2)],
            log_access=log_access,
            respawn_failed_workers=True,
            workers_kill_timeout=grace,
            reload=reload is not None,
            reload_paths=[reload] if reload is not None else None,
            reload_filter=SourceFilter,
            # An error in what was just saved: the next change may mend it.
            reload_ignore_worker_failure=True,
        )
        if reload is not None:
            # Its terminal was closed. To Granian that is the wish for a reload.
            self.on_startup(lambda: signal.signal(signal.SIGHUP, self.signal_handler_interrupt))

    def run(self) -> None:
        """Serve until a signal stops it. Raises ``SystemExit`` if the site can't be served."""
        self.serve(target_loader=self._load, wrap_loader=False)

    def shutdown(self, exit_code: int = 0) -> None:
        self._on_stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop_at_once)
        super().shutdown(exit_code)

    def _stop_at_once(self, number: int, frame: Any) -> None:
        for process in self.wrks:
            process.kill()
        self._on_second_signal()
        os._exit(128 + number)


def start_site(path: str, *, asgi: bool, grace: float) -> Any:
    """Return the site's application, in a process of the site's, and prepare that process.

    ``grace``: seconds that requests have to end once the server is gone.
    """
    if (server := multiprocessing.parent_process()) is not None:
        # The terminal's Ctrl-C is for the server, which then tells us: Granian's processes may hang
        # if they are told twice.
        os.setpgid(0, 0)
        threading.Thread(
            target=_leave_with, args=[server, grace], name="server", daemon=True
        ).start()
    return load_site(path, asgi=asgi)


def _leave_with(server: BaseProcess, grace: float) -> None:
    """End this process once the server's is gone: a port must not be kept by old code."""
    server.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)
