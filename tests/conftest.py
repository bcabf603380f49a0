"""Leaves out on the other databases what is tested on SQLite and is the same on all of them."""

from collections.abc import Generator
from typing import Any

import pytest

from tests.settings import TEST_DB


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if TEST_DB == "sqlite":
        return
    tested = pytest.mark.skip(reason="the same on any database: tested on SQLite")
    for item in items:
        if item.get_closest_marker("any_database"):
            item.add_marker(tested)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let reports tell of texts with lone surrogates: between processes they travel as UTF-8."""
    return encodable((yield))


def encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {encodable(key): encodable(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(encodable(each) for each in value)
    return value
