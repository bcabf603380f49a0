"""When something is due: crontabs, lengths of time, and the two nights on which clocks are set."""

import copy
import os
import pickle
import random
import re
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from django.test import SimpleTestCase, override_settings

from durable_tasks import Crontab, Duration, Every, Schedule, ScheduleExhausted
from durable_tasks.schedules import parse_schedule

pytestmark = pytest.mark.any_database

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 5, 17, 12, tzinfo=UTC)  # a Sunday


def first(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    return list(islice(schedule.dates(after), count))


def clock(zone: str, schedule: Schedule, start: str, end: str) -> list[str]:
    """What the clock of the zone shows at each time between two walls: hours, minutes, offset."""
    begin, finish = (
        datetime.fromisoformat(at).replace(tzinfo=ZoneInfo(zone)) for at in (start, end)
    )
    return [
        f"{time.astimezone(ZoneInfo(zone)):%d %H:%M %z}" for time in schedule.dates(begin, finish)
    ]


class Wrong:
    """Text and types that make no sense, each with a part of the error."""

    def check(self, make: Any, cases: dict[Any, str], error: type[Exception] = ValueError) -> None:
        assert isinstance(self, SimpleTestCase)
        for given, part in cases.items():
            with self.subTest(given=given), self.assertRaises(error) as caught:
                make(given)
            self.assertIn(part, str(caught.exception))


# What is right, slowly ---------------------------------------------------------------------------


@dataclass
class Fields:
    """A random crontab and the values that each of its fields stands for."""

    text: str
    values: list[set[int]]

    @property
    def by_the_clock(self) -> bool:
        minute, hour, *_ = self.text.split()
        return minute.startswith("*") or hour.startswith("*")

    def match(self, wall: datetime) -> bool:
        minutes, hours, days, months, weekdays = self.values
        if not (wall.minute in minutes and wall.hour in hours and wall.month in months):
            return False
        _, _, day, _, weekday = self.text.split()
        found = wall.day in days, wall.isoweekday() % 7 in {each % 7 for each in weekdays}
        return all(found) if day.startswith("*") or weekday.startswith("*") else any(found)


def random_fields(source: random.Random) -> Fields:
    drawn = [
        random_field(source, 0, 59, star=0.3),
        random_field(source, 0, source.choice([4, 23]), star=0.3, all_of=(0, 23)),
        random_field(source, 1, 28, star=0.7, all_of=(1, 31)),
        random_field(source, 1, 12, star=0.8),
        random_field(source, 0, 7, star=0.7),
    ]
    return Fields(" ".join(text for text, _ in drawn), [values for _, values in drawn])


def random_field(
    source: random.Random,
    low: int,
    high: int,
    *,
    star: float,
    all_of: tuple[int, int] | None = None,
) -> tuple[str, set[int]]:
    least, most = all_of or (low, high)
    if source.random() < star:
        step = source.choice([1, 1, 2, 3, 7, 15])
        return ("*" if step == 1 else f"*/{step}"), set(range(least, most + 1, step))
    texts, values = [], set()
    for _ in range(source.choice([1, 1, 2, 3])):
        start, end = sorted((source.randint(low, high), source.randint(low, high)))
        step = source.choice([1, 2, 5])
        if source.random() < 0.5:
            texts.append(str(start))
            values.add(start)
        elif step == 1:
            texts.append(f"{start}-{end}")
            values |= set(range(start, end + 1))
        else:
            texts.append(f"{start}-{end}/{step}")
            values |= set(range(start, end + 1, step))
    return ",".join(texts), values


class Walk:
    """Each minute of UTC from ``start`` to ``end``, with what the clock of a zone then shows.

    ``reached``: what it shows for the first time, or has left out since the minute before.
    """

    def __init__(self, zone: ZoneInfo, start: datetime, end: datetime) -> None:
        self.start, self.end = start, end
        self.minutes: list[tuple[datetime, list[datetime], list[datetime]]] = []
        time = start
        latest = start.astimezone(zone).replace(tzinfo=None) - MINUTE
        while time <= end:
            shown = time.astimezone(zone).replace(tzinfo=None)
            reached = []
            while latest < shown:
                latest += MINUTE
                reached.append(latest)
            self.minutes.append((time, [shown], reached))
            time += MINUTE

    def times(self, fields: Fields) -> list[datetime]:
        return [
            time
            for time, shown, reached in self.minutes
            if any(map(fields.match, shown if fields.by_the_clock else reached))
        ]


def clock_changes(zone: ZoneInfo, first_year: int, last_year: int) -> Iterator[datetime]:
    """The minutes of UTC at which the clock of a zone is set."""
    time = datetime(first_year, 1, 1, tzinfo=UTC)
    while time.year <= last_year:
        offset = time.astimezone(zone).utcoffset()
        if (time + DAY).astimezone(zone).utcoffset() != offset:
            change = time
            while change.astimezone(zone).utcoffset() == offset:
                change += MINUTE
            yield change
        time += DAY


ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # by half an hour
    "Australia/Sydney",
    "America/Santiago",  # at midnight, in the south
    "America/Havana",  # at midnight, in the north
    "Africa/Casablanca",  # back for Ramadan
    "Antarctica/Troll",  # by two hours
]
UNCHANGED = ["Asia/Kolkata", "Pacific/Marquesas", "UTC"]


@pytest.mark.any_version
class ReferenceTests(SimpleTestCase):
    def compare(self, zone: ZoneInfo, walk: Walk, source: random.Random, specs: int) -> int:
        found = 0
        for _ in range(specs):
            fields = random_fields(source)
            right = walk.times(fields)
            schedule = Crontab(fields.text, zone)
            here = f"{fields.text} in {zone} from {walk.start}"
            before = walk.start - timedelta(microseconds=1)
            self.assertEqual(list(schedule.dates(before, walk.end)), right, here)
            # From wherever one looks, the next one is the same.
            for _ in range(10):
                after = walk.start + source.random() * (walk.end - walk.start)
                due = right[bisect_right(right, after) :][:1]
                if due:
                    self.assertEqual(schedule.next(after.astimezone(zone)), due[0], here)
                minute = after.replace(second=0, microsecond=0).astimezone(zone)
                self.assertEqual(schedule.match(minute), minute.astimezone(UTC) in right, here)
            found += len(right)
        return found

    def test_around_each_change_of_ten_years(self) -> None:
        source = random.Random(1)
        for name in ZONES:
            zone = ZoneInfo(name)
            changes = list(clock_changes(zone, 2017, 2026))
            self.assertGreaterEqual(len(changes), 20, name)
            found = sum(
                self.compare(zone, Walk(zone, change - 15 * HOUR, change + 15 * HOUR), source, 4)
                for change in changes
            )
            self.assertGreater(found, 500, name)

    def test_any_time_of_ten_years(self) -> None:
        source = random.Random(2)
        for name in ZONES + UNCHANGED:
            zone = ZoneInfo(name)
            for _ in range(3):
                start = datetime(2017, 1, 1, tzinfo=UTC) + source.randrange(3650) * DAY
                self.compare(zone, Walk(zone, start, start + 3 * DAY), source, 3)

    def test_a_day_that_a_zone_left_out(self) -> None:
        # Samoa went from the 29th to the 31st of December 2011.
        zone = ZoneInfo("Pacific/Apia")
        change = datetime(2011, 12, 30, 10, tzinfo=UTC)
        walk = Walk(zone, change - DAY, change + DAY)
        self.assertGreater(self.compare(zone, walk, random.Random(3), 10), 10)


class ClockChangeTests(SimpleTestCase):
    def test_the_table_in_the_docs(self) -> None:
        docs = Path(__file__).parents[1] / "docs" / "how-to" / "periodic.md"
        _, text = docs.read_text().split("In Europe/Berlin, from 01:00 to 04:00:")
        rows = re.findall(r"^\| `(.+?)` \|(.*?)\|(.*?)\|$", text, re.MULTILINE)
        self.assertEqual(len(rows), 6)
        for spec, *cells in rows:
            schedule = parse_schedule(spec, timezone=BERLIN if " " in spec else None)
            for cell, night in zip(cells, ("2026-03-29", "2026-10-25"), strict=True):
                with self.subTest(spec=spec, night=night):
                    shown = clock("Europe/Berlin", schedule, f"{night} 00:59", f"{night} 04:00")
                    times = [time.split()[1] for time in shown]
                    self.assertEqual(times, re.findall(r"\d\d:\d\d", cell))

    def check(self, spec: str, zone: str, start: str, end: str, times: list[str]) -> None:
        with self.subTest(spec=spec, zone=zone, start=start):
            self.assertEqual(clock(zone, Crontab(spec, zone), start, end), times)

    def test_a_time_that_is_left_out_comes_as_soon_as_the_clock_is_set(self) -> None:
        night = "2026-03-28 12:00", "2026-03-29 12:00"
        self.check("30 2 * * *", "Europe/Berlin", *night, ["29 03:00 +0200"])
        self.check("0,30 1-3 29 * *", "Europe/Berlin", *night, [
            "29 01:00 +0100", "29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200",
        ])  # fmt: skip
        night = "2026-03-07 12:00", "2026-03-08 12:00"
        self.check("30 2 * * *", "America/New_York", *night, ["08 03:00 -0400"])
        night = "2026-10-03 12:00", "2026-10-04 12:00"
        self.check("15 2 * * *", "Australia/Lord_Howe", *night, ["04 02:30 +1100"])
        night = "2026-09-05 12:00", "2026-09-06 12:00"
        self.check("@daily", "America/Santiago", *night, ["06 01:00 -0300"])

    def test_a_time_that_comes_twice_counts_the_first_time(self) -> None:
        night = "2026-10-24 12:00", "2026-10-25 12:00"
        self.check("30 2 * * *", "Europe/Berlin", *night, ["25 02:30 +0200"])
        self.check("0,30 2,3 25 * *", "Europe/Berlin", *night, [
            "25 02:00 +0200", "25 02:30 +0200", "25 03:00 +0100", "25 03:30 +0100",
        ])  # fmt: skip
        night = "2026-10-31 12:00", "2026-11-01 12:00"
        self.check("30 1 * * *", "America/New_York", *night, ["01 01:30 -0400"])
        night = "2026-04-04 12:00", "2026-04-05 12:00"
        self.check("45 1 * * *", "Australia/Lord_Howe", *night, ["05 01:45 +1100"])

    def test_by_the_clock_nothing_is_made_up_for(self) -> None:
        night = "2026-03-29 01:00", "2026-03-29 04:00"
        self.check("30 * * * *", "Europe/Berlin", *night, ["29 01:30 +0100", "29 03:30 +0200"])
        self.check("*/15 2 * * *", "Europe/Berlin", *night, [])
        night = "2026-03-29 00:00", "2026-03-29 06:00"
        self.check("0 */2 * * *", "Europe/Berlin", *night, ["29 04:00 +0200", "29 06:00 +0200"])

    def test_by_the_clock_what_comes_twice_counts_twice(self) -> None:
        night = "2026-10-25 01:59", "2026-10-25 03:00"
        self.check("30 * * * *", "Europe/Berlin", *night, ["25 02:30 +0200", "25 02:30 +0100"])
        self.check("*/30 2 * * *", "Europe/Berlin", *night, [
            "25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100",
        ])  # fmt: skip
        night = "2026-04-05 01:00", "2026-04-05 02:00"
        self.check("*/20 * * * *", "Australia/Lord_Howe", *night, [
            "05 01:20 +1100", "05 01:40 +1100", "05 01:40 +1030", "05 02:00 +1030",
        ])  # fmt: skip

    def test_a_length_of_time_knows_of_no_clock(self) -> None:
        start = datetime(2026, 10, 24, 22, tzinfo=UTC)
        self.assertEqual(
            first(Every("1h"), start.astimezone(BERLIN), 6), [start + n * HOUR for n in range(1, 7)]
        )

    def test_times_of_the_second_round_are_found_from_the_first(self) -> None:
        second = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
        schedule = Crontab("10 * * * *", BERLIN)
        self.assertEqual(
            schedule.next(datetime(2026, 10, 25, 2, 50, tzinfo=BERLIN)), second.astimezone(UTC)
        )
        self.assertTrue(schedule.match(second))
        self.assertTrue(schedule.match(second.replace(fold=0)))
        fixed = Crontab("10 2 * * *", BERLIN)
        self.assertTrue(fixed.match(second.replace(fold=0)))
        self.assertFalse(fixed.match(second))


class CrontabTests(Wrong, SimpleTestCase):
    def following(self, spec: str, count: int = 3) -> list[str]:
        return [f"{time:%a %Y-%m-%d %H:%M}" for time in first(Crontab(spec, "UTC"), NOON, count)]

    def test_fields(self) -> None:
        for spec, times in {
            "* * * * *": ["Sun 2026-05-17 12:01", "Sun 2026-05-17 12:02"],
            "5,10-12 13 * * *": ["Sun 2026-05-17 13:05", "Sun 2026-05-17 13:10"],
            "*/25 * * * *": [
                "Sun 2026-05-17 12:25",
                "Sun 2026-05-17 12:50",
                "Sun 2026-05-17 13:00",
            ],
            "0 0 1 mar,JUN *": ["Mon 2026-06-01 00:00", "Mon 2027-03-01 00:00"],
            "0 0 * jan-feb Mon": ["Mon 2027-01-04 00:00", "Mon 2027-01-11 00:00"],
            "0 0 * * 0": ["Sun 2026-05-24 00:00", "Sun 2026-05-31 00:00"],
            "0 0 * * 7": ["Sun 2026-05-24 00:00", "Sun 2026-05-31 00:00"],
            "0 0 * January-febr MONDAY": ["Mon 2027-01-04 00:00", "Mon 2027-01-11 00:00"],
            "0 0 * * sat-sun": ["Sat 2026-05-23 00:00", "Sun 2026-05-24 00:00"],
            "0 0 19 * tue": ["Tue 2026-05-19 00:00", "Tue 2026-05-26 00:00"],
            "0 0 1 * tue": ["Tue 2026-05-19 00:00", "Tue 2026-05-26 00:00", "Mon 2026-06-01 00:00"],
            "0 0 L * *": ["Sun 2026-05-31 00:00", "Tue 2026-06-30 00:00"],
            "0 0 LW * *": ["Fri 2026-05-29 00:00", "Tue 2026-06-30 00:00"],
            "0 0 * * mon#1": ["Mon 2026-06-01 00:00", "Mon 2026-07-06 00:00"],
            "0 0 * * 5L": ["Fri 2026-05-29 00:00", "Fri 2026-06-26 00:00"],
            "0,30-30/5 0 * * *": [
                "Mon 2026-05-18 00:00",
                "Mon 2026-05-18 00:30",
                "Tue 2026-05-19 00:00",
            ],
            "0 0 29 2 *": ["Tue 2028-02-29 00:00", "Sun 2032-02-29 00:00"],
        }.items():
            with self.subTest(spec=spec):
                self.assertEqual(self.following(spec, len(times)), times)

    def test_shorthands(self) -> None:
        for spec, time in {
            "@hourly": "Sun 2026-05-17 13:00",
            "@daily": "Mon 2026-05-18 00:00",
            "@midnight": "Mon 2026-05-18 00:00",
            "@weekly": "Sun 2026-05-24 00:00",
            "@monthly": "Mon 2026-06-01 00:00",
            "@yearly": "Fri 2027-01-01 00:00",
            " @Annually ": "Fri 2027-01-01 00:00",
        }.items():
            with self.subTest(spec=spec):
                self.assertEqual(self.following(spec, 1), [time])

    def test_it_is_shown_as_five_fields(self) -> None:
        self.assertEqual(str(Crontab("  0  3 * *  mon ")), "0 3 * * MON")
        self.assertEqual(str(Crontab("@weekly")), "0 0 * * 0")
        self.assertEqual(repr(Crontab("@weekly")), "<Crontab: 0 0 * * 0>")

    def test_equal_ones_have_the_same_fields_and_zone(self) -> None:
        daily = Crontab("@daily", "Europe/Berlin")
        self.assertEqual(daily, Crontab("0 0 * * *", BERLIN))
        self.assertEqual(hash(daily), hash(Crontab("0 0 * * *", BERLIN)))
        self.assertNotEqual(daily, Crontab("0 0 * * *", "UTC"))
        self.assertNotEqual(daily, Crontab("0 1 * * *", "Europe/Berlin"))
        self.assertNotEqual(daily, "0 0 * * *")

    def test_wrong_ones_say_which_field_and_what_is_allowed(self) -> None:
        self.check(Crontab, {
            "60 * * * *": "'60 * * * *' has a wrong minute, '60'. Allowed: 0-59;",
            "* 24 * * *": "a wrong hour, '24'. Allowed: 0-23;",
            "* * 0 * *": "a wrong day of month, '0'. Allowed: 1-31, L",
            "* * 1,32 * *": "a wrong day of month, '1,32'",
            "* * * 13 *": "a wrong month, '13'. Allowed: 1-12, jan-dec;",
            "* * * foo *": "a wrong month, 'foo'",
            "* * * marvel *": "a wrong month, 'marvel'",
            "* * * monday *": "a wrong month, 'monday'",
            "* * * * 8": "a wrong weekday, '8'. Allowed: 0-7",
            "* * * * mon#6": "a wrong weekday, 'mon#6'",
            "5-1 * * * *": "a wrong minute, '5-1'",
            "*/0 * * * *": "a wrong minute, '*/0'",
            "1,,2 * * * *": "a wrong minute, '1,,2'",
            "² * * * *": "a wrong minute",
            "9" * 5000 + " * * * *": "a wrong minute",
            "": "five fields (minute, hour, day of month, month, weekday), not 0.",
            "* * * *": "not 4.",
            "* * * * * *": 'not 6. For every so often, write a length of time such as "10s" or',
            "every 2 seconds": 'not 3. For every so often, write a length of time such as "10s"',
            "@reboot": "'@reboot' is no time",
            "@often": "'@often' is unknown; with an @ there are @hourly,",
        })  # fmt: skip
        self.check(Crontab, {None: "not None", 5: "not 5", b"@daily": "not b'"}, TypeError)

    def test_one_that_never_comes_is_refused(self) -> None:
        for spec in ("0 0 30 2 *", "0 0 31 4,6,9,11 *", "* * */20 * 1L"):
            self.check(Crontab, {spec: f"'{spec}' never comes: no month has such a day."})
        self.check(Crontab, {"0 0 30~30 2 *": 'no month has such a day ("0 0 30 2 *").'})

    def test_after_the_last_year_there_is_none(self) -> None:
        end = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
        for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
            with self.assertRaisesMessage(ScheduleExhausted, "<Crontab: 0 0 1 1 *> has no time"):
                Crontab("0 0 1 1 *", zone).next(end)
        with self.assertRaises(ScheduleExhausted):
            Crontab("0 0 1 1 *").next(end.replace(tzinfo=None))


class TimezoneTests(Wrong, SimpleTestCase):
    def test_it_may_be_named_or_given(self) -> None:
        for zone in ("Europe/Berlin", BERLIN, timezone(2 * HOUR)):
            self.assertEqual(Crontab("0 15 * * *", zone).next(NOON), NOON + HOUR)

    def test_without_one_it_is_djangos_default_when_it_is_asked(self) -> None:
        schedule = Crontab("0 15 * * *")
        for name, hours in (("Europe/Berlin", 1), ("Asia/Kolkata", 21.5), ("UTC", 3)):
            with override_settings(TIME_ZONE=name):
                self.assertEqual(schedule.next(NOON), NOON + hours * HOUR)
                self.assertEqual(str(schedule.timezone), name)
                self.assertEqual(schedule, Crontab("0 15 * * *", name))

    def test_times_come_back_in_utc(self) -> None:
        for time in (NOON, NOON.astimezone(BERLIN)):
            self.assertIs(Crontab("@daily", BERLIN).next(time).tzinfo, UTC)
            self.assertIs(Every("1h").next(time).tzinfo, UTC)

    def test_unknown_ones(self) -> None:
        def make(zone: Any) -> Crontab:
            return Crontab("@daily", zone)

        for zone in ("Europe/Bielefeld", "Europe", "", "../etc/passwd", "\0"):
            self.check(make, {zone: f"{zone!r} is no time zone that is known here"})
        self.check(make, {2: "must be a tzinfo or the name of one, not 2"}, TypeError)

    def test_no_settings_are_needed_for_a_schedule_that_names_its_zone(self) -> None:
        script = (
            "from datetime import datetime, UTC\n"
            "from durable_tasks import Crontab, Every, schedules\n"
            "Crontab('@daily')\n"
            "now = datetime(2026, 5, 17, 12, tzinfo=UTC)\n"
            "print(Crontab('@daily', 'Asia/Tokyo').next(now), Every('1d').next(now))\n"
        )
        self.assertEqual(
            run(script, DJANGO_SETTINGS_MODULE=""),
            "2026-05-17 15:00:00+00:00 2026-05-18 00:00:00+00:00",
        )


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class RandomTests(Wrong, SimpleTestCase):
    def drawn(self, spec: str, place: int, **options: Any) -> set[str]:
        return {str(Crontab(spec, **options)).split()[place] for _ in range(400)}

    def test_a_seed_draws_the_same_everywhere(self) -> None:
        self.assertEqual(str(Crontab("~ ~ ~ ~ ~", seed="report")), "8 15 28 1 2")
        self.assertEqual(str(Crontab("~/15 1~5 * * mon~fri", seed=7)), "4-59/15 1 * * 4")
        script = "from durable_tasks import Crontab; print(Crontab('~ ~ ~ ~ ~', seed='report'))"
        for hashes in ("1", "2"):
            self.assertEqual(run(script, PYTHONHASHSEED=hashes), "8 15 28 1 2")

    def test_seeds_spread_over_the_whole_range(self) -> None:
        for spec, place, values in (
            ("~ * * * *", 0, range(60)),
            ("* ~ * * *", 1, range(24)),
            ("* * ~ * *", 2, range(1, 29)),  # in each month
            ("* * * ~ *", 3, range(1, 13)),
            ("* * * * ~", 4, range(7)),
            ("10~15 * * * *", 0, range(10, 16)),
            ("~3 * * * *", 0, range(4)),
            ("57~ * * * *", 0, range(57, 60)),
            ("* * 26~31 * *", 2, range(26, 32)),
            ("* * 27~ * *", 2, range(27, 29)),
            ("* * * jan~mar *", 3, range(1, 4)),
            ("* * * * fri~sun", 4, range(5, 8)),
        ):
            found = {
                str(Crontab(spec, seed=f"task {n}")).split()[place]
                for n in range(12 * len(values) + 50)
            }
            self.assertEqual(found, {str(value) for value in values}, spec)

    def test_in_lists_and_with_steps(self) -> None:
        self.assertEqual(self.drawn("5,10~11 * * * *", 0), {"5,10", "5,11"})
        self.assertEqual(self.drawn("0~1,30~31 * * * *", 0), {"0,30", "0,31", "1,30", "1,31"})
        self.assertEqual(self.drawn("~/20 * * * *", 0), {f"{start}-59/20" for start in range(20)})
        self.assertEqual(self.drawn("1~8/3 * * * *", 0), {"1-8/3", "2-8/3", "3-8/3"})
        self.assertEqual(self.drawn("1~3/10 * * * *", 0), {"1", "2", "3"})
        self.assertEqual(self.drawn("1~4/3 * * * *", 0), {"1-4/3", "2", "3"})
        for start in range(20):
            times = first(Crontab(f"{start}-59/20 * * * *", "UTC"), NOON, 4)
            self.assertEqual({b - a for a, b in pairwise(times)}, {20 * MINUTE})

    def test_without_a_seed_each_object_draws_once(self) -> None:
        self.assertGreater(len(self.drawn("~ * * * *", 0)), 30)
        schedule = Crontab("~ ~ * * *", "UTC")
        minute, hour, *_ = str(schedule).split()
        for time in first(schedule, NOON, 3):
            self.assertEqual((time.minute, time.hour), (int(minute), int(hour)))
        self.assertEqual(Crontab(str(schedule), "UTC"), schedule)
        self.assertEqual(copy.deepcopy(schedule), schedule)

    def test_wrong_ones(self) -> None:
        for seed in range(20):  # not by the luck of the draw
            self.check(lambda spec, seed=seed: Crontab(spec, seed=seed), {
                "0~60 * * * *": "a wrong minute, '0~60'",
                "9~5 * * * *": "a wrong minute, '9~5'",
                "1~2~3 * * * *": "a wrong minute, '1~2~3'",
                "~/0 * * * *": "a wrong minute, '~/0'",
                "1-~5 * * * *": "a wrong minute, '1-~5'",
                "* * 29~ * *": "a wrong day of month, '29~'",
                "* * * a~b *": "a wrong month, 'a~b'",
                "* * * * ~8": "a wrong weekday, '~8'",
            })  # fmt: skip

        def make(seed: Any) -> Crontab:
            return Crontab("@daily", seed=seed)

        self.check(make, {True: "not True", 1.5: "not 1.5", b"x": "not b'x'"}, TypeError)


class DurationTests(Wrong, SimpleTestCase):
    def test_what_makes_one(self) -> None:
        for given, length, text in (
            ("1h", HOUR, "1h"),
            ("2w3d7h21m10s", timedelta(17, 10, 0, 0, 21, 7), "2w3d7h21m10s"),
            ("90", timedelta(seconds=90), "1m30s"),
            ("90m", timedelta(minutes=90), "1h30m"),
            (" 7d ", 7 * DAY, "1w"),
            ("0.25s", timedelta(milliseconds=250), "0.25s"),
            (3600, HOUR, "1h"),
            (1.5, timedelta(seconds=1.5), "1.5s"),
            (10, timedelta(seconds=10), "10s"),
            (HOUR, HOUR, "1h"),
            (Duration("1h"), HOUR, "1h"),
            (0, timedelta(), "0s"),
            ("0", timedelta(), "0s"),
            ("1h0m", HOUR, "1h"),
            ("1h 30m", 90 * MINUTE, "1h30m"),
            ("30M1H", 90 * MINUTE, "1h30m"),
            ("1m1m", 2 * MINUTE, "2m"),
            ("1 h", HOUR, "1h"),
            ("1 week", 7 * DAY, "1w"),
            ("2 Days", 2 * DAY, "2d"),
            ("1 hour 30 minutes", 90 * MINUTE, "1h30m"),
            ("5 min", 5 * MINUTE, "5m"),
            ("2mins30sec", timedelta(seconds=150), "2m30s"),
            ("1.5 seconds", timedelta(seconds=1.5), "1.5s"),
        ):
            with self.subTest(given=given):
                self.assertEqual(Duration(given), length)
                self.assertEqual(str(Duration(given)), text)

    def test_text_and_back(self) -> None:
        source = random.Random(4)
        for _ in range(500):
            seconds = int(10 ** source.uniform(0, 10))
            length = timedelta(seconds=seconds, microseconds=source.choice([0, 0, 1, 500_000]))
            self.assertEqual(Duration(str(Duration(length))), length)

    def test_it_is_a_timedelta(self) -> None:
        length = Duration("1h30m")
        self.assertEqual(NOON + length, NOON + 90 * MINUTE)
        self.assertEqual(repr(length), 'Duration("1h30m")')
        for same in (copy.deepcopy(length), pickle.loads(pickle.dumps(length))):
            self.assertEqual(same, length)
            self.assertIs(type(same), Duration)

    def test_wrong_ones_say_what_is_allowed(self) -> None:
        for text in (
            "", "h", "1x", "1h30", "-1h", "1.5h", "1 month", "1 2", "one hour", "٣h", "nan",
            "1h,30m", "9" * 12 + "w", "9" * 5000,
        ):  # fmt: skip
            self.check(Duration, {text: f"{text!r} is no length of time. Write"})
        for number in (-1, float("nan"), float("inf"), -HOUR, 1e300):
            self.check(Duration, {number: f"{number!r} is no length of time."})
        self.check(Duration, {None: "not None", True: "not True", NOON: "not datetime"}, TypeError)


class EveryTests(Wrong, SimpleTestCase):
    def test_without_a_start_it_counts_from_1970(self) -> None:
        self.assertEqual(Every("1h").next(NOON + MINUTE), NOON + HOUR)
        thursday = datetime(2026, 5, 21, tzinfo=UTC)
        self.assertEqual(Every("7d").next(NOON), thursday)
        for seconds in (1, 7, 60, 86_400 * 7):
            time = Every(seconds).next(NOON)
            self.assertEqual(time.timestamp() % seconds, 0)
            self.assertTrue(NOON < time <= NOON + timedelta(seconds=seconds))

    def test_with_a_start_nothing_comes_before_it(self) -> None:
        start = datetime(2026, 5, 17, 12, 0, 20, 5, tzinfo=UTC)
        schedule = Every(timedelta(minutes=1), start=start.astimezone(BERLIN))
        self.assertEqual(first(schedule, NOON - DAY, 2), [start, start + MINUTE])
        self.assertEqual(schedule.next(start), start + MINUTE)
        self.assertEqual(schedule.next(start - timedelta(microseconds=1)), start)

    def test_it_does_not_drift(self) -> None:
        schedule = Every(1.1, start=NOON)
        self.assertEqual(first(schedule, NOON, 10_000)[-1], NOON + timedelta(seconds=11_000))

    def test_wherever_one_begins_the_next_is_the_same(self) -> None:
        source = random.Random(5)
        for _ in range(200):
            schedule = Every(source.randint(1, 10**6), start=NOON - source.random() * DAY)
            after = NOON + source.random() * 100 * DAY
            time = schedule.next(after)
            self.assertTrue(schedule.match(time))
            for _ in range(5):
                self.assertEqual(schedule.next(after + source.random() * (time - after)), time)

    def test_it_is_shown_with_its_start(self) -> None:
        start = datetime(2026, 5, 17, 14, tzinfo=BERLIN)
        self.assertEqual(str(Every("60m")), "1h")
        self.assertEqual(str(Every("1h", start)), "1h from 2026-05-17T12:00:00+00:00")
        self.assertEqual(Every("1h", start), Every(3600, NOON))
        self.assertNotEqual(Every("1h"), Every("1h", NOON))
        self.assertNotEqual(Every("1h"), Every("2h"))

    def test_past_the_last_year_there_is_none(self) -> None:
        with self.assertRaises(ScheduleExhausted):
            Every("1w").next(datetime(9999, 12, 31, tzinfo=UTC))

    def test_wrong_ones(self) -> None:
        for period in (0, "0s", 0.999, "0.5s"):
            self.check(Every, {period: f"A period must be at least 1 second, not {period!r}"})
        self.check(Every, {"1x": "'1x' is no length of time"})
        with self.assertRaisesMessage(TypeError, "must be datetimes, not '2026"):
            Every("1h", start="2026-05-17")  # type: ignore[arg-type]


class Workdays(Schedule):
    """At an hour of UTC, from Monday to Friday, in one year only."""

    def __init__(self, hour: int, year: int = 2026) -> None:
        self.hour = hour
        self.year = year

    def next(self, after: datetime, until: datetime | None = None) -> datetime:
        time = after.astimezone(UTC).replace(hour=self.hour, minute=0, second=0, microsecond=0)
        while time <= after or time.weekday() > 4:
            time += DAY
        if time.year != self.year:
            raise ScheduleExhausted
        return time.astimezone(BERLIN)


class Stuck(Schedule):
    def next(self, after: datetime, until: datetime | None = None) -> datetime:
        return after


class OwnScheduleTests(SimpleTestCase):
    def test_the_rest_follows_from_next(self) -> None:
        schedule = Workdays(9)
        monday = datetime(2026, 5, 18, 9, tzinfo=UTC)
        self.assertEqual(first(schedule, NOON, 2), [monday, monday + DAY])
        self.assertEqual(list(schedule.dates(NOON, monday + DAY)), [monday, monday + DAY])
        self.assertEqual(len(list(schedule.dates(NOON))), 164)
        self.assertTrue(schedule.match(monday.astimezone(BERLIN)))
        self.assertFalse(schedule.match(monday - DAY))
        self.assertFalse(schedule.match(monday + MINUTE))
        self.assertFalse(schedule.match(monday.replace(year=2027)))

    def test_it_is_shown_with_its_arguments(self) -> None:
        self.assertEqual(str(Workdays(9)), "tests.test_schedules.Workdays(hour=9, year=2026)")
        self.assertEqual(str(Stuck()), "tests.test_schedules.Stuck")
        self.assertEqual(Workdays(9), Workdays(9))
        self.assertNotEqual(Workdays(9), Workdays(10))

    def test_one_that_stands_still_is_an_error(self) -> None:
        with self.assertRaisesMessage(ValueError, "must be later"):
            first(Stuck(), NOON, 2)


class TimesTests(Wrong, SimpleTestCase):
    """What all schedules do with the times that they are given."""

    def test_up_to_and_including_the_last(self) -> None:
        for schedule in (Crontab("@hourly", "UTC"), Every("1h")):
            end = NOON + 2 * HOUR
            self.assertEqual(list(schedule.dates(NOON, end)), [NOON + HOUR, end])
            self.assertEqual(schedule.next(NOON, NOON + HOUR), NOON + HOUR)
            message = "has no time after 2026-05-17 12:00:00+00:00 and up to 2026-05-17 12:59"
            with self.assertRaisesMessage(ScheduleExhausted, message):
                schedule.next(NOON, NOON + HOUR - MINUTE)
            self.assertEqual(list(schedule.dates(NOON, NOON - HOUR)), [])

    def test_match(self) -> None:
        for schedule in (Crontab("@hourly", "Asia/Tokyo"), Every("1h")):
            self.assertTrue(schedule.match(NOON))
            self.assertTrue(schedule.match(NOON.astimezone(BERLIN)))
            self.assertTrue(schedule.match(NOON + timedelta(microseconds=1)))
            self.assertFalse(schedule.match(NOON - timedelta(microseconds=1)))
            self.assertFalse(schedule.match(NOON + MINUTE))
            self.assertFalse(schedule.match(datetime.min))
        # To the minute, and to the second.
        almost = NOON + timedelta(seconds=59)
        self.assertTrue(Crontab("@hourly", "Asia/Kathmandu").match(almost + 15 * MINUTE))
        self.assertFalse(Every("1h").match(almost))

    def test_first_has_none_where_next_raises(self) -> None:
        for schedule in (Crontab("@hourly", "UTC"), Every("1h")):
            self.assertEqual(schedule.first(NOON), NOON + HOUR)
            self.assertIsNone(schedule.first(datetime(9999, 12, 31, 23, 30, tzinfo=UTC)))

    def test_without_a_time_it_is_from_now_on(self) -> None:
        for use_tz, now in ((True, NOON), (False, NOON.replace(tzinfo=None))):
            with (
                override_settings(USE_TZ=use_tz, TIME_ZONE="UTC"),
                mock.patch("durable_tasks.clock.source", return_value=NOON),
            ):
                for schedule in (Crontab("@hourly"), Every("1h")):
                    self.assertEqual(schedule.next(), now + HOUR)
                    self.assertEqual(next(schedule.dates()), now + HOUR)

    @override_settings(TIME_ZONE="Europe/Berlin")
    def test_naive_times_are_those_of_the_clock_on_the_wall(self) -> None:
        wall = datetime(2026, 5, 17, 12)
        self.assertEqual(Crontab("0 15 * * *").next(wall), wall + 3 * HOUR)
        self.assertEqual(Crontab("0 15 * * *", "Asia/Tokyo").next(wall), wall + 3 * HOUR)
        self.assertEqual(Every("1d").next(wall), datetime(2026, 5, 18))
        self.assertEqual(Every("1h", start=wall).next(wall - DAY), wall)
        self.assertTrue(Crontab("0 12 * * *").match(wall))
        # Each once: what is left out, and what comes twice.
        for night in (datetime(2026, 3, 29), datetime(2026, 10, 25)):
            for schedule in (Crontab("*/30 * * * *"), Crontab("0,30 0-23 * * *"), Every("30m")):
                times = first(schedule, night.replace(fold=1), 10)
                self.assertEqual(times, [night + n * 30 * MINUTE for n in range(1, 11)])

    def test_naive_and_aware_times_do_not_mix(self) -> None:
        wall = NOON.replace(tzinfo=None)
        for call in (
            lambda: Crontab("@daily").next(NOON, wall),
            lambda: Every("1d").next(wall, NOON),
            lambda: list(Every("1d").dates(wall, NOON)),
        ):
            with self.assertRaisesMessage(TypeError, "must both have a time zone, or both none"):
                call()

    @override_settings(TIME_ZONE="Europe/Berlin")
    def test_a_start_of_the_other_kind_is_read_in_the_default_time_zone(self) -> None:
        start = datetime(2026, 5, 17, 14, 5)  # 12:05 UTC
        self.assertEqual(Every("1d", start=start).next(NOON), NOON + 5 * MINUTE)
        aware = start.replace(tzinfo=BERLIN)
        self.assertEqual(Every("1d", start=aware).next(datetime(2026, 5, 17)), start)

    def test_only_datetimes_are_times(self) -> None:
        for schedule in (Crontab("@daily"), Every("1d")):
            for call in (schedule.next, schedule.match, lambda day: list(schedule.dates(day))):  # noqa: B023
                self.check(
                    call, {date(2026, 5, 17): "must be datetimes, not datetime.date("}, TypeError
                )


class ParseTests(Wrong, SimpleTestCase):
    def test_what_makes_a_schedule(self) -> None:
        for spec, schedule in (
            ("1h", Every("1h")),
            (" 2w3d ", Every("2w3d")),
            ("90", Every(90)),
            (90, Every(90)),
            (1.5, Every(1.5)),
            (HOUR, Every(HOUR)),
            (Duration("1h"), Every("1h")),
            ("1h 30m", Every("1h30m")),
            ("0 3 * * *", Crontab("0 3 * * *")),
            ("@daily", Crontab("0 0 * * *")),
        ):
            with self.subTest(spec=spec):
                self.assertEqual(parse_schedule(spec, seed="x"), schedule)
        own = Workdays(9)
        self.assertIs(parse_schedule(own, seed="x"), own)

    def test_zone_and_seed_are_for_crontabs(self) -> None:
        schedule = parse_schedule("~ 3 * * *", timezone="Asia/Tokyo", seed="x")
        self.assertEqual(schedule, Crontab("~ 3 * * *", "Asia/Tokyo", seed="x"))
        for spec in ("1h", 90, Workdays(9), Crontab("@daily")):
            with self.assertRaisesMessage(ValueError, "(UTC) goes with the text of a crontab only"):
                parse_schedule(spec, timezone="UTC")

    def test_wrong_ones(self) -> None:
        for text in ("", "often", "1h30", "*"):
            self.check(parse_schedule, {text: f"{text!r}"})
        self.check(parse_schedule, {
            "1h30": "is neither a length of time such as",
            "0s": "at least 1 second",
            0: "at least 1 second",
            -5: "is no length of time",
            "1 2 3": "must have five fields",
            "2 x": "For every so often, write a length of time",
            "@reboot": "is no time",
        })  # fmt: skip
        self.check(
            parse_schedule, {None: "not None", True: "not True", ("1h",): "not ("}, TypeError
        )
