"""``db_worker --reload``: starting again whenever code changes, on Django's reloader."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from django.utils import autoreload
from django.utils.module_loading import autodiscover_modules

from ..worker.worker import Worker

# Seconds for which a worker that is reloaded waits for what runs, if nothing else is said.
RELOAD_TIMEOUT = 10.0
# The exit code with which a process asks Django's reloader to be started again, and the one with
# which it ends if its code can't be used.
RELOAD, BROKEN = 3, 1
# Seconds between two looks for a change that may mend it.
LOOK = 0.5


def is_reloaded() -> bool:
    """Return whether this process is the reloader's child, which works."""
    return os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) == "true"


def import_tasks() -> None:
    """Import each app's tasks: code that is broken is not to fail the jobs that wait for it.

    Raises what an app's module raises.
    """
    autodiscover_modules("tasks")


def run_reloading(run: Callable[[], None]) -> NoReturn:
    """Call ``run`` in a process that is started again when code changes; exit when it ends.

    A process that can't start waits for the next change, as runserver does.
    """
    if is_reloaded():
        autoreload.run_with_reloader(run)
        sys.exit(0)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    # The child, which gets it as well, is to finish its tasks.
    interrupts = signal.signal(signal.SIGINT, lambda number, frame: None)
    before = _changes()  # not later: it may be mended while the broken code is being loaded
    while (code := autoreload.restart_with_reloader()) == BROKEN:
        sys.stderr.write("Waiting for a change of the code.\n")
        finishes = signal.signal(signal.SIGINT, interrupts)
        while (now := _changes()) == before:
            time.sleep(LOOK)
        signal.signal(signal.SIGINT, finishes)
        before = now
    sys.exit(code)


def _changes() -> dict[Path, float]:
    """Return when each file was changed last that this process has loaded."""
    files = autoreload.iter_all_python_module_files()
    return {file: file.stat().st_mtime for file in files if file.exists()}


def stop_before_exit(worker: Worker, timeout: float) -> None:
    """Under the reloader, which owns the signals: finish what runs when the process exits.

    ``timeout``: seconds.
    """
    this = threading.current_thread()

    def finish() -> None:
        worker.stop()
        this.join(timeout=timeout)

    atexit.register(finish)
