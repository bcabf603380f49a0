"""The admin of periodic tasks: what it shows, who may do what, and making them."""

from datetime import timedelta
from unittest import mock

from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks import Periodic
from durable_tasks.chores.schedule import Timetable
from durable_tasks.compat import task_backends
from durable_tasks.models import Job, PeriodicTask
from tests.helpers import tasks_setting

from .base import ESCAPED, SCRIPT, AdminTests

ADD, ECHO = "tests.app.tasks.add", "tests.app.tasks.echo"
NIGHTLY = Periodic("30 3 * * 1-5", [1], {"b": 2}, task=ADD)
SETTINGS = tasks_setting(schedulable=[ADD, ECHO], periodic={"nightly": NIGHTLY})


@override_settings(TASKS=SETTINGS)
class PeriodicTestCase(AdminTests):
    def row(self, name="mine", **changes):
        values = {
            "name": name,
            "backend_name": "default",
            "source": PeriodicTask.DATABASE,
            "task_path": ECHO,
            "spec": "0 6 * * *",
            "time_zone": "UTC",
            "args": [],
            "kwargs": {},
            "queue_name": "default",
            "priority": 0,
            "catch_up": "latest",
            "overlap": "allow",
            "definition": "x",
            "next_run_at": timezone.now() + timedelta(hours=1),
        }
        return PeriodicTask.objects.create(**values | changes)

    def from_settings(self):
        """Return the row that a worker makes of what the settings say."""
        options = task_backends["default"].durable_options
        Timetable.of("default", options).sync(timezone.now())
        return PeriodicTask.objects.get(name="nightly")

    def post(self, page, *args, **data):
        response = self.client.post(self.url(page, *args), data, follow=True)
        self.assertEqual(response.status_code, 200)
        return response

    def save(self, row=None, **changes):
        """Send the form to make, or to change, a periodic task."""
        data = {
            "backend_name": "default",
            "name": "mine",
            "enabled": "on",
            "task_path": ADD,
            "spec": "0 6 * * *",
            "time_zone": "",
            "args": "[1]",
            "kwargs": "",
            "queue_name": "",
            "priority": "",
            "catch_up": "latest",
            "overlap": "allow",
            **changes,
        }
        page = ("periodictask_add",) if row is None else ("periodictask_change", row.pk)
        return self.post(*page, **data)


class ShowingTests(PeriodicTestCase):
    def test_the_list_says_when_each_runs_in_words_and_how_its_last_runs_went(self):
        row = self.from_settings()
        now = timezone.now()
        times = {"last_attempted_at": now - timedelta(seconds=30), "finished_at": now}
        jobs = [
            self.job(status="SUCCESSFUL", **times),
            self.job(status="FAILED", **times | {"last_attempted_at": now - timedelta(seconds=5)}),
        ]
        ids = [str(job.id) for job in jobs] + ["0198a3b0-0000-7000-8000-000000000000"]
        PeriodicTask.objects.filter(pk=row.pk).update(
            last_job_ids=ids, last_job_id=ids[1], last_run_at=now
        )
        page = self.get("periodictask_changelist")
        for text in (
            "nightly",
            "at 03:30 on Monday to Friday",
            "30 3 * * 1-5",
            "made in the settings",
        ):
            self.assertContains(page, text)
        self.assertContains(page, "<rect", count=3)
        self.assertContains(page, "The last 3 runs, 1 failed")
        self.assertNotContains(page, "style=")

    def test_what_is_late_disabled_or_over_says_so(self):
        self.row("late", next_run_at=timezone.now() - timedelta(minutes=10))
        self.row("off", enabled=False)
        self.row("done", next_run_at=None)
        page = self.get("periodictask_changelist")
        for text in ("Late by 10\xa0min", "Disabled", "Over"):
            self.assertContains(page, text)

    def test_a_page_shows_the_next_times_the_last_runs_and_the_call(self):
        row = self.from_settings()
        job = self.job(status="SUCCESSFUL")
        PeriodicTask.objects.filter(pk=row.pk).update(
            last_job_ids=[str(job.id)], last_job_id=job.id, last_run_at=timezone.now()
        )
        page = self.get("periodictask_change", row.pk)
        self.assertEqual(len(page.context["times"]), 5)
        self.assertContains(page, self.url("job_change", job.id))
        self.assertContains(page, "?schedule=nightly")
        self.assertContains(page, '["periodic"]')
        self.assertNotContains(page, 'name="_save"')
        self.assertNotContains(page, "deletelink")

    def test_times_are_shown_in_the_schedules_own_zone_too(self):
        self.row(time_zone="Asia/Tokyo", spec="0 6 * * *")
        for page in (
            self.get("periodictask_changelist"),
            self.get("periodictask_change", PeriodicTask.objects.get().pk),
        ):
            if timezone.is_aware(timezone.now()):
                self.assertContains(page, "Asia/Tokyo")

    def test_who_may_add_one_is_told_the_setting_that_is_missing(self):
        note = '<p class="dt-note">'
        self.assertNotContains(self.get("periodictask_changelist"), note)
        with override_settings(TASKS=tasks_setting()):
            page = self.get("periodictask_changelist")
            self.assertContains(page, '["schedulable"]')
            self.become("view_periodictask")
            self.assertNotContains(self.get("periodictask_changelist"), note)

    def test_a_row_that_can_not_run_says_why(self):
        row = self.row(task_path="os.system")
        page = self.get("periodictask_change", row.pk)
        self.assertContains(page, "os.system is not in TASKS")
        self.assertNotContains(self.get("periodictask_changelist"), "is not in TASKS")
        PeriodicTask.objects.update(next_run_at=timezone.now() - timedelta(minutes=10))
        page = self.get("periodictask_changelist")
        self.assertContains(page, "Late by 10\xa0min")
        self.assertContains(page, "os.system is not in TASKS")
        page = self.post("periodictask_act", row.pk, "run")
        self.assertContains(page, "can&#x27;t be run")
        gone = self.row("gone", backend_name="gone")
        self.get("periodictask_change", gone.pk)
        self.post("periodictask_act", gone.pk, "run")
        self.assertFalse(Job.objects.exists())

    def test_what_people_wrote_is_escaped(self):
        rows = [
            self.row(SCRIPT, args=[SCRIPT], kwargs={SCRIPT: 1}, queue_name=SCRIPT),
            self.row("2", task_path=SCRIPT, spec=SCRIPT, time_zone=SCRIPT, last_job_ids=[SCRIPT]),
        ]
        PeriodicTask.objects.filter(pk=rows[1].pk).update(last_job_ids=None)
        pages = [self.get("periodictask_change", row.pk) for row in rows]
        for page in (*pages, self.get("periodictask_changelist")):
            self.assertContains(page, ESCAPED)
            self.assertNotContains(page, "<script>alert(")

    def test_the_number_of_queries_does_not_grow(self):
        counts = []
        for round in range(2):
            for number in range(10):
                ids = [str(self.job(status="SUCCESSFUL").id) for _ in range(3)]
                self.row(f"{round} {number}", last_job_ids=ids, last_job_id=ids[-1])
            with CaptureQueriesContext(connection) as queries:
                self.get("periodictask_changelist")
            counts.append(len(queries))
        self.assertEqual(counts[0], counts[1])
        self.assertLess(counts[0], 12)


class ActingTests(PeriodicTestCase):
    def test_the_selected_ones_are_switched_off_and_on_and_run(self):
        rows = [self.row(), self.from_settings()]
        ids = [row.pk for row in rows]
        for action, enabled, text in (
            ("disable", False, "2 periodic tasks are disabled."),
            ("enable", True, "2 periodic tasks are enabled."),
            ("enable", True, "0 periodic tasks are enabled."),
        ):
            response = self.post("periodictask_changelist", action=action, _selected_action=ids)
            self.assertContains(response, text)
            self.assertEqual(set(PeriodicTask.objects.values_list("enabled", flat=True)), {enabled})
        self.post("periodictask_changelist", action="run_now", _selected_action=ids)
        self.assertEqual(
            set(Job.objects.values_list("schedule", "task_path", "status")),
            {("mine", ECHO, "READY"), ("nightly", ADD, "READY")},
        )

    def test_a_run_by_hand_is_as_the_schedules_and_leaves_its_next_time(self):
        row = self.from_settings()
        response = self.post("periodictask_act", row.pk, "run")
        job = Job.objects.get()
        self.assertContains(response, self.url("job_change", job.id))
        self.assertEqual((job.args, job.kwargs, job.schedule), ([1], {"b": 2}, "nightly"))
        after = PeriodicTask.objects.get()
        self.assertEqual(after.next_run_at, row.next_run_at)
        self.assertEqual((after.last_job_id, after.last_job_ids), (job.id, [str(job.id)]))

    def test_one_that_must_not_overlap_is_not_run_beside_itself(self):
        row = self.row(overlap="skip")
        self.post("periodictask_act", row.pk, "run")
        response = self.post("periodictask_act", row.pk, "run")
        self.assertContains(response, "has not ended yet")
        self.assertEqual(Job.objects.count(), 1)

    def test_each_button_needs_its_permission(self):
        row = self.row()
        buttons = {"run": "run_periodictask", "disable": "change_periodictask"}
        for granted in ((), ("run_periodictask",), ("change_periodictask",)):
            self.become("view_periodictask", *granted)
            page = self.get("periodictask_change", row.pk)
            changelist = self.get("periodictask_changelist")
            for act, permission in buttons.items():
                with self.subTest(granted=granted, act=act):
                    url = self.url("periodictask_act", row.pk, act)
                    action = 'value="run_now"' if act == "run" else 'value="disable"'
                    if permission in granted:
                        self.assertContains(page, url)
                        self.assertContains(changelist, action)
                        continue
                    self.assertNotContains(page, url)
                    self.assertNotContains(changelist, action)
                    self.assertEqual(self.client.post(url).status_code, 403)
        self.assertFalse(Job.objects.exists())
        self.assertTrue(PeriodicTask.objects.get().enabled)
        self.assertEqual(
            self.client.get(self.url("periodictask_act", row.pk, "run")).status_code, 405
        )

    def test_it_is_logged_who_did_what(self):
        row = self.row()
        user = self.become("view_periodictask", "change_periodictask", "run_periodictask")
        for act in ("disable", "enable", "run"):
            self.post("periodictask_act", row.pk, act)
        self.assertEqual(LogEntry.objects.filter(user=user, object_id=str(row.pk)).count(), 3)


class MakingTests(PeriodicTestCase):
    def made(self):
        return PeriodicTask.objects.get()

    def test_one_is_made_and_has_its_next_time(self):
        self.assertNotContains(self.get("periodictask_add"), "null")
        response = self.save(args='[1, "two"]', spec="0 6 * * 1-5", time_zone="Europe/Berlin")
        self.assertContains(response, "was added successfully")
        row = self.made()
        self.assertEqual(
            (row.source, row.name, row.task_path, row.spec, row.time_zone, row.enabled),
            ("database", "mine", ADD, "0 6 * * 1-5", "Europe/Berlin", True),
        )
        self.assertEqual((row.args, row.kwargs), ([1, "two"], {}))
        self.assertEqual((row.queue_name, row.priority), ("default", 0))
        self.assertGreater(row.next_run_at, timezone.now())
        self.assertEqual(len(row.definition), 64)

    def test_what_a_worker_makes_of_it_is_the_same(self):
        self.save()
        row = self.made()
        timetable = Timetable("default", {}, [ADD])
        timetable.sync(timezone.now())
        timetable.tick(row.next_run_at)
        self.assertEqual(Job.objects.get().args, [1])
        self.assertEqual(self.made().definition, timetable.entry_for(row).columns["definition"])

    def test_what_is_wrong_is_named_and_nothing_is_made(self):
        self.from_settings()
        self.row("There")
        for changes, text in (
            ({"spec": "0 99 * * *"}, "has a wrong hour"),
            ({"spec": "often"}, "is neither a length of time"),
            ({"spec": "0 0 31 2 *"}, "never comes"),
            ({"spec": ""}, "This field is required"),
            ({"spec": "1h", "time_zone": "UTC"}, "A time zone"),
            ({"time_zone": "Mars/Phobos"}, "is no time zone"),
            ({"time_zone": "../../etc/passwd"}, "is no time zone"),
            ({"args": "[1"}, "Enter a valid JSON"),
            ({"args": '{"a": 1}'}, "must be a JSON list"),
            ({"kwargs": "[1]"}, "must be a JSON object"),
            ({"args": "[1, 2, 3]"}, "be called with its arguments"),
            ({"args": "[NaN]"}, "NaN"),
            ({"kwargs": '{"c": 1}'}, "be called with its arguments"),
            ({"task_path": "os.system"}, "os.system is not one of the available choices"),
            ({"task_path": SCRIPT}, ESCAPED),
            ({"backend_name": "nowhere"}, "nowhere is not one of the available choices"),
            ({"name": "nightly"}, "has this name, and wins"),
            ({"name": "NIGHTLY"}, "has this name, and wins"),
            ({"name": "there"}, "of this name already"),
            ({"name": ""}, "This field is required"),
            ({"priority": "1000"}, "less than or equal to 100"),
            ({"catch_up": "some"}, "some is not one of the available choices"),
        ):
            with self.subTest(changes=changes):
                self.assertContains(self.save(**changes), text)
        self.assertEqual(PeriodicTask.objects.count(), 2)

    def test_a_path_that_the_settings_do_not_name_is_never_imported(self):
        with mock.patch("durable_tasks.results.import_string") as imported:
            self.save(task_path="tests.app.explodes.task")
        imported.assert_not_called()

    def test_a_queue_of_the_backend_is_chosen(self):
        tasks = {"default": {**SETTINGS["default"], "QUEUES": ["default", "mails"]}}
        with override_settings(TASKS=tasks):
            page = self.get("periodictask_add")
            self.assertContains(page, '<option value="mails">')
            self.assertContains(self.save(queue_name="other"), "is not one of the available")
            self.save(queue_name="mails", priority="7")
        row = self.made()
        self.assertEqual((row.queue_name, row.priority), ("mails", 7))

    def test_an_edit_moves_the_next_time_only_if_the_schedule_changed(self):
        self.save()
        before = self.made()
        self.save(before, args="[5]", spec=before.spec, time_zone=before.time_zone)
        row = self.made()
        self.assertEqual((row.args, row.next_run_at), ([5], before.next_run_at))
        self.assertNotEqual(row.definition, before.definition)
        self.save(row, spec="1h", name="renamed")
        row = self.made()
        self.assertEqual((row.name, row.spec, row.time_zone), ("renamed", "1h", ""))
        self.assertLess(row.next_run_at, timezone.now() + timedelta(hours=1, seconds=1))

    def test_an_edit_leaves_a_run_that_is_due_and_what_workers_wrote_meanwhile(self):
        self.save()
        row = self.made()
        due = timezone.now().replace(microsecond=0) - timedelta(minutes=1)
        job = self.job()
        PeriodicTask.objects.update(next_run_at=due, last_job_id=job.id, last_run_at=due)
        self.save(row, spec="1h")
        row = self.made()
        self.assertEqual((row.next_run_at, row.last_job_id, row.spec), (due, job.id, "1h"))

    def test_one_is_deleted_but_not_those_of_the_settings(self):
        mine, theirs = self.row(), self.from_settings()
        self.assertEqual(
            self.client.post(
                self.url("periodictask_delete", theirs.pk), {"post": "yes"}
            ).status_code,
            403,
        )
        self.post("periodictask_delete", mine.pk, post="yes")
        self.assertEqual(list(PeriodicTask.objects.values_list("name", flat=True)), ["nightly"])

    def test_those_of_the_settings_can_not_be_edited(self):
        row = self.from_settings()
        response = self.client.post(self.url("periodictask_change", row.pk), {"spec": "1h"})
        self.assertEqual(response.status_code, 403)
        self.assertEqual(PeriodicTask.objects.get().spec, "30 3 * * 1-5")

    def test_permissions_to_add_change_and_delete(self):
        row = self.row()
        pages = {
            "add_periodictask": self.url("periodictask_add"),
            "change_periodictask": self.url("periodictask_change", row.pk),
            "delete_periodictask": self.url("periodictask_delete", row.pk),
        }
        for granted in pages:
            self.become("view_periodictask", granted)
            for permission, url in pages.items():
                with self.subTest(granted=granted, permission=permission):
                    allowed = self.client.post(url, {}).status_code != 403
                    self.assertEqual(allowed, permission == granted)

    @override_settings(TASKS=tasks_setting())
    def test_without_schedulable_tasks_nothing_can_be_added(self):
        self.assertEqual(self.client.get(self.url("periodictask_add")).status_code, 403)
        page = self.get("periodictask_changelist")
        self.assertNotContains(page, self.url("periodictask_add"))
