"""Periodic tasks that are made in the database: read by workers as the settings' are."""

from unittest import mock

from durable_tasks import Periodic
from durable_tasks.chores.schedule import LAST_JOBS
from durable_tasks.models import Job, PeriodicTask
from durable_tasks.timetable import ROW_COLUMNS, entry_of_row

from ..helpers import WorkerTestCase, eventually, run_command, running_worker
from .test_schedule import ECHO, TimetableTestCase, at


def make(name="mine", next_run_at=None, **changes):
    """Make a periodic task in the database as the admin does."""
    values = {
        "backend_name": "default",
        "name": name,
        "source": PeriodicTask.DATABASE,
        "task_path": ECHO,
        "spec": "1h",
        "time_zone": "",
        "args": [],
        "kwargs": {},
        "queue_name": "default",
        "priority": 0,
        "catch_up": "latest",
        "overlap": "allow",
        **changes,
    }
    row = PeriodicTask(**values, next_run_at=next_run_at or at(hours=1))
    try:
        row.definition = entry_of_row(row).columns["definition"]
    except Exception:
        row.definition = "wrong"
    row.save()
    return row


class MadeInTheDatabaseTests(TimetableTestCase):
    def timetable(self, periodic=None, **more):
        timetable = super().timetable(periodic, **more)
        timetable.schedulable = (ECHO,)
        return timetable

    def test_it_runs_with_what_its_row_says(self):
        timetable = self.synced()
        make(args=[1], kwargs={"b": 2}, queue_name="mails", priority=5)
        fired = timetable.tick(at(hours=1))
        self.assertEqual((fired.jobs, fired.next_due), (1, at(hours=2)))
        job = Job.objects.get()
        self.assertEqual(
            (job.task_path, job.args, job.kwargs, job.queue_name, job.priority, job.schedule),
            (ECHO, [1], {"b": 2}, "mails", 5, "mine"),
        )
        self.assertEqual(self.row("mine").last_job_ids, [str(job.id)])

    def test_a_new_one_an_edit_and_a_removal_count_at_the_next_look(self):
        timetable = self.synced({ECHO: "1d"})
        self.assertEqual(timetable.tick(at()).next_due, at(hours=12))
        row = make()
        self.assertEqual(timetable.tick(at()).next_due, at(hours=1))
        changed = make("other", spec="10m", args=[7])
        columns = {name: getattr(changed, name) for name in ROW_COLUMNS}
        changed.delete()
        PeriodicTask.objects.filter(pk=row.pk).update(
            **columns, definition=changed.definition, next_run_at=at(minutes=10)
        )
        self.assertEqual(timetable.tick(at(minutes=10)).next_due, at(minutes=20))
        self.assertEqual(Job.objects.get().args, [7])
        self.row("mine").delete()
        self.assertEqual(timetable.tick(at(minutes=20)).jobs, 0)

    def test_a_start_neither_deletes_nor_changes_it(self):
        row = make()
        PeriodicTask.objects.filter(pk=row.pk).update(enabled=False)
        before = PeriodicTask.objects.filter(pk=row.pk).values().get()
        self.synced({ECHO: "1h"})
        self.timetable().sync(at(days=1))
        self.assertEqual(PeriodicTask.objects.filter(pk=row.pk).values().get(), before)

    def test_a_disabled_one_does_not_run_and_its_time_goes_on(self):
        make(enabled=False)
        timetable = self.synced()
        self.assertEqual(timetable.tick(at(hours=1)).jobs, 0)
        self.assertEqual(self.row("mine").next_run_at, at(hours=2))

    def test_of_two_with_one_name_the_settings_wins(self):
        make("both", args=[1])
        timetable = self.timetable(both=Periodic("1h", [2], task=ECHO))
        timetable.sync(at())
        timetable.tick(at(hours=1))
        self.assertEqual(Job.objects.get().args, [2])
        self.assertEqual(self.row("both").source, PeriodicTask.SETTINGS)

    def test_a_task_that_is_not_schedulable_is_logged_once_and_not_imported(self):
        make(task_path="tests.app.explodes.task")
        timetable = self.synced()
        with (
            self.assertLogs("durable_tasks", "ERROR") as logs,
            mock.patch("durable_tasks.results.import_string") as imported,
        ):
            for hours in range(1, 4):
                self.assertEqual(timetable.tick(at(hours=hours)).jobs, 0)
        self.assertEqual(len(logs.records), 1)
        self.assertIn('is not in TASKS["default"]["OPTIONS"]["schedulable"]', logs.output[0])
        imported.assert_not_called()
        self.assertEqual(self.row("mine").next_run_at, at(hours=1))

    def test_a_row_that_somebody_broke_is_logged_once_and_others_run(self):
        make("broken", spec="often")
        make()
        timetable = self.synced()
        with self.assertLogs("durable_tasks", "ERROR") as logs:
            for hours in (1, 2):
                self.assertEqual(timetable.tick(at(hours=hours)).jobs, 1)
        self.assertEqual(len(logs.records), 1)

    def test_two_workers_fire_each_time_once(self):
        make()
        first, second = self.synced(), self.synced()
        for hours in (1, 2):
            first.tick(at(hours=hours))
            second.tick(at(hours=hours))
        self.assert_runs(60, 120, name="mine")

    def test_the_last_jobs_are_kept_of_the_settings_tasks_too(self):
        make(catch_up="all")
        timetable = self.synced({ECHO: Periodic("1h", catch_up="all")})
        timetable.tick(at(hours=5))
        timetable.tick(at(hours=30))
        for name in (ECHO, "mine"):
            ids = (
                Job.objects.filter(schedule=name).order_by("run_after").values_list("id", flat=True)
            )
            row = self.row(name)
            self.assertEqual(row.last_job_ids, [str(id) for id in ids][-LAST_JOBS:])
            self.assertEqual(len(row.last_job_ids), LAST_JOBS)
            self.assertEqual(str(row.last_job_id), row.last_job_ids[-1])


class RealWorkerTests(WorkerTestCase):
    options = {"worker_timeout": 1, "schedulable": [ECHO]}

    def test_a_worker_notices_what_is_made_edited_and_removed(self):
        with running_worker(options=self.options) as worker:
            row = make(spec="1s", args=["first"])
            eventually(lambda: Job.objects.successful().filter(schedule="mine").exists())
            entry = make("other", spec="1s", args=["second"])
            PeriodicTask.objects.filter(pk=row.pk).update(
                args=entry.args, definition=entry.definition
            )
            entry.delete()
            eventually(lambda: "second" in str(list(Job.objects.values_list("args", flat=True))))
            row.delete()
            make("off", task_path="tests.app.tasks.add")
            worker.says("The periodic task 'off' does not run")
            self.assertEqual(worker.stop(), 0)
        self.assertTrue(PeriodicTask.objects.filter(name="off").exists())

    def test_the_command_lists_it(self):
        make("mine", spec="0 6 * * *", time_zone="UTC")
        make("wrong", task_path="os.system")
        said = run_command("periodic_tasks", options=self.options).stdout
        self.assertIn(f"mine: {ECHO}, 0 6 * * * UTC", said)
        self.assertIn("06:00:00", said)
        self.assertIn("wrong: made in the admin, does not run: Its task os.system", said)
