"""Finds Chromium, and runs it on a thread of its own.

Playwright's plain interface keeps an event loop going on the thread that uses it, and there Django
refuses the ORM. So the browser lives on another thread, and a test holds what ``Elsewhere`` gives.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VARIABLE = "DURABLE_TASKS_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")


class Missing(Exception):
    """There is no Chromium; the text says what to do."""


class Elsewhere:
    """An object of another thread, used from here: each use waits for that thread.

    What a use gives is of the other thread as well, unless it is plain data.
    """

    def __init__(self, thread: ThreadPoolExecutor, it: Any) -> None:
        self._thread, self._it = thread, it

    def _use(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        args = tuple(map(_bare, args))
        kwargs = {name: _bare(value) for name, value in kwargs.items()}
        return self._wrapped(self._thread.submit(function, *args, **kwargs).result())

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wrapped(each) for each in value]
        if callable(value) or type(value).__module__.startswith("playwright."):
            return Elsewhere(self._thread, value)
        return value

    def __getattr__(self, name: str) -> Any:
        return self._use(getattr, self._it, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._use(self._it, *args, **kwargs)

    def __enter__(self) -> Any:
        return self._use(type(self._it).__enter__, self._it)

    def __exit__(self, *error: Any) -> Any:
        return self._use(type(self._it).__exit__, self._it, *error)


def _bare(value: Any) -> Any:
    return value._it if isinstance(value, Elsewhere) else value


def executable(bundled: str) -> str:
    """Return the path of a Chromium; ``bundled``: of the one that Playwright would download.

    Raises ``Missing``.
    """
    if given := os.environ.get(VARIABLE):
        if found := shutil.which(given):
            return found
        raise Missing(f"{VARIABLE} names no program: {given}")
    for name in NAMES:
        if found := shutil.which(name):
            return found
    if Path(bundled).exists():
        return bundled
    raise Missing(
        f"There is no Chromium. Debian: apt-get install chromium; or set {VARIABLE}; "
        "or run `.venv/bin/playwright install chromium`."
    )


@contextmanager
def running() -> Iterator[tuple[Any, Any]]:
    """Give a browser, and Playwright's ``expect``. Raises ``Missing``."""
    from playwright.sync_api import expect, sync_playwright

    with ThreadPoolExecutor(1, "browser") as thread, Elsewhere(thread, sync_playwright()) as made:
        browser = made.chromium.launch(executable_path=executable(made.chromium.executable_path))
        try:
            yield browser, Elsewhere(thread, expect)
        finally:
            browser.close()
