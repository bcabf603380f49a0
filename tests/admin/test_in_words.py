"""Schedules in words; where words would lie, they stay as they are."""

import pytest
from django.test import SimpleTestCase

from durable_tasks.admin.in_words import in_words
from durable_tasks.schedules import parse_schedule

SAID = {
    "0 6 * * 1-5": "at 06:00 on Monday to Friday",
    "0 6 * * *": "at 06:00 every day",
    "30 3,15 * * *": "at 03:30 and 15:30 every day",
    "0 6 * * sun": "at 06:00 on Sunday",
    "0 6 * * 7": "at 06:00 on Sunday",
    "0 6 * * 0,3,5": "at 06:00 on Sunday, Wednesday and Friday",
    "0 6 * * fri-sun": "at 06:00 on Friday to Sunday",
    "0 0 1 * *": "at 00:00 on day 1 of the month",
    "0 0 1,15 * *": "at 00:00 on days 1 and 15 of the month",
    "0 0 L * *": "at 00:00 on the last day of the month",
    "0 0 LW * *": "at 00:00 on the last day of the month from Monday to Friday",
    "0 0 1 1 *": "at 00:00 on day 1 of the month in January",
    "@yearly": "at 00:00 on day 1 of the month in January",
    "0 0 * mar-may *": "at 00:00 every day in March to May",
    "* * * * *": "every minute",
    "*/5 * * * *": "every 5 minutes",
    "*/15 8-17 * * 1-5": "every 15 minutes from 08:00 to 17:59 on Monday to Friday",
    "0 * * * *": "every hour",
    "5 * * * *": "every hour at minute 5",
    "0,30 * * * *": "every hour at minutes 0 and 30",
    "10 */2 * * *": "every 2 hours at minute 10",
    "1h": "every hour",
    "90": "every 90 seconds",
    "5m": "every 5 minutes",
    "1h30m": "every 90 minutes",
    "2w": "every 2 weeks",
    "1h0m10.5s": "every 1h10.5s",
    # Both days: cron means either. Steps that do not divide: the last one is shorter.
    "0 0 13 * 5": None,
    "*/7 * * * *": None,
    "0 */5 * * *": None,
    "0 0 * * 5L": None,
    "0 0 * * mon#1": None,
    "0 0 1-7 * *": None,
    "1-5 * * * *": None,
    "0 1,2,3,4,5 * * *": None,
    "0 0 */2 * *": None,
}


@pytest.mark.any_database
@pytest.mark.any_version
class WordsTests(SimpleTestCase):
    def test_each_says_what_it_is(self):
        for given, words in SAID.items():
            spec = str(parse_schedule(given, timezone=None))
            with self.subTest(given=given, spec=spec):
                self.assertEqual(in_words(spec), spec if words is None else words)

    def test_what_is_no_spec_of_ours_stays_as_it_is(self):
        for spec in ("shop.schedules.Holidays(1)", "a b c d e", "1h from 2026-01-01", "", "<b>"):
            self.assertEqual(in_words(spec), spec)
