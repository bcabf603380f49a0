"""What the browser's tests share: a site with a strict policy, and pages that tell their faults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.test import override_settings
from django.urls import reverse

from ..helpers import tasks_setting

LOOK_AT_PAGES = (Path(__file__).parent / "look.js").read_text()

POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"

# Browsers ask for it by themselves, and the site of the tests has none.
ICON = "/favicon.ico"


def with_policy(get_response: Any) -> Any:
    """The middleware of a site that allows nothing inline and nothing from elsewhere."""

    def middleware(request: Any) -> Any:
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return middleware


@dataclass(frozen=True)
class Look:
    """How a page is looked at."""

    width: int
    height: int
    scheme: str = "light"

    def __str__(self) -> str:
        return f"{self.width} px, {self.scheme}"


DESKTOP, PHONE = Look(1300, 900), Look(390, 844)
DARK, DARK_PHONE = Look(1300, 900, "dark"), Look(390, 844, "dark")
LOOKS = (DESKTOP, PHONE, DARK, DARK_PHONE)


@pytest.mark.any_database
@pytest.mark.any_version
@override_settings(
    MIDDLEWARE=["tests.browser.case.with_policy", *settings.MIDDLEWARE],
    TASKS=tasks_setting(schedulable=["tests.app.tasks.add", "tests.app.tasks.echo"]),
)
class BrowserTestCase(StaticLiveServerTestCase):
    """Tests in Chromium, beside a real server.

    What a page writes to its console as an error, what it does not get and what it asks of another
    host fails the test.
    """

    browser: Any
    expect: Any

    def setUp(self) -> None:
        self.faults: list[str] = []
        self.user = get_user_model().objects.create_superuser("admin", "a@example.com", "secret")

    def tearDown(self) -> None:
        self.assertEqual(self.faults, [])

    def open(self, url: str = "", look: Look = DESKTOP, *, user: Any = None) -> Any:
        """Return a page of a new session, at ``url`` if given; ``user``: who is logged in."""
        context = self.browser.new_context(
            base_url=self.live_server_url,
            viewport={"width": look.width, "height": look.height},
            color_scheme=look.scheme,
            locale="en-GB",
            timezone_id="UTC",
        )
        self.addCleanup(context.close)
        context.set_default_timeout(10_000)
        context.add_init_script(LOOK_AT_PAGES)
        if user is not False:
            self.client.force_login(user or self.user)
            cookie = self.client.cookies[settings.SESSION_COOKIE_NAME].value
            context.add_cookies(
                [
                    {
                        "name": settings.SESSION_COOKIE_NAME,
                        "value": cookie,
                        "url": self.live_server_url,
                    }
                ]
            )
        page = context.new_page()
        self._watch(page)
        if url:
            page.goto(url)
        return page

    def _watch(self, page: Any) -> None:
        """Note the page's faults. The listeners run on the browser's thread."""

        def console(message: Any) -> None:
            place = message.location.get("url", "")
            if message.type in ("error", "warning") and not place.endswith(ICON):
                self.faults.append(f"console: {message.text} ({place})")

        def requested(request: Any) -> None:
            if not request.url.startswith((self.live_server_url, "data:", "blob:", "about:")):
                self.faults.append(f"asks elsewhere: {request.url}")

        def failed(request: Any) -> None:
            # Left for another page meanwhile.
            if request.failure != "net::ERR_ABORTED":
                self.faults.append(f"{request.failure}: {request.url}")

        def answered(response: Any) -> None:
            if response.status >= 400 and not response.url.endswith(ICON):
                self.faults.append(f"{response.status}: {response.url}")

        page.on("console", console)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", requested)
        page.on("requestfailed", failed)
        page.on("response", answered)

    # What is asked of every page

    def assert_fits(self, page: Any) -> None:
        """That the page itself does not scroll sideways."""
        self.assertEqual(page.evaluate("look.overflow()"), [])

    def assert_readable(self, page: Any) -> None:
        """That the pills' text stands out by 4.5 to 1 at least (WCAG 2.2, 1.4.3)."""
        self.assertEqual(page.evaluate("look.faint('.dt-status')"), [])

    def assert_named(self, page: Any) -> None:
        """That what can be used has a name, ids are unique, and tables have heads."""
        self.assertEqual(page.evaluate("look.nameless()"), [])

    def assert_still(self, page: Any) -> None:
        """That nothing moved by itself since ``look.forget()``."""
        self.assertEqual(page.evaluate("look.shifts()"), [])


def show(page: Any, look: Look) -> None:
    """Look at a page that is open in another way; return when it has been drawn anew."""
    page.set_viewport_size({"width": look.width, "height": look.height})
    page.emulate_media(color_scheme=look.scheme)
    page.evaluate("look.drawn()")


def url(name: str, *args: Any, **query: str) -> str:
    """Return the path of a page of the tasks' admin, such as ``job_changelist``."""
    return reverse(f"admin:durable_tasks_{name}", args=args, query=query or None)


def path_of(page: Any) -> str:
    parts = urlsplit(page.url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
