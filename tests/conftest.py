"""Leaves out on the other databases what is tested on SQLite and is the same on all of them."""

import pytest

from tests.settings import TEST_DB


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if TEST_DB == "sqlite":
        return
    tested = pytest.mark.skip(reason="the same on any database: tested on SQLite")
    for item in items:
        if item.get_closest_marker("any_database"):
            item.add_marker(tested)
