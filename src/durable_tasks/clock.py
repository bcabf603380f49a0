"""The present: all of the engine asks here, so that a test can move it."""

from collections.abc import Callable
from datetime import datetime

from django.conf import settings
from django.utils import timezone

# What tells the time instead of the system and the database, aware; only tests set it.
source: Callable[[], datetime] | None = None


def now() -> datetime:
    """Return the present as Django's settings want it: aware, or naive local time."""
    if source is None:
        return timezone.now()
    return source() if settings.USE_TZ else timezone.make_naive(source())
