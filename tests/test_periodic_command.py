from datetime import UTC, datetime
from io import StringIO
from unittest import mock

from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError
from django.test import TestCase, override_settings

from durable_tasks import Periodic, ScheduleExhausted
from durable_tasks.chores.schedule import Timetable
from durable_tasks.models import PeriodicTask
from durable_tasks.schedules import Schedule
from tests.helpers import tasks_setting

ECHO = "tests.app.tasks.echo"
NOW = datetime(2026, 3, 28, 12, tzinfo=UTC)


class Never(Schedule):
    def next(self, after, until=None):
        raise ScheduleExhausted("never")

    def __str__(self):
        return "never"


@override_settings(USE_TZ=True, TIME_ZONE="UTC")
class PeriodicTasksTests(TestCase):
    def listed(self, *arguments, **periodic):
        with (
            override_settings(TASKS=tasks_setting(periodic=periodic)),
            mock.patch("django.utils.timezone.now", return_value=NOW),
        ):
            out = StringIO()
            call_command("periodic_tasks", *arguments, stdout=out, no_color=True)
        return out.getvalue().splitlines()

    def test_it_lists_each_with_its_next_times_in_its_own_zone(self):
        self.assertEqual(
            self.listed(
                "--count=3",
                nightly=Periodic("30 2 * * *", task=ECHO, timezone="Europe/Berlin"),
                often=Periodic("*/20 * * * *", task=ECHO),
            ),
            [
                f"nightly: {ECHO}, 30 2 * * * Europe/Berlin, no worker has seen it yet",
                # There is no 2:30 on the 29th: the clock goes from 2:00 to 3:00.
                "  2026-03-29 03:00:00+02:00",
                "  2026-03-30 02:30:00+02:00",
                "  2026-03-31 02:30:00+02:00",
                f"often: {ECHO}, */20 * * * * UTC, no worker has seen it yet",
                "  2026-03-28 12:20:00+00:00",
                "  2026-03-28 12:40:00+00:00",
                "  2026-03-28 13:00:00+00:00",
            ],
        )

    def test_it_says_what_is_disabled_what_is_gone_and_what_has_ended(self):
        entries = {"gone": Periodic("1h", task=ECHO), "off": Periodic(Never(), task=ECHO)}
        Timetable("default", entries).sync(NOW)
        PeriodicTask.objects.update(enabled=False)
        self.assertEqual(
            self.listed(off=entries["off"]),
            [
                f"off: {ECHO}, never, disabled",
                "  no further time",
                "gone: not in these settings; the next worker to start removes it",
            ],
        )

    def test_nothing_is_said_to_be_nothing(self):
        self.assertEqual(self.listed(), ['TASKS["default"]["OPTIONS"]["periodic"] names none.'])

    def test_a_database_without_tables_is_an_error(self):
        with (
            mock.patch.object(Timetable, "rows", side_effect=DatabaseError("no table")),
            self.assertRaisesMessage(CommandError, "The database can't be used: no table"),
        ):
            self.listed()

    def test_what_can_not_run_is_an_error(self):
        with self.assertRaisesMessage(CommandError, "x: The task 'no.where' can't be imported"):
            self.listed(x=Periodic("1h", task="no.where"))
