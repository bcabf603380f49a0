"""One Chromium for all tests of this folder; without one they are skipped, or fail if CI is set."""

import os

import pytest

from . import chromium


@pytest.fixture(scope="session")
def browser():
    pytest.importorskip("playwright", reason="playwright is not installed")
    try:
        with chromium.running() as (browser, expect):
            yield browser, expect
    except chromium.Missing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(autouse=True, scope="class")
def _browser(request, browser):
    request.cls.browser, request.cls.expect = browser
