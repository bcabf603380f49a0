"""Fixtures for pytest, with pytest-django: ``run_tasks`` and ``task_runner``.

pytest loads this in every project that has the package installed: so nothing of Django or of the
engine is imported before a fixture is asked for.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import LiveRunner


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "task_runner(workers, queue_names, backend, periodic): arguments of the runner that the "
        "fixture task_runner gives.",
    )


@pytest.fixture
def run_tasks(db: None) -> Callable[..., Any]:
    """``durable_tasks.testing.run_tasks()``, and a database."""
    from .testing import run_tasks

    return run_tasks


@pytest.fixture
def task_runner(request: pytest.FixtureRequest, transactional_db: None) -> "Iterator[LiveRunner]":
    """A runner beside the test, as ``RunnerTestCase`` has it."""
    from .testing import live_runner

    marker = request.node.get_closest_marker("task_runner")
    with live_runner(**(marker.kwargs if marker else {})) as runner:
        yield runner
