"""What a project does that used django-dbtasks, by that package's names alone where they do."""

import sys
import tempfile
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from unittest import mock, skipUnless

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import SimpleTestCase, TransactionTestCase, override_settings
from django.utils import timezone

import dbtasks.contrib.mule
import durable_tasks.contrib.mule
from dbtasks import Crontab, Duration, Every, Periodic, Schedule, ScheduleExhausted, schedule
from dbtasks.models import ScheduledTask
from dbtasks.runner import DuplicateWorker, Runner, cleanup
from dbtasks.testing import RunnerTestCase
from durable_tasks.chores import prune
from durable_tasks.compat import task_backends, task_finished
from durable_tasks.models import Job, PeriodicTask
from tests.contrib.project import Site, may_expect
from tests.helpers import (
    PATIENCE,
    command,
    environment,
    eventually,
    heard,
    held,
    let_go,
    running,
)
from tests.servers import free_port

from .tasks import add, hold, maintenance

CLEANUP = "dbtasks.runner.cleanup"
MAINTENANCE = "myproject.tasks.maintenance"


def tasks_with(**options):
    """Return the project's TASKS with other options."""
    default = settings.TASKS["default"]
    return {"default": {**default, "OPTIONS": {**default["OPTIONS"], **options}}}


@contextmanager
def at_work(runner):
    """Let a runner work in a thread, as the README does."""
    t = threading.Thread(target=runner.run)
    t.start()
    try:
        yield runner
    finally:
        runner.stop()
        t.join()


def due(name, runner=None):
    """Let a schedule's time be now, before a runner looks."""
    (runner or Runner()).init_periodic()
    rows = PeriodicTask.objects.filter(name=name)
    assert rows.update(next_run_at=timezone.now()) == 1


class SettingsTests(TransactionTestCase):
    def test_nothing_is_wrong_with_them_and_no_migration_is_missing(self):
        call_command("check", fail_level="WARNING", databases=["default"])
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
        self.assertEqual(list(task_backends["default"].check()), [])
        self.assertEqual(
            [app.label for app in apps.get_app_configs()][:2], ["durable_tasks", "serve"]
        )

    def test_immediate_needs_no_runner(self):
        with override_settings(TASKS=tasks_with(immediate=True, periodic={})):
            self.assertEqual(add.enqueue(1, 2).return_value, 3)
            with self.assertRaisesMessage(ImproperlyConfigured, '"immediate"'):
                Runner()

    def test_without_signals_nobody_hears_of_tasks(self):
        for signals in (True, False):
            with (
                override_settings(TASKS=tasks_with(signals=signals, periodic={})),
                heard(task_finished) as calls,
                at_work(Runner(loop_delay=0.05)) as runner,
            ):
                self.assertTrue(runner.wait_for(add.enqueue(1, 2), PATIENCE))
            self.assertEqual(len(calls), signals)

    def test_retain_takes_every_form(self):
        week = timedelta(days=7)
        for retain, days in (
            (week, 7),
            ("7d", 7),
            (7 * 24 * 3600, 7),
            (Duration("1w"), 7),
            ({"myproject.tasks.add": "1d"}, 1),
            ({MAINTENANCE: "1d"}, None),
            (None, None),
        ):
            with (
                self.subTest(retain=retain),
                override_settings(TASKS=tasks_with(retain=retain, worker_timeout="20")),
                at_work(Runner(loop_delay=0.05, init_periodic=False)) as runner,
            ):
                result = add.enqueue(1, 2)
                self.assertTrue(runner.wait_for(result, PATIENCE))
                row = ScheduledTask.objects.get(id=result.id)
                kept = None if days is None else timedelta(days=days)
                self.assertEqual(row.delete_after and row.delete_after - row.finished_at, kept)


class RunnerTests(TransactionTestCase):
    def test_in_a_thread(self):
        runner = Runner(workers=4, worker_id="in-process")
        t = threading.Thread(target=runner.run)
        t.start()
        result = add.enqueue(1, 2)
        self.assertTrue(runner.wait_for(result))
        runner.stop()
        t.join()
        self.assertEqual((result.return_value, result.worker_ids), (3, ["in-process"]))

    def test_what_it_tells_of_itself(self):
        runner = Runner(2, "me", "default", 0.05, False)
        self.assertEqual(
            (runner.workers, runner.worker_id, runner.loop_delay, runner.processed),
            (2, "me", 0.05, 0),
        )
        self.assertIs(runner.backend, task_backends["default"])
        self.assertEqual(runner.periodic, {MAINTENANCE: Periodic("30 3 * * 1-5")})
        events = runner.ready, runner.empty, runner.finished
        self.assertFalse(any(event.is_set() for event in events))
        with at_work(runner):
            self.assertTrue(runner.ready.wait(PATIENCE))
            self.assertTrue(runner.empty.wait(PATIENCE))
            result = hold.enqueue("x")
            held("x")
            eventually(lambda: not runner.empty.is_set())
            self.assertFalse(runner.wait_for(result, timeout=0.01))
            self.assertFalse(runner.wait(timeout=0.01))
            let_go()
            self.assertTrue(runner.wait_for(result, timeout=PATIENCE))
            self.assertTrue(runner.wait(timeout=PATIENCE))
            self.assertTrue(runner.empty.wait(PATIENCE))
            self.assertFalse(runner.finished.is_set())
            self.assertEqual(runner.processed, 1)
        self.assertTrue(runner.finished.is_set())
        self.assertFalse(runner.ready.is_set())
        with at_work(runner):  # once more
            self.assertTrue(runner.ready.wait(PATIENCE))
            self.assertTrue(runner.wait_for(add.enqueue(1, 2), PATIENCE))
            eventually(lambda: runner.processed == 1)
            self.assertFalse(runner.finished.is_set())
        self.assertTrue(runner.finished.is_set())

    def test_one_of_a_name_at_a_time(self):
        with at_work(Runner(worker_id="x")) as runner:
            self.assertTrue(runner.ready.wait(PATIENCE))
            with self.assertRaises(DuplicateWorker):
                Runner(worker_id="x").run()

    def test_a_task_is_submitted_whether_due_or_not(self):
        tomorrow = timezone.now() + timedelta(days=1)
        deferred = [add.using(run_after=tomorrow).enqueue(1, n) for n in (1, 2)]
        runner = Runner(loop_delay=0.05)
        with at_work(runner):
            now, later = (ScheduledTask.objects.get(id=result.id) for result in deferred)
            result = runner.submit_task(now)
            self.assertEqual(result.id, deferred[0].id)
            self.assertTrue(runner.wait_for(result, PATIENCE))
            self.assertEqual(runner.submit_task(later, start=False).status, "READY")
            new = ScheduledTask(task_path="myproject.tasks.add", args=[3], kwargs={"b": 4})
            result = runner.submit_task(new)
            self.assertTrue(runner.wait_for(result, PATIENCE))
            self.assertEqual(result.return_value, 7)
        self.assertEqual(Job.objects.get(id=later.id).status, "SCHEDULED")

    def test_reload_brings_the_code_as_it_is(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.enterContext(mock.patch.object(sys, "path", [folder, *sys.path]))
        self.enterContext(mock.patch.object(sys, "dont_write_bytecode", True))
        self.addCleanup(sys.modules.pop, "changing_tasks", None)

        def write(value):
            text = f"from durable_tasks import task\n\n\n@task\ndef say():\n    return {value}\n"
            (Path(folder) / "changing_tasks.py").write_text(text)

        write(1)
        from changing_tasks import say

        with at_work(Runner(loop_delay=0.05, init_periodic=False)) as runner:
            for value in (1, 22):
                write(value)
                runner.reload()
                result = say.enqueue()
                self.assertTrue(runner.wait_for(result, PATIENCE))
                self.assertEqual(result.return_value, value)

    def test_tasks_whose_time_is_over_are_deleted(self):
        self.enterContext(mock.patch.object(prune, "EVERY", 0.01))
        runner = Runner(loop_delay=0.05, init_periodic=False)
        self.assertTrue(runner.should_delete_tasks)
        runner.should_delete_tasks = False
        with at_work(runner):
            results = [add.enqueue(1, n) for n in range(60)]
            self.assertTrue(runner.wait(PATIENCE))
            Job.objects.update(delete_after=timezone.now() - timedelta(seconds=1))
            last = add.enqueue(1, 2)
            self.assertTrue(runner.wait_for(last, PATIENCE))
        self.assertEqual(ScheduledTask.objects.count(), 61)
        self.assertEqual(runner.delete_tasks(), 60)
        self.assertEqual([row.task_id for row in ScheduledTask.objects.all()], [last.id])
        self.assertEqual(len(results), 60)
        runner.should_delete_tasks = True
        Job.objects.update(delete_after=timezone.now() - timedelta(seconds=1))
        with at_work(runner):
            eventually(lambda: not ScheduledTask.objects.exists(), "it is deleted")


class PeriodicTests(TransactionTestCase):
    def test_a_schedule_of_the_settings(self):
        Runner(init_periodic=False).init_periodic()
        at = PeriodicTask.objects.get(name=MAINTENANCE).next_run_at
        at = timezone.localtime(at) if timezone.is_aware(at) else at
        self.assertEqual((at.hour, at.minute), (3, 30))
        self.assertIn(at.isoweekday(), range(1, 6))
        due(MAINTENANCE)
        with at_work(Runner(loop_delay=0.05)):
            row = eventually(ScheduledTask.objects.successful().first)
        self.assertEqual(
            (row.task, row.return_value), (maintenance.using(run_after=row.run_after), "maintained")
        )
        self.assertTrue(row.periodic)

    def test_the_runners_own_schedule_as_the_readme_adds_it(self):
        runner = Runner(loop_delay=0.05)
        # Convert the `timedelta` to seconds, so as to be JSON-serializable.
        retain_secs = int(runner.backend.options["retain"].total_seconds())
        # Clear old tasks every hour, on a random minute.
        runner.periodic["dbtasks.runner.cleanup"] = Periodic("~ * * * *", args=[retain_secs])
        self.old_and_young()
        due(CLEANUP, runner)
        with at_work(runner):
            self.assert_cleaned()

    def test_a_schedule_of_ones_own_for_cleanup(self):
        periodic = {CLEANUP: Periodic("~ 4 * * *", [Duration("7d").total_seconds()])}
        with override_settings(TASKS=tasks_with(periodic=periodic)):
            self.assertEqual(list(task_backends["default"].check()), [])
            self.old_and_young()
            due(CLEANUP)
            with at_work(Runner(loop_delay=0.05)):
                self.assert_cleaned()

    def old_and_young(self):
        """Let there be tasks of every status, three of them ended eight days ago."""
        old, young = (timezone.now() - timedelta(days=days) for days in (8, 6))
        ended = ["SUCCESSFUL", "FAILED", "CANCELLED"]
        for status, finished_at in [*((each, old) for each in ended), ("SUCCESSFUL", young)]:
            id = add.enqueue(1, 2).id
            Job.objects.filter(id=id).update(status=status, finished_at=finished_at)
        add.using(run_after=timezone.now() + timedelta(days=1)).enqueue(1, 2)

    def assert_cleaned(self):
        cleaned = ScheduledTask.objects.filter(task_path=CLEANUP)
        self.assertEqual(eventually(cleaned.successful().first).return_value, 3)
        self.assertEqual(ScheduledTask.objects.exclude(task_path=CLEANUP).count(), 2)

    def test_cleanup_is_a_task_like_any_other(self):
        with at_work(Runner(loop_delay=0.05, init_periodic=False)) as runner:
            result = cleanup.enqueue(3600)
            self.assertTrue(runner.wait_for(result, PATIENCE))
            self.assertEqual(result.return_value, 0)
            result = cleanup.enqueue("soon")
            self.assertTrue(runner.wait_for(result, PATIENCE))
            self.assertIn("'soon' is no length of time", result.errors[0].traceback)

    def test_a_class_of_ones_own_is_fired(self):
        every = OnTheMinute()
        with override_settings(TASKS=tasks_with(periodic={MAINTENANCE: every})):
            due(MAINTENANCE)
            with at_work(Runner(loop_delay=0.05)):
                row = eventually(ScheduledTask.objects.successful().first)
        self.assertTrue(row.periodic)
        self.assertEqual(PeriodicTask.objects.get().next_run_at.second, 0)


class NotOnSunday(Crontab):
    def first(self, after):
        time = super().first(after)
        while time.isoweekday() == 7:
            time = super().first(time)
        return time


class OnTheMinute(Schedule):
    def first(self, after):
        assert after.tzinfo is None
        return after.replace(second=0, microsecond=0) + timedelta(minutes=1)


class ScheduleTests(SimpleTestCase):
    def test_all_are_found_by_their_names(self):
        for kind in (Crontab("@daily"), Every("1h"), OnTheMinute()):
            self.assertIsInstance(kind, Schedule)
        for wrong in ("61 * * * *", "1 2 3"):
            with self.assertRaises(schedule.CrontabParseError):
                Crontab(wrong)
        self.assertIs(dbtasks.contrib.mule.taskrunner, durable_tasks.contrib.mule.taskrunner)

    @override_settings(TIME_ZONE="Europe/Berlin")
    def test_a_class_that_is_there_may_be_derived_from(self):
        class Daily(Every):
            def first(self, after):
                time = super().first(after)
                return time if time.isoweekday() != 7 else super().first(time)

        saturday = datetime(2026, 5, 16, 12)
        for schedule_, time in (
            (NotOnSunday("0 3 * * *"), datetime(2026, 5, 18, 3)),
            (NotOnSunday("0 3 * * *", timezone="Asia/Tokyo"), datetime(2026, 5, 18, 3)),
            (Daily("1d"), datetime(2026, 5, 18)),
        ):
            self.assertEqual(schedule_.next(saturday), time)
            self.assertEqual(next(schedule_.dates(saturday)), time)
            zone = getattr(schedule_, "timezone", timezone.get_default_timezone())
            self.assertEqual(
                schedule_.next(saturday.replace(tzinfo=zone)), time.replace(tzinfo=zone)
            )
            self.assertTrue(schedule_.match(time.replace(tzinfo=zone)))
            with self.assertRaises(ScheduleExhausted):
                schedule_.next(saturday, until=saturday + timedelta(hours=1))
        self.assertFalse(NotOnSunday("0 3 * * *").match(datetime(2026, 5, 17, 3)))
        fired = Periodic(NotOnSunday("~ 3 * * *")).schedule("seed")  # as the scheduler asks
        self.assertEqual(next(fired.dates(saturday)).day, 18)
        self.assertEqual(Crontab("0 3 * * *").first(saturday), datetime(2026, 5, 17, 3))

    @override_settings(TIME_ZONE="Europe/Berlin")
    def test_ones_own_are_asked_for_local_times(self):
        class AtNine(Schedule):
            def first(self, after):
                nine = after.replace(hour=9, minute=0, second=0, microsecond=0)
                return nine if nine > after else nine + timedelta(days=1)

        noon = datetime(2026, 5, 17, 12, tzinfo=UTC)
        nine = datetime(2026, 5, 18, 7, tzinfo=UTC)
        self.assertEqual(AtNine().next(noon), nine)
        self.assertEqual(AtNine().next(datetime(2026, 5, 17, 12)), datetime(2026, 5, 18, 9))
        self.assertTrue(AtNine().match(nine))
        with self.assertRaises(ScheduleExhausted):
            AtNine().next(noon, until=noon + timedelta(hours=1))
        with self.assertRaises(NotImplementedError):
            Schedule().next(noon)

    @override_settings(TIME_ZONE="Europe/Berlin")
    def test_ones_own_go_on_when_clocks_are_set(self):
        minute, hour = timedelta(minutes=1), timedelta(hours=1)
        for start, distances in (
            # After 01:59 comes 03:00.
            (datetime(2026, 3, 29, 0, tzinfo=UTC), {minute}),
            # After 02:59 comes 02:00 again: what is naive can't tell these from those before.
            (datetime(2026, 10, 24, 23, tzinfo=UTC), {minute, hour + minute}),
            (datetime(2026, 10, 25, 1, tzinfo=UTC), {minute}),
        ):
            times = list(islice(OnTheMinute().dates(start), 200))
            self.assertEqual({later - time for time, later in pairwise(times)}, distances)
            self.assertEqual(times[0], start + minute)


class BesideTests(RunnerTestCase):
    def test_a_runner_works_beside_the_test(self):
        self.assertIsInstance(self.runner, Runner)
        result = add.enqueue(1, 2)
        self.assertTrue(self.runner.wait_for(result))
        self.assertEqual(result.return_value, 3)
        result = add.enqueue(3, 4)
        self.assertTrue(self.runner.wait())
        result.refresh()
        self.assertEqual(result.return_value, 7)
        self.assertEqual(result.worker_ids, [self.runner.worker_id])


class ProcessTests(TransactionTestCase):
    def env(self):
        return environment({"DJANGO_SETTINGS_MODULE": "myproject.settings"})

    def test_taskrunner_runs_and_logs(self):
        arguments = ("-w", "2", "-i", "a-name", "--backend", "default", "--delay", "0.5")
        due(MAINTENANCE)
        with running(command("taskrunner", *arguments), self.env()) as process:
            result = hold.enqueue("x")
            held("x")
            eventually(ScheduledTask.objects.filter(periodic=True).successful().exists)
            let_go()
            eventually(lambda: not ScheduledTask.objects.running().exists())
            self.assertEqual(process.stop(), 0)
            lines = process.output()
        result.refresh()
        self.assertEqual((result.return_value, result.worker_ids), ("x", ["a-name"]))
        self.assertEqual(lines.count("Worker a-name serves queues: all"), 1, lines)

    def test_without_periodic_tasks_there_are_none(self):
        with running(command("taskrunner", "--no-periodic"), self.env()) as process:
            result = add.enqueue(1, 2)
            eventually(ScheduledTask.objects.filter(id=result.id).successful().exists)
            self.assertEqual(process.stop(), 0)
        self.assertFalse(PeriodicTask.objects.exists())

    @skipUnless(may_expect(find_spec("granian") and find_spec("watchfiles")), "needs Granian")
    def test_serve_takes_the_same_flags(self):
        port = free_port()
        address = ("-a", "127.0.0.1", "-p", str(port), "-w", "1", "-t", "2")
        tasks = ("-k", "2", "-i", "beside", "-b", "default", "--delay", "0.5", "--no-periodic")
        with (
            tempfile.TemporaryDirectory() as folder,
            running(command("serve", *address, *tasks), self.env()) as process,
        ):
            self.assertEqual(Site(Path(folder), port).get(""), (200, "the site"))
            result = add.enqueue(1, 2)
            eventually(ScheduledTask.objects.filter(id=result.id).successful().exists)
            self.assertEqual(process.stop(), 0)
        result.refresh()
        self.assertEqual(result.worker_ids, ["beside"])
