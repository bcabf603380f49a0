import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest import mock

from django.conf import settings
from django.db import OperationalError, connections
from django.test import SimpleTestCase, TransactionTestCase, override_settings
from django.utils.timezone import is_naive, make_aware, make_naive

from durable_tasks import Periodic, ScheduleExhausted
from durable_tasks.chores.schedule import ABANDONED_AFTER, TROUBLE_PAUSE, Timetable
from durable_tasks.models import Job, PeriodicTask
from durable_tasks.schedules import Crontab, Every, Schedule
from durable_tasks.timetable import MAX_CATCH_UP, due_times, entry_of, next_time

from ..helpers import WorkerTestCase

ECHO = "tests.app.tasks.echo"
# Before now, so that jobs are due; on the hour.
T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(**delta):
    """Return a time after T0, as settings have times."""
    time = T0 + timedelta(**delta)
    return time if settings.USE_TZ else make_naive(time)


def runs():
    """Return of each job the name of its schedule, its time as minutes after T0, and its call."""
    return [
        (job.schedule, minutes(job.run_after), job.args, job.kwargs)
        for job in Job.objects.order_by("run_after", "id")
    ]


def minutes(time):
    return (make_aware(time) if is_naive(time) else time).astimezone(UTC) - T0 // timedelta(
        minutes=1
    )


def no_table():
    raise OperationalError("no such table")


class Stuck(Schedule):
    """A wrong one: the next time is always the same."""

    def __init__(self, time):
        self.time = time

    def next(self, after, until=None):
        return self.time


class Once(Schedule):
    """A schedule of one's own: an hour after T0, and never again."""

    def next(self, after, until=None):
        time = at(hours=1)
        if after >= time:
            raise ScheduleExhausted("It was only once.")
        return time

    def __str__(self):
        return "once"


class TimetableTestCase(TransactionTestCase):
    available_apps = WorkerTestCase.available_apps

    def timetable(self, periodic=None, **more):
        periodic = {**(periodic or {}), **more}
        return Timetable("default", {name: Periodic.of(spec) for name, spec in periodic.items()})

    def synced(self, *args, **kwargs):
        timetable = self.timetable(*args, **kwargs)
        timetable.sync(at())
        return timetable

    def row(self, name=ECHO):
        return PeriodicTask.objects.get(name=name)

    def assert_runs(self, *minutes, name=ECHO):
        jobs = Job.objects.filter(schedule=name).order_by("run_after")
        self.assertEqual([job.run_after for job in jobs], [at(minutes=each) for each in minutes])


class FiringTests(TimetableTestCase):
    def test_a_run_is_a_job_that_says_what_made_it_and_when_it_was_due(self):
        timetable = self.synced(hourly=Periodic("1h", [1], {"b": 2}, task=ECHO))
        fired = timetable.tick(at(hours=1, seconds=2))
        self.assertEqual((fired.jobs, fired.next_due), (1, at(hours=2)))
        job = Job.objects.get()
        self.assertEqual(
            (job.task_path, job.args, job.kwargs, job.schedule, job.status),
            (ECHO, [1], {"b": 2}, "hourly", "READY"),
        )
        self.assertEqual((job.run_after, job.run_at), (at(hours=1), at(hours=1)))
        row = self.row("hourly")
        self.assertEqual(
            (row.last_run_at, row.next_run_at, row.last_job_id), (at(hours=1), at(hours=2), job.id)
        )

    def test_nothing_is_enqueued_before_it_is_due(self):
        timetable = self.synced({ECHO: "1h"})
        fired = timetable.tick(at(minutes=59, seconds=59))
        self.assertEqual((fired.jobs, fired.next_due), (0, at(hours=1)))
        self.assert_runs()
        self.assertEqual(timetable.tick(at(hours=1)).jobs, 1)

    def test_the_next_time_is_the_soonest_of_all(self):
        timetable = self.synced(hourly=Periodic("1h", task=ECHO), often=Periodic(300, task=ECHO))
        self.assertEqual(timetable.tick(at()).next_due, at(minutes=5))
        self.assertEqual(timetable.tick(at(minutes=5)).next_due, at(minutes=10))

    def test_queue_and_priority_are_the_tasks_or_those_that_are_given(self):
        timetable = self.synced(
            one=Periodic("1h", task=ECHO),
            two=Periodic("1h", task=ECHO, queue_name="night", priority=-7),
        )
        timetable.tick(at(hours=1))
        self.assertEqual(
            set(Job.objects.values_list("schedule", "queue_name", "priority")),
            {("one", "default", 0), ("two", "night", -7)},
        )

    def test_callables_are_called_for_each_run(self):
        counter = iter(range(10))
        timetable = self.synced(
            whole=Periodic("1h", lambda: [next(counter)], lambda: {"b": 1}, task=ECHO),
        )
        timetable.tick(at(hours=1))
        timetable.tick(at(hours=2))
        values = iter("xy")
        parts = self.synced(
            parts=Periodic("1h", [lambda: next(values), 5], {"c": lambda: 7}, task=ECHO)
        )
        parts.tick(at(hours=1))
        jobs = Job.objects.order_by("schedule", "run_after")
        self.assertEqual(
            [(job.args, job.kwargs) for job in jobs],
            [(["x", 5], {"c": 7}), ([0], {"b": 1}), ([1], {"b": 1})],
        )

    def test_a_schedule_that_ends_has_no_next_time(self):
        timetable = self.synced({ECHO: Once()})
        self.assertEqual(timetable.tick(at()).next_due, at(hours=1))
        self.assertIsNone(timetable.tick(at(hours=5)).next_due)
        self.assert_runs(60)
        self.assertIsNone(self.row().next_run_at)
        self.assertEqual(timetable.tick(at(hours=9)).jobs, 0)

    def test_what_is_disabled_passes_without_a_run_and_begins_again_in_time(self):
        timetable = self.synced({ECHO: "1h"})
        PeriodicTask.objects.update(enabled=False)
        self.assertEqual(timetable.tick(at(hours=3)).jobs, 0)
        self.assertEqual(self.row().next_run_at, at(hours=4))
        PeriodicTask.objects.update(enabled=True)
        self.assertEqual(timetable.tick(at(hours=3, minutes=30)).jobs, 0)
        self.assertEqual(timetable.tick(at(hours=4)).jobs, 1)


class OnceTests(TimetableTestCase):
    """Each time once, whoever fires it."""

    def test_workers_that_have_read_the_same_time_enqueue_it_once(self):
        one, other = self.synced({ECHO: "1h"}), self.timetable({ECHO: "1h"})
        rows = list(PeriodicTask.objects.all())
        one.tick(at(hours=1))
        with mock.patch.object(Timetable, "rows", side_effect=self.stale(rows)):
            self.assertEqual(other.tick(at(hours=1)).jobs, 0)
        self.assert_runs(60)

    def stale(self, rows):
        """Return what gives these rows at the first look, and the true ones from then on."""
        looks = iter([rows])
        real = Timetable.rows
        return lambda: next(looks, None) or real(Timetable("default", {}))

    def test_many_at_once_enqueue_each_time_once(self):
        names = [f"s{number}" for number in range(5)]
        periodic = {name: Periodic(60, task=ECHO, catch_up="all") for name in names}
        self.synced(periodic)
        barrier = threading.Barrier(4)
        errors = []

        def fire():
            timetable = self.timetable(periodic)
            try:
                for minute in range(1, 9):
                    barrier.wait(30)
                    self.until_done(timetable, at(minutes=minute))
            except BaseException as error:
                errors.append(error)
                barrier.abort()
            finally:
                connections.close_all()

        threads = [threading.Thread(target=fire) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        for name in names:
            self.assert_runs(*range(1, 9), name=name)

    def until_done(self, timetable, now):
        """Fire, again after a conflict, as the scheduler does."""
        while True:
            try:
                timetable.tick(now)
                return
            except OperationalError:
                pass

    def test_a_job_that_can_not_be_enqueued_leaves_the_time_as_it_is(self):
        timetable = self.synced({ECHO: "1h"})
        with (
            mock.patch.object(Timetable, "_enqueue", side_effect=OperationalError("gone")),
            self.assertRaises(OperationalError),
        ):
            timetable.tick(at(hours=1))
        self.assertEqual(self.row().next_run_at, at(hours=1))
        self.assertEqual(timetable.tick(at(hours=1, seconds=5)).jobs, 1)
        self.assert_runs(60)

    def test_arguments_that_can_not_be_made_are_tried_again_later(self):
        values = iter([lambda: 1 / 0, lambda: [object()], no_table, sys.exit, lambda: [7]])
        timetable = self.synced(
            {ECHO: Periodic("1h", lambda: next(values)()), "b": Periodic("1h", task=ECHO)}
        )
        reasons = ("ZeroDivisionError", "NotSerializable", "no such table", "SystemExit")
        for pause, reason in enumerate(reasons):
            now = at(hours=1) + pause * TROUBLE_PAUSE
            with self.assertLogs("durable_tasks", "ERROR") as logs:
                fired = timetable.tick(now)
            self.assertIn(f"{ECHO!r} can't be enqueued", logs.output[0])
            self.assertIn(reason, logs.output[0])
            self.assertEqual(fired.next_due, now + TROUBLE_PAUSE)
        self.assert_runs(60, name="b")  # the others are not held up
        timetable.tick(at(hours=1) + 4 * TROUBLE_PAUSE)
        self.assert_runs(60)


class MissedTests(TimetableTestCase):
    def after_an_outage(self, catch_up, **late):
        timetable = self.synced({ECHO: Periodic("1h", catch_up=catch_up)})
        fired = timetable.tick(at(**late))
        self.assertEqual(fired.next_due, at(hours=late["hours"] + 1))
        return timetable

    def test_latest_is_one_run_for_all_that_was_missed(self):
        self.after_an_outage("latest", hours=50, minutes=30)
        self.assert_runs(50 * 60)

    def test_all_is_a_run_for_each(self):
        self.after_an_outage("all", hours=5, minutes=30)
        self.assert_runs(60, 120, 180, 240, 300)

    def test_all_has_a_bound_and_the_latest_stay(self):
        times = due_times(Every(60), at(minutes=1), at(days=3), "all")
        self.assertEqual(len(times), MAX_CATCH_UP)
        self.assertEqual((times[0], times[-1]), (at(days=3, minutes=1 - MAX_CATCH_UP), at(days=3)))

    def test_none_is_no_run_for_what_was_missed(self):
        timetable = self.after_an_outage("none", hours=5, minutes=30)
        self.assert_runs()
        timetable.tick(at(hours=6, seconds=30))  # late, but not missed
        self.assert_runs(360)

    def test_the_latest_of_millions_is_found(self):
        second = Every(1)
        [time] = due_times(second, at(seconds=1), at(days=365, milliseconds=300), "latest")
        self.assertEqual(time, at(days=365))


class OverlapTests(TimetableTestCase):
    def test_skip_leaves_a_time_out_while_the_run_before_is_alive(self):
        timetable = self.synced({ECHO: Periodic("1h", overlap="skip")})
        timetable.tick(at(hours=1))
        for hour, status in enumerate(("READY", "RUNNING", "SCHEDULED"), 2):
            Job.objects.update(status=status)
            self.assertEqual(timetable.tick(at(hours=hour)).jobs, 0, status)
        self.assertEqual(self.row().next_run_at, at(hours=5))
        for hour, status in enumerate(("SUCCESSFUL", "FAILED", "CANCELLED"), 5):
            Job.objects.update(status=status)
            self.assertEqual(timetable.tick(at(hours=hour)).jobs, 1, status)
        self.assert_runs(60, 300, 360, 420)

    def test_skip_enqueues_one_at_a_time_after_an_outage_too(self):
        timetable = self.synced({ECHO: Periodic("1h", overlap="skip", catch_up="all")})
        self.assertEqual(timetable.tick(at(hours=5)).jobs, 1)
        self.assert_runs(300)

    def test_a_run_whose_row_was_deleted_holds_nothing_up(self):
        timetable = self.synced({ECHO: Periodic("1h", overlap="skip")})
        timetable.tick(at(hours=1))
        Job.objects.all().delete()
        self.assertEqual(timetable.tick(at(hours=2)).jobs, 1)

    def test_allow_is_the_default(self):
        timetable = self.synced({ECHO: "1h"})
        timetable.tick(at(hours=1))
        timetable.tick(at(hours=2))
        self.assert_runs(60, 120)


class SyncTests(TimetableTestCase):
    def test_a_row_says_what_the_settings_say(self):
        self.synced(
            nightly=Periodic("30 3 * * 1-5", [1], {"b": 2}, task=ECHO, timezone="Asia/Tokyo")
        )
        row = self.row("nightly")
        self.assertEqual(
            (row.task_path, row.spec, row.time_zone, row.args, row.kwargs, row.queue_name),
            (ECHO, "30 3 * * 1-5", "Asia/Tokyo", [1], {"b": 2}, "default"),
        )
        self.assertEqual(
            (row.priority, row.catch_up, row.overlap, row.enabled, row.last_run_at),
            (0, "latest", "allow", True, None),
        )
        # Sunday noon in UTC; Monday 3:30 in Tokyo.
        self.assertEqual(row.next_run_at, at(hours=6, minutes=30))

    def test_starting_again_changes_nothing(self):
        self.synced({ECHO: "~ * * * *"})
        before = PeriodicTask.objects.values().get()
        self.timetable({ECHO: "~ * * * *"}).sync(at(minutes=30))
        self.assertEqual(PeriodicTask.objects.values().get(), before)

    def test_what_has_changed_is_noticed_and_another_time_begins_anew(self):
        self.synced({ECHO: "1h"})
        self.timetable({ECHO: Periodic("1h", [5])}).sync(at(minutes=90))
        self.assertEqual((self.row().args, self.row().next_run_at), ([5], at(hours=1)))
        self.timetable({ECHO: Periodic("3h", [5])}).sync(at(minutes=30))
        self.assertEqual(self.row().next_run_at, at(hours=3))

    def test_a_run_that_is_due_is_not_lost_when_its_time_changes(self):
        self.synced({ECHO: "1h"})
        timetable = self.timetable({ECHO: "5h"})
        timetable.sync(at(hours=1, seconds=1))
        self.assertEqual(timetable.tick(at(hours=1, seconds=2)).jobs, 1)
        self.assert_runs(60)
        self.assertEqual(self.row().next_run_at, at(hours=6))  # each fifth since 1970

    def test_what_another_deploy_has_removed_is_taken_up_again_if_that_is_gone(self):
        timetable = self.synced({ECHO: "1h"})
        PeriodicTask.objects.all().delete()
        timetable.tick(at(minutes=5))
        self.assertFalse(PeriodicTask.objects.exists())
        timetable.tick(at(minutes=5) + ABANDONED_AFTER)
        self.assertFalse(PeriodicTask.objects.exists())
        timetable.tick(at(minutes=6, seconds=1))
        self.assertEqual(timetable.tick(at(hours=1)).jobs, 1)

    def test_a_row_that_can_not_be_written_holds_no_other_up(self):
        timetable = self.timetable(
            {"bad": Periodic("1h", task=ECHO), "good": Periodic("1h", task=ECHO)}
        )
        bad = timetable.entries["bad"]
        timetable.entries["bad"] = replace(bad, when=Stuck(at()))
        with self.assertLogs("durable_tasks", "ERROR") as logs:
            timetable.sync(at())
        self.assertIn("The periodic task 'bad' can't be enqueued", logs.output[0])
        self.assertEqual(timetable.tick(at(hours=1)).jobs, 1)

    def test_what_is_removed_goes_and_other_backends_stay(self):
        self.synced(one=Periodic("1h", task=ECHO), two=Periodic("1h", task=ECHO))
        PeriodicTask.objects.filter(name="one").update(backend_name="other")
        self.synced({ECHO: "1h"})
        self.assertEqual(
            set(PeriodicTask.objects.values_list("backend_name", "name")),
            {("other", "one"), ("default", ECHO)},
        )

    def test_what_was_disabled_stays_so(self):
        self.synced({ECHO: "1h"})
        PeriodicTask.objects.update(enabled=False)
        self.synced({ECHO: Periodic("1h", [5])})
        self.assertFalse(self.row().enabled)

    def test_a_task_that_is_not_there_is_said_and_its_row_and_the_others_stay(self):
        self.synced({"gone": Periodic("1h", task=ECHO)})
        timetable = self.timetable(
            {"gone": Periodic("1h", task="tests.app.tasks.gone"), ECHO: "1h"}
        )
        with self.assertLogs("durable_tasks", "ERROR") as logs:
            timetable.sync(at())
        self.assertIn("The periodic task 'gone' does not run", logs.output[0])
        self.assertIn("TaskNotFound", logs.output[0])
        self.assertEqual(timetable.tick(at(hours=1)).jobs, 1)
        self.assertEqual(self.row("gone").next_run_at, at(hours=1))

    def test_an_old_worker_leaves_to_the_new_deploy_what_that_has_changed(self):
        old, new = self.synced({ECHO: "1h"}), self.timetable({ECHO: Periodic("1h", [5])})
        new.sync(at(minutes=30))
        self.assertEqual((old.tick(at(hours=1)).jobs, new.tick(at(hours=1)).jobs), (0, 1))
        self.assertEqual(Job.objects.get().args, [5])

    def test_an_old_worker_fires_nothing_that_the_new_deploy_has_removed(self):
        old = self.synced({ECHO: "1h"})
        self.synced({})
        self.assertEqual(old.tick(at(hours=1)).jobs, 0)
        self.assertFalse(PeriodicTask.objects.exists())

    def test_what_another_deploy_leaves_undone_is_taken_over(self):
        here = self.synced({ECHO: "1h"})
        self.timetable({ECHO: Periodic("1h", [5])}).sync(at())
        late = at(hours=1) + ABANDONED_AFTER
        self.assertEqual(here.tick(late).jobs, 0)
        late += timedelta(seconds=1)
        here.tick(late)
        self.assertEqual(here.tick(late).jobs, 1)
        self.assertEqual(Job.objects.get().args, [])


class NaiveTimeTests(SimpleTestCase):
    @override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin")
    def test_times_without_a_zone_never_go_back(self):
        for when in (Every(1800), Crontab("*/30 * * * *", timezone="America/New_York")):
            times = [datetime(2026, 10, 25, 1, 30)]
            while len(times) < 5:
                times.append(next_time(when, times[-1]))
            # 2:00 and 2:30 come twice in Berlin that day; the second pass looks like the first.
            shown = [f"{time:%H:%M}" for time in times]
            self.assertEqual(shown, ["01:30", "02:00", "02:30", "03:00", "03:30"])

    @override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin")
    def test_a_zone_of_its_own_counts(self):
        when = Crontab("0 12 * * *", timezone="Asia/Tokyo")
        self.assertEqual(next_time(when, datetime(2026, 3, 1)), datetime(2026, 3, 1, 4))


class SameEverywhereTests(SimpleTestCase):
    def test_what_is_random_is_the_same_in_each_process(self):
        for spec in ("~ ~ * * *", Crontab("~ ~ * * *"), Periodic(Crontab("~ ~ * * *"))):
            specs = {
                entry_of("default", name, replace(Periodic.of(spec), task=ECHO)).columns["spec"]
                for name in ("a", "a", "b")
            }
            self.assertEqual(len(specs), 2)
        chosen = Crontab("~ ~ * * *", seed=5)
        self.assertEqual(
            entry_of("default", "a", Periodic(chosen, task=ECHO)).columns["spec"], str(chosen)
        )

    def test_a_schedule_that_does_not_go_on_is_refused(self):
        soon = at() + timedelta(days=36500)
        for time, error, text in (
            (at(), ValueError, "must be later"),
            (soon, ValueError, "must be later"),
            (T0.date(), TypeError, "must be datetimes"),
            (make_naive(soon) if settings.USE_TZ else make_aware(soon), TypeError, "time zone"),
        ):
            with self.subTest(time), self.assertRaisesRegex(error, text):
                entry_of("default", ECHO, Periodic(Stuck(time)))

    def test_a_schedule_that_is_another_in_each_process_is_refused(self):
        class Odd(Once):
            def __str__(self):
                return repr(object())

        with self.assertRaisesMessage(ValueError, "Write a __str__()"):
            entry_of("default", ECHO, Periodic(Odd()))

    def test_a_start_with_or_without_a_time_zone_will_do(self):
        for zone in (None, UTC):
            every = Every("1h", start=datetime(2026, 1, 1, tzinfo=zone))
            entry = entry_of("default", ECHO, Periodic(every))
            self.assertIsNot(is_naive(next_time(entry.when, at())), settings.USE_TZ)


class ToOther:
    """A router that has the jobs, and what belongs to them, in another database."""

    def db_for_write(self, model, **hints):
        return "other" if model is Job else None


@override_settings(DATABASE_ROUTERS=[ToOther()])
class OtherDatabaseTests(TimetableTestCase):
    databases = {"default", "other"}

    def test_rows_and_jobs_are_in_one_database(self):
        timetable = self.synced({ECHO: Periodic("1h", overlap="skip")})
        self.assertEqual(timetable.tick(at(hours=1)).jobs, 1)
        self.assertEqual(timetable.tick(at(hours=2)).jobs, 0)
        for model in (Job, PeriodicTask):
            self.assertEqual(model.objects.using("other").count(), 1)
            self.assertEqual(model.objects.using("default").count(), 0)
