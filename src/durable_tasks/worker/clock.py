"""The database's time, told by this host's clock and a measured offset."""

import time
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.utils import timezone

from .. import clock
from ..store import Store


class Clock:
    """Tells database time without asking the database.

    Hosts whose clocks differ then agree on what is due, and who was not seen for too long.
    """

    def __init__(self) -> None:
        self._aware = settings.USE_TZ  # asked for twice a job, which settings make slow
        self._offset = 0.0
        self._delta = timedelta()

    def measure(self, store: Store) -> None:
        """Ask the database for its time once."""
        before = time.time()
        there = store.database_time()
        self._offset = there - (before + time.time()) / 2
        self._delta = timedelta(seconds=self._offset)

    def now(self) -> datetime:
        """Return database time as Django's settings want it: aware, or naive local time."""
        if clock.source is not None:
            return clock.now()
        if self._aware:
            return datetime.now(UTC) + self._delta
        return timezone.now() + self._delta

    def micros(self) -> int:
        """Return database time in microseconds since 1970."""
        return int((time.time() + self._offset) * 1_000_000)
