"""Temporary."""

from datetime import UTC, datetime, timedelta
from random import Random

from cronsim import CronSim
from django.utils import timezone as tz


class ScheduleExhausted(Exception):
    pass


class Schedule:
    timezone = ""

    def dates(self, after, until=None):
        try:
            while True:
                after = self.next(after, until)
                yield after
        except ScheduleExhausted:
            return


class Every(Schedule):
    def __init__(self, period):
        self.p = period

    def __str__(self):
        return f"{self.p:g}s"

    def next(self, after, until=None):
        n = int(after.timestamp() // self.p) + 1
        return datetime.fromtimestamp(n * self.p, UTC)


class Crontab(Schedule):
    def __init__(self, spec, timezone=None, seed=None):
        parts = spec.split()
        self.spec = " ".join(
            str(Random(f"{seed}{i}").randint(0, 59)) if p == "~" else p for i, p in enumerate(parts)
        )
        import zoneinfo

        self.timezone = (
            zoneinfo.ZoneInfo(timezone)
            if isinstance(timezone, str)
            else timezone or tz.get_default_timezone()
        )
        CronSim(self.spec, datetime.now())

    def __str__(self):
        return self.spec

    def next(self, after, until=None):
        return next(CronSim(self.spec, after.astimezone(self.timezone)))


def parse_schedule(spec, *, timezone=None, seed=None):
    if isinstance(spec, Schedule):
        return spec
    if isinstance(spec, timedelta):
        return Every(spec.total_seconds())
    if isinstance(spec, (int, float)):
        return Every(spec)
    if spec.endswith("s") and " " not in spec:
        return Every(float(spec[:-1]))
    if spec.endswith("h") and " " not in spec:
        return Every(3600 * float(spec[:-1]))
    try:
        return Crontab(spec, timezone, seed)
    except Exception as e:
        raise ValueError(f"{spec!r} is no crontab: {e}") from e
