"""The live overview: what it shows, to whom, and at what cost."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.staticfiles import finders
from django.db import connection
from django.template.loader import render_to_string
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse
from django.utils import timezone

from durable_tasks import clock, state, tallies
from durable_tasks.admin import figures, overview_tables
from durable_tasks.admin.jobs import JobAdmin
from durable_tasks.histogram import bucket
from durable_tasks.models import ErrorGroup, Job, Pause, PeriodicTask, Statistic, Worker

from ..helpers import tasks_setting

NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
SCRIPT = "<script>alert('x')</script>"

# A site that knows jobs and no more.
bare = admin.AdminSite(name="bare")
bare.register(Job, JobAdmin)
urlpatterns = [path("admin/", admin.site.urls), path("bare/", bare.urls)]


def ago(seconds: float) -> datetime:
    moment = NOW - timedelta(seconds=seconds)
    return moment if timezone.is_aware(clock.now()) else timezone.make_naive(moment)


def statistic(minutes: int, task: str = "shop.tasks.pay", **values: Any) -> None:
    """Write a row of a minute that began so many minutes ago."""
    given = {"backend_name": "default", "period": 60, "queue_name": "default", "task_path": task}
    for name in ("waits", "runs"):
        if name in values:
            values[name] = {str(bucket(seconds)): n for seconds, n in values[name].items()}
    Statistic.objects.create(**{**given, "begins": SECONDS - 60 * minutes, **values})


def group(**values: Any) -> None:
    given = {
        "backend_name": "default",
        "exception_class_path": "shop.errors.Declined",
        "place": "shop/tasks.py in pay",
        "count": 12,
        "hours": {str(SECONDS): 5},
        "first_seen": ago(90_000),
        "last_seen": ago(65),
        "message": "no money",
        "task_path": "shop.tasks.pay",
        "last_job_id": uuid.uuid4(),
    }
    ErrorGroup.objects.create(**given | values)


def job(status: str = "READY", **values: Any) -> Job:
    given = {
        "status": status,
        "backend_name": "default",
        "queue_name": "default",
        "task_path": "shop.tasks.pay",
        "run_at": ago(3),
        "enqueued_at": ago(3),
    }
    return Job.objects.create(**given | values)


def failed_job(**values: Any) -> Job:
    """Make a job with the error of ``group()``."""
    given = {
        "status": "FAILED",
        "exception_class_path": "shop.errors.Declined",
        "error_place": "shop/tasks.py in pay",
        "finished_at": ago(1),
    }
    return job(**given | values)


def worker(id: str = "w-1", seen: float = 2) -> None:
    Worker.objects.create(
        id=id,
        life=uuid.uuid4(),
        backend_name="default",
        host="a-host",
        pid=42,
        process_started="1",
        queues="all",
        started_at=ago(500),
        last_seen=int((SECONDS - seen) * 1e6),
        capacity=16,
    )


def schedule(name: str, late: float) -> None:
    PeriodicTask.objects.create(
        name=name,
        backend_name="default",
        task_path="shop.tasks.pay",
        spec="* * * * *",
        time_zone="UTC",
        queue_name="default",
        priority=0,
        catch_up="latest",
        overlap="allow",
        definition="x",
        next_run_at=ago(late),
    )


class OverviewTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        users = get_user_model().objects
        cls.boss = users.create_superuser("boss", "b@example.com", "secret")
        cls.staff = users.create_user("staff", "s@example.com", "secret", is_staff=True)

    def setUp(self):
        self.client.force_login(self.boss)
        self.enterContext(mock.patch.object(clock, "source", return_value=NOW))
        self.enterContext(mock.patch.dict(tallies.kept_sums, clear=True))

    def allow(self, *codenames):
        self.staff.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        self.client.force_login(self.staff)

    def page(self, site="admin", **query):
        address = reverse("admin:app_list", args=["durable_tasks"], current_app=site)
        response = self.client.get(address, query)
        self.assertEqual(response.status_code, 200)
        return response

    def answer(self, status=200, **query):
        response = self.client.get(reverse("admin:durable_tasks_overview"), query)
        self.assertEqual(response.status_code, status)
        self.assertEqual(response["Content-Type"], "application/json")
        return response.json()

    def tiles(self, **query):
        return {each["key"]: each for each in self.answer(**query)["tiles"]}

    def table(self, key, **query):
        return next(each for each in self.answer(**query)["tables"] if each["key"] == key)

    def rows(self, table, **query):
        """Return the rows of a table as lists of texts."""
        return [
            [cell["text"] for cell in row["cells"]] for row in self.table(table, **query)["rows"]
        ]

    # What it shows --------------------------------------------------------------------------

    def test_without_anything_it_says_what_to_do(self):
        page = self.page()
        self.assertContains(page, "No worker is running")
        self.assertContains(page, "python manage.py db_worker")
        self.assertContains(page, "No error in this time.")
        data = self.answer()
        self.assertEqual([tile["level"] for tile in data["tiles"]], [*[""] * 6, "bad", ""])
        values = {tile["key"]: tile["value"] for tile in data["tiles"]}
        self.assertEqual((values["waiting"], values["wait"]), ("0", figures.NONE))
        self.assertTrue(all(not each["rows"] for each in data["tables"]))

    def test_tiles_of_a_site_that_is_well(self):
        for minutes in range(2, 7):
            statistic(minutes, successful=60, runs={0.1: 57, 2: 3}, waits={0.01: 60})
        statistic(30, successful=99, failed=1)
        worker("w-1")
        worker("w-2", seen=6)
        job(run_at=ago(40))
        job()
        job("RUNNING", worker_id="w-1")
        schedule("on time", -60)
        tiles = self.tiles()
        found = {key: (tile["value"], tile["note"]) for key, tile in tiles.items()}
        none = figures.NONE
        self.assertEqual(found["waiting"], ("2", "oldest 40\xa0s"))
        self.assertEqual(found["running"], ("1", "of 32 at once"))
        self.assertEqual(found["throughput"], ("60", "last 5 minutes"))
        self.assertEqual(found["failures"], ("1", "0.2\xa0% of all"))
        self.assertNotIn(none, (found["wait"][0], found["run"][0]))
        self.assertEqual(found["workers"], ("2", "seen 6\xa0s ago"))
        self.assertEqual(found["schedules"], ("0", "all on time"))
        self.assertEqual({tile["level"] for tile in tiles.values()}, {""})
        self.assertEqual(self.answer()["notices"], [])

    def test_tiles_are_coloured_where_something_is_wrong(self):
        statistic(3, successful=8, failed=2, waits={90: 10})
        worker("w-1", seen=20)
        worker("w-2", seen=9000)
        job(run_at=ago(600))
        schedule("late", 90)
        levels = {key: tile["level"] for key, tile in self.tiles().items()}
        self.assertEqual(
            levels,
            {
                "waiting": "bad",
                "running": "",
                "throughput": "",
                "failures": "bad",
                "wait": "warn",
                "run": "",
                "workers": "bad",
                "schedules": "warn",
            },
        )
        self.assertEqual(self.rows("late"), [["late", "1\xa0min\xa030\xa0s"]])
        self.assertEqual(
            [row[:2] for row in self.rows("silent")], [["w-1", "Silent"], ["w-2", "Lost"]]
        )

    def test_where_all_workers_are_lost_none_is_running(self):
        worker(seen=40)
        self.assertContains(self.page(), "No worker is running")
        worker("w-2", seen=20)
        self.assertNotContains(self.page(), "No worker is running")

    def test_what_is_paused_is_told_and_does_not_alarm(self):
        worker()
        job(queue_name="mails", run_at=ago(9000))
        Pause.objects.create(
            backend_name="default", queue_name="mails", paused_at=ago(600), paused_by="anna"
        )
        Pause.objects.create(backend_name="default", task_path="shop.a", paused_at=ago(600))
        job("PAUSED", task_path="shop.a")
        texts = [notice["text"] for notice in self.answer()["notices"]]
        self.assertEqual(len(texts), 2)
        [queue] = [text for text in texts if "mails" in text]
        self.assertRegex(queue, r"is paused since \d\d:50:00, by anna\.")
        [task] = [text for text in texts if "shop.a" in text]
        self.assertIn("held back: 1", task)
        self.assertEqual(self.tiles()["waiting"]["level"], "")
        self.assertContains(self.page(), "by anna")

    def test_charts(self):
        statistic(3, successful=6, failed=2, retried=1, runs={0.1: 9}, waits={1: 9})
        statistic(3, "", ready=4, scheduled=3, running=2)
        statistic(4, "", ready=1)
        data = self.answer()
        self.assertEqual(data["times"][-1], SECONDS - 120)
        charts = {each["key"]: each for each in data["charts"]}
        lines = {
            (key, line["key"]): line["values"]
            for key, chart in charts.items()
            for line in chart["series"]
        }
        self.assertEqual(lines["outcomes", "successful"][-4:], [None, 0, 6, None])
        self.assertEqual(lines["outcomes", "failed"][-2:], [2, None])
        self.assertNotIn(("outcomes", "lost"), lines)
        self.assertEqual(lines["depth", "ready"][-3:], [1, 4, None])
        self.assertEqual(lines["depth", "running"][-3:], [None, 2, None])
        self.assertAlmostEqual(lines["waits", "p95"][-2], 1, delta=0.125)
        self.assertIsNone(lines["runs", "p50"][-3])
        self.assertEqual({len(values) for values in lines.values()}, {60})

    def test_errors_are_those_of_the_range_with_the_most_first(self):
        group(place="rare.py in f", hours={str(SECONDS): 1})
        group()
        group(place="old.py in f", last_seen=ago(9000), hours={str(SECONDS - 7200): 99})
        rows = self.rows("errors")
        self.assertEqual([row[3] for row in rows], ["5", "1"])
        self.assertEqual(rows[0][:3], ["Declined", "no money", "pay"])
        self.assertEqual([row[3] for row in self.rows("errors", range="24h")], ["99", "5", "1"])

    def test_errors_lead_to_their_jobs_and_to_acting_on_them(self):
        group()
        failed_job()
        self.allow("view_job", "retry_job", "delete_job")
        page = self.page().content.decode()
        search = (
            "status=FAILED&amp;backend_name=default&amp;exception_class_path=shop.errors.Declined"
        )
        for address in ("job/?", "job/act/?action=retry&amp;", "job/act/?action=delete&amp;"):
            self.assertIn(f"{address}{search}", page)

    def test_errors_without_failed_jobs_offer_nothing_to_do_to_them(self):
        group()
        group(place="other.py in f")
        failed_job()
        failed_job(error_place="other.py in f", status="SUCCESSFUL")
        self.allow("view_job", "retry_job", "delete_job")
        pay, other = self.table("errors")["rows"]
        self.assertEqual([act["name"] for act in pay["cells"][-1]["acts"]], ["retry", "delete"])
        self.assertNotIn("acts", other["cells"][-1])
        self.assertEqual(other["cells"][-1]["sub"], "no failed jobs")
        # To those that have raised it all the same.
        response = self.client.get(other["cells"][0]["href"])
        self.assertEqual([row.job.status for row in response.context["rows"]], ["SUCCESSFUL"])
        self.assertContains(self.page(), "no failed jobs")

    def test_errors_of_more_failed_jobs_than_are_looked_at_offer_all(self):
        group(place="other.py in f")
        for _ in range(3):
            failed_job()
        self.allow("view_job", "retry_job")
        with mock.patch.object(state, "MOST_OTHERS", 2):
            [other] = self.table("errors")["rows"]
        self.assertEqual([act["name"] for act in other["cells"][-1]["acts"]], ["retry"])

    def test_tables_of_tasks(self):
        for name, seconds, failed, retried in (
            ("slow", 30, 0, 0),
            ("bad", 1, 3, 1),
            ("odd", 2, 0, 5),
        ):
            statistic(
                *(3, f"shop.{name}"),
                successful=9,
                failed=failed,
                retried=retried,
                runs={seconds: 9},
            )
        self.assertEqual([row[0] for row in self.rows("slowest")], ["slow", "odd", "bad"])
        self.assertEqual(
            self.rows("failing"), [["bad", "3", "1", "25\xa0%"], ["odd", "0", "5", "0\xa0%"]]
        )

    def test_queues_with_the_most_work_come_first(self):
        for _ in range(3):
            job(queue_name="mails")
        job("SCHEDULED", run_at=ago(-60))
        rows = self.rows("queues")
        self.assertEqual([row[0] for row in rows], ["mails", "default"])
        self.assertEqual(rows[0][1], "3")
        self.assertEqual(rows[1][3], "1")
        self.assertEqual([row[0] for row in self.rows("queues", queue="mails")], ["mails"])

    # What it is asked for -------------------------------------------------------------------

    def test_filters_are_in_the_address_and_stay_there(self):
        statistic(3, "shop.a", successful=1)
        statistic(3, "shop.b", queue_name="mails", successful=10)
        for query, expected in (
            ({}, "11"),
            ({"queue": "mails"}, "10"),
            ({"task": "shop.a"}, "1"),
            ({"backend": "default"}, "11"),
            ({"queue": "nowhere"}, "0"),
        ):
            with self.subTest(query):
                chart = self.answer(**query)["charts"][0]
                self.assertEqual(chart["series"][0]["text"], expected)
        page = self.page(range="24h", task="shop.a")
        self.assertContains(page, "?range=7d&amp;task=shop.a")
        self.assertContains(page, "overview/?range=24h&amp;task=shop.a")
        self.assertContains(page, '<option value="shop.a" selected>', count=1)
        self.assertContains(self.page(task="shop.a"), '<option value="shop.b">', count=1)

    def test_for_one_task_nobody_knows_how_much_waits(self):
        statistic(3, successful=1)
        keys = [chart["key"] for chart in self.answer(task="shop.tasks.pay")["charts"]]
        self.assertEqual(keys, ["outcomes", "waits", "runs"])

    def test_what_is_not_known_is_named_and_left_out(self):
        for query in ({"range": "2h"}, {"backend": "gone"}, {"range": SCRIPT}, {"task": "a\0b"}):
            with self.subTest(query):
                page = self.page(**query)
                self.assertNotContains(page, SCRIPT)
                if "task" not in query:
                    self.assertContains(page, "is not known and was left out")
                self.answer(**query)

    def test_several_backends(self):
        backends = tasks_setting()
        backends["second"] = dict(backends["default"])
        statistic(3, successful=1)
        statistic(3, successful=10, backend_name="second")
        self.assertNotContains(self.page(), 'name="backend"')
        with override_settings(TASKS=backends):
            self.assertContains(self.page(), '<option value="second">')
            for query, expected in (({}, "11"), ({"backend": "second"}, "10")):
                chart = self.answer(**query)["charts"][0]
                self.assertEqual(chart["series"][0]["text"], expected)

    # Who sees it ----------------------------------------------------------------------------

    def test_who_may_not_see_jobs_sees_none_of_it(self):
        group()
        self.allow("view_worker")
        page = self.page()
        self.assertNotContains(page, "dt-overview")
        self.assertNotContains(page, "no money")
        self.assertContains(page, reverse("admin:durable_tasks_worker_changelist"))
        self.assertEqual(set(self.answer(403)), {"error"})
        self.allow()
        address = reverse("admin:app_list", args=["durable_tasks"])
        self.assertEqual(self.client.get(address).status_code, 404)
        self.answer(403)
        self.client.logout()
        response = self.client.get(reverse("admin:durable_tasks_overview"))
        self.assertEqual(response.status_code, 302)
        self.assertIn(reverse("admin:login"), response["Location"])

    def test_who_may_only_look_finds_nothing_to_act_with(self):
        group()
        failed_job()
        worker()
        self.allow("view_job")
        page = self.page()
        self.assertContains(page, "no money")
        for text in ("act/?", "Retry all", "Delete all"):
            self.assertNotContains(page, text)
        self.assertEqual(len(self.rows("errors")[0]), 6)
        self.assertEqual(self.tiles()["workers"]["href"], "")
        self.allow("view_job", "retry_job")
        page = self.page()
        self.assertContains(page, "Retry all")
        self.assertNotContains(page, "Delete all")

    def test_it_is_in_no_list_of_models(self):
        self.assertNotContains(self.client.get(reverse("admin:index")), "statistic")
        self.assertNotContains(self.page(), "/statistic/add")

    @override_settings(ROOT_URLCONF=__name__)
    def test_another_site_shows_it_and_leads_to_itself(self):
        group()
        page = self.page(site="bare")
        self.assertContains(page, "no money")
        self.assertContains(page, "/bare/durable_tasks/job/?status=FAILED")
        self.assertNotContains(page, "/admin/durable_tasks/job/?")
        self.assertContains(page, 'data-endpoint=""')

    # What it is made of ---------------------------------------------------------------------

    def test_what_users_and_tasks_wrote_is_escaped(self):
        for name in ("exception_class_path", "place", "message", "task_path"):
            group(**{"place": name, name: SCRIPT})
        statistic(3, SCRIPT, queue_name=SCRIPT, successful=1, failed=1, runs={1: 1})
        job(queue_name=SCRIPT)
        worker(SCRIPT, seen=9000)
        schedule(SCRIPT, 900)
        Pause.objects.create(
            backend_name="default", queue_name=SCRIPT, paused_at=ago(1), paused_by=SCRIPT
        )
        for query in ({}, {"task": SCRIPT}, {"queue": SCRIPT}):
            page = self.page(**query)
            self.assertContains(page, "&lt;script&gt;alert(")
            self.assertNotContains(page, "<script>alert(")

    def test_the_scripts_make_text_of_what_they_are_told(self):
        names = re.findall(r'src="[^"]*/(overview[^"]*\.js)"', self.page().content.decode())
        self.assertEqual(names, ["overview_elements.js", "overview_charts.js", "overview.js"])
        source = "".join(Path(finders.find(f"durable_tasks/{name}")).read_text() for name in names)
        self.assertIn("textContent", source)
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            self.assertNotIn(word, source)

    def test_nothing_in_the_page_needs_an_exception_from_a_policy(self):
        group()
        worker()
        html = self.page().content.decode()
        [part] = re.findall(r'<div id="content" .*</main>', html, re.DOTALL)
        self.assertNotRegex(part, r"<style|\sstyle=|\son\w+=|javascript:|//[a-z]")
        self.assertEqual(len(re.findall("<script", part)), len(re.findall("<script src=", part)))

    def test_the_first_state_is_what_the_script_goes_on_from(self):
        group()
        statistic(3, successful=1)
        context = self.page().context["overview"]
        self.assertEqual(json.loads(context["text"]), self.answer())

    def test_its_cost_does_not_grow(self):
        def cost():
            with CaptureQueriesContext(connection) as queries:
                self.answer()
            return len(queries)

        worker()
        job()
        job("RUNNING", worker_id="w-1")
        job("SCHEDULED", run_at=ago(-60))
        statistic(3, successful=1)
        group()
        before = cost()
        # With the session and the user; PostgreSQL pins its plans, too.
        self.assertLessEqual(before, 20)
        Job.objects.bulk_create(
            Job(
                status=status,
                backend_name="default",
                queue_name="default",
                task_path=f"shop.{n}",
                run_at=ago(3),
                enqueued_at=ago(3),
                worker_id="w-1" if status == "RUNNING" else None,
                finished_at=ago(1) if status == "FAILED" else None,
            )
            for n in range(200)
            for status in ("READY", "RUNNING", "SCHEDULED", "FAILED")
        )
        for n in range(50):
            statistic(3, f"shop.{n}", successful=1, failed=1)
            group(place=f"shop/{n}.py in f")
        self.assertEqual(cost(), before)


class FigureTests(TestCase):
    def test_figures_are_short(self):
        for function, pairs in (
            (
                figures.short,
                (
                    *(
                        (None, figures.NONE),
                        (0, "0"),
                        (7, "7"),
                        (0.25, "0.2"),
                        (9.96, "10"),
                        (999, "999"),
                    ),
                    *((1000, "1k"), (1234, "1.2k"), (12_345, "12k"), (999_900, "1M")),
                    *((5_600_000, "5.6M"), (2e9, "2G")),
                ),
            ),
            (
                figures.duration,
                (
                    *((None, figures.NONE), (0, "0 ms"), (5e-5, "< 0.1 ms"), (0.0034, "3.4 ms")),
                    *((0.34, "340 ms"), (0.9999, "1 s"), (4.25, "4.2 s"), (34.4, "34 s")),
                    *((59.9, "1 min"), (320, "5 min 20 s"), (2700, "45 min"), (7500, "2 h 5 min")),
                    *((80_000, "22 h"), (200_000, "2 d")),
                ),
            ),
            (figures.rough, ((0.2, "0 s"), (59.9, "59 s"), (119, "1 min"), (9000, "2 h"))),
            (
                figures.percent,
                (
                    (None, figures.NONE),
                    (0, "0 %"),
                    (0.0004, "< 0.1 %"),
                    (0.014, "1.4 %"),
                    (1, "100 %"),
                ),
            ),
        ):
            for number, text in pairs:
                with self.subTest(function=function.__name__, number=number):
                    # A number and its unit stay on one line.
                    self.assertEqual(function(number), text.replace(" ", "\xa0"))

    def test_a_spark_is_as_high_as_its_greatest_count(self):
        self.assertEqual(overview_tables.spark([0, 0, 4]), "0,19 48,19 96,1")
        self.assertEqual(overview_tables.spark([1, 1, 0, 0], 2), "0,1 96,19")
        self.assertEqual(overview_tables.spark([0, 0]), "0,19 96,19")

    def test_a_cell_is_rendered_with_all_it_has(self):
        cell = overview_tables.cell(
            "a", "code", sub="b", href="/c", pill=("paused", "d"), spark="0,1 2,3"
        )
        html = render_to_string("admin/durable_tasks/overview_cell.html", {"cell": cell})
        for text in ('<a href="/c">a</a>', "<small>b</small>", 'dt-status--paused">d<', "0,1 2,3"):
            self.assertIn(text, html)
