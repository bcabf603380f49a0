"""The admin of jobs: the list and the page of a job."""

from datetime import timedelta
from unittest import mock

from django.db import connection
from django.test import SimpleTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks import pauses, search
from durable_tasks.admin.timeline import Runs, timeline_of
from durable_tasks.admin.tracebacks import blocks
from durable_tasks.models import ErrorGroup, Job, PeriodicTask, Statistic, Worker
from durable_tasks.redaction import MASK
from tests.helpers import tasks_setting
from tests.store.jobs import make_jobs, make_running

from .base import ESCAPED, SCRIPT, AdminTests

STATUSES = ("READY", "SCHEDULED", "PAUSED", "RUNNING", "SUCCESSFUL", "FAILED", "CANCELLED")


class JobListTests(AdminTests):
    def listed(self, **query):
        return [row.job for row in self.get("job_changelist", **query).context["rows"]]

    def test_the_list_shows_jobs_and_filters_them(self):
        first = self.job(5, status="RUNNING", worker_id="w-1")
        second = self.failed_job("x", queue_name="mails", schedule="nightly")
        shown = self.get("job_changelist")
        for job in (first, second):
            self.assertContains(shown, self.url("job_change", job.id))
        for query, expected in (
            ({"status": "RUNNING"}, [first]),
            ({"status": "running"}, [first]),
            ({"status": "READY"}, []),
            ({"queue_name": "mails"}, [second]),
            ({"task_path": "tests.app.tasks.echo"}, [second, first]),
            ({"exception_class_path": "builtins.ValueError"}, [second]),
            ({"schedule": "nightly"}, [second]),
            ({"worker_id": "w-1"}, [first]),
            ({"since": "1h"}, [second, first]),
            ({"until": "2020-01-01T00:00"}, []),
            ({"q": str(first.id)}, [first]),
            ({"q": "app.tasks.echo"}, [second, first]),
            ({"q": "args.0=5"}, [first]),
            ({"q": "no.such.task"}, []),
        ):
            with self.subTest(query):
                self.assertEqual(self.listed(**query), expected)

    def test_a_job_that_failed_has_the_worker_of_its_last_error(self):
        one, two = self.failed_job("x"), self.failed_job("y", status="CANCELLED")
        two.errors = [*one.errors, {**one.errors[0], "worker_id": "w-2"}]
        two.save()
        odd = [
            self.failed_job("z", errors=errors)
            for errors in ([{"worker_id": None}], [], {}, "x", 5, [7], None)
        ]
        rows = self.get("job_changelist").context["rows"]
        found = {row.job.id: row.worker_id for row in rows}
        expected = {one.id: "w-1", two.id: "w-2", **dict.fromkeys((job.id for job in odd), "")}
        self.assertEqual(found, expected)

    def test_a_job_says_so_whose_queue_is_paused(self):
        pauses.pause_queue("default", "mails")
        job, due_later = (self.job(queue_name="mails", status=each) for each in STATUSES[:2])
        self.job()
        self.assertContains(self.get("job_changelist"), "queue paused</span>", 1)
        self.assertContains(self.get("job_change", job.id), "queue paused</span>", 1)
        self.assertNotContains(self.get("job_change", due_later.id), "queue paused</span>")

    def test_what_is_asked_for_stays_in_the_fields_and_links(self):
        self.job(status="RUNNING")
        page = self.get(
            "job_changelist", status="RUNNING", queue_name="default", q="echo", worker_id="w&1"
        )
        self.assertContains(page, 'value="echo"')
        self.assertContains(page, '<option value="default" selected>')
        self.assertContains(page, "w&amp;1")
        self.assertContains(page, "?queue_name=default&amp;worker_id=w%261&amp;q=echo")
        self.assertRegex(page.content.decode(), r'status=RUNNING[^"]*" aria-current="page"')

    def test_the_choices_come_from_what_workers_counted(self):
        now = int(timezone.now().timestamp())
        counted = {"backend_name": "default", "period": 3600}
        for begins, queue, task in (
            (now - 3600, "mails", "shop.tasks.send"),
            (now - 8 * 86400, "old", "shop.tasks.old"),
        ):
            Statistic.objects.create(**counted, begins=begins, queue_name=queue, task_path=task)
        seen = {"first_seen": timezone.now(), "last_seen": timezone.now()}
        ErrorGroup.objects.create(
            backend_name="default",
            exception_class_path="shop.Declined",
            task_path="x",
            last_job_id=self.job().id,
            **seen,
        )
        self.job(queue_name="unseen", task_path="shop.tasks.unseen")
        page = self.get("job_changelist")
        selects = {
            each.name: [value for value, _ in each.options] for each in page.context["selects"]
        }
        self.assertEqual(selects["queue_name"], ["mails"])
        self.assertEqual(selects["task_path"], ["shop.tasks.send"])
        self.assertEqual(selects["exception_class_path"], ["shop.Declined"])
        with override_settings(TASKS=tasks_setting()):
            self.get("job_changelist")

    def test_the_tabs_count_up_to_a_limit_what_is_cheap_to_count(self):
        for status in STATUSES:
            make_jobs(3, status=status, finished_at=timezone.now(), worker_id="w")
        page = self.get("job_changelist")
        counts = {tab["name"]: str(tab.get("count")) for tab in page.context["tabs"]}
        self.assertEqual(counts["FAILED"], "3")
        self.assertEqual(counts["SUCCESSFUL"], "None")
        with (
            mock.patch.object(search, "WINDOW", 2),
            mock.patch.object(search.JobSearch.count, "__defaults__", (2,)),
        ):
            counted = self.get("job_changelist").context["tabs"]
        self.assertEqual(str(next(t for t in counted if t["name"] == "READY")["count"]), "2+")
        # A number beside a filter would be of something else.
        page = self.get("job_changelist", queue_name="default")
        self.assertEqual({tab.get("count") for tab in page.context["tabs"]}, {None})

    def test_pages_lead_on_and_back_to_the_first(self):
        make_jobs(120, status="FAILED", finished_at=timezone.now())
        ids, page = [], self.get("job_changelist", status="FAILED")
        self.assertNotContains(page, "Back to the first")
        while True:
            ids += [row.job.id for row in page.context["rows"]]
            following = page.context["next_url"]
            if not following:
                break
            page = self.client.get(following)
            self.assertContains(page, "Back to the first")
        self.assertEqual((len(ids), len(set(ids))), (120, 120))

    def test_a_page_that_is_not_full_says_how_far_it_looked(self):
        make_jobs(30)
        with mock.patch.object(search, "WINDOW", 20):
            page = self.get("job_changelist", q="nothing")
        self.assertContains(page, "Looked at 20 jobs")
        self.assertContains(page, "Look further")

    def test_a_wrong_search_is_told_and_shows_nothing(self):
        self.job()
        for query, text in (
            ({"q": "user_id=4"}, "kwargs.user_id=42"),
            ({"status": "NEW"}, "NEW"),
            ({"since": "yesterday"}, "yesterday"),
            ({"after": "x"}, "does not lead to a page"),
            ({"q": "a\0b"}, None),
            ({"id": "zz"}, "zz"),
            ({"q": "kwargs.password=x"}, "password"),
            ({"q": 'kwargs.user={"api_key":"x"}'}, "api_key"),
        ):
            with self.subTest(query):
                page = self.get("job_changelist", **query)
                self.assertEqual(page.context["rows"], [])
                if text:
                    self.assertContains(page, text)

    def test_an_empty_list_says_what_to_do(self):
        self.assertContains(self.get("job_changelist"), "enqueue()")
        self.assertContains(self.get("job_changelist", q="x"), "No job matches.")

    def test_the_number_of_queries_does_not_grow_with_the_jobs(self):
        now = timezone.now()
        counts = []
        for times in (50, 1000):
            for status in STATUSES:
                make_jobs(times // 5, status=status, finished_at=now, worker_id="w")
            counts.append([])
            for query in ({}, {"status": "READY"}, {"status": "FAILED"}, {"q": "no.such"}):
                with CaptureQueriesContext(connection) as queries:
                    self.get("job_changelist", **query)
                counts[-1].append(len(queries))
        self.assertEqual(counts[0], counts[1])
        self.assertLessEqual(max(counts[0]), 17)

    def test_nothing_is_posted_to_the_list(self):
        response = self.client.post(self.url("job_changelist"), {"action": "delete_selected"})
        self.assertEqual(response.status_code, 405)


class JobPageTests(AdminTests):
    def test_a_job_shows_its_call_its_result_and_its_tracebacks(self):
        page = self.get("job_change", self.job("an argument").id)
        self.assertContains(page, "an argument")
        done = self.job(status="SUCCESSFUL", return_value={"ünï": "code"})
        self.assertContains(self.get("job_change", done.id), "ünï")
        page = self.get("job_change", self.failed_job("line 1\n  line 2").id)
        self.assertContains(page, "line 1")
        self.assertContains(page, "  line 2")
        self.assertContains(page, "w-1")
        self.assertContains(page, "1\xa0min\xa030\xa0s")

    def test_what_users_and_tasks_wrote_is_escaped(self):
        error = {
            "attempt": SCRIPT,
            "worker_id": SCRIPT,
            "started_at": SCRIPT,
            "finished_at": None,
            "exception_class_path": SCRIPT,
            "traceback": f'  File "{SCRIPT}", line 5\n{SCRIPT}: {SCRIPT}',
        }
        everything = {
            "task_path": SCRIPT,
            "queue_name": SCRIPT,
            "backend_name": SCRIPT,
            "schedule": SCRIPT,
            "metadata": {SCRIPT: SCRIPT},
            "errors": [error],
            "exception_class_path": SCRIPT,
            "error_place": SCRIPT,
        }
        jobs = [
            self.job(SCRIPT, {SCRIPT: SCRIPT}, **everything, status=status, worker_id=SCRIPT)
            for status in ("RUNNING", "SUCCESSFUL", "FAILED")
        ]
        Job.objects.filter(id=jobs[1].id).update(
            return_value=SCRIPT, kwargs={SCRIPT: [SCRIPT]}, finished_at=timezone.now()
        )
        self.worker(SCRIPT)
        ErrorGroup.objects.create(
            backend_name="default",
            exception_class_path=SCRIPT,
            task_path=SCRIPT,
            last_job_id=jobs[0].id,
            first_seen=timezone.now(),
            last_seen=timezone.now(),
        )
        pages = [
            *(self.get("job_change", job.id) for job in jobs),
            self.get("job_changelist"),
            self.get(
                "job_changelist",
                **dict.fromkeys(("queue_name", "worker_id", "error_place", "schedule"), SCRIPT),
            ),
            self.get("job_changelist", q=SCRIPT),
            self.get("job_act", action="retry", queue_name=SCRIPT, error_place=SCRIPT),
        ]
        for page in pages:
            self.assertContains(page, "&lt;script&gt;alert(")
            self.assertNotContains(page, "<script>alert(")
        self.assertEqual(ESCAPED, "&lt;script&gt;alert(")

    def test_no_page_needs_inline_script_or_style(self):
        job = self.failed_job("x")
        for page in (
            self.get("job_changelist"),
            self.get("job_change", job.id),
            self.get("job_act", action="delete", status="FAILED"),
        ):
            text = page.content.decode().partition("<main")[2]
            self.assertNotRegex(text, r"<style|style=|\son\w+=|<script(?! src)|javascript:")

    def test_secrets_are_masked_wherever_they_are(self):
        job = self.failed_job('raise ValueError(password="hunter2")')
        Job.objects.filter(id=job.id).update(
            kwargs={"user": {"Password": "hunter2"}},
            args=[{"api_key": "hunter2"}],
            metadata={"token": "hunter2"},
            return_value={"pin": 1234},
        )
        page = self.get("job_change", job.id)
        self.assertNotContains(page, "hunter2")
        self.assertContains(page, MASK)
        self.assertContains(page, "1234")
        with override_settings(TASKS=tasks_setting(redact=["pin"])):
            page = self.get("job_change", job.id)
            self.assertNotContains(page, "1234")
            self.assertContains(page, "hunter2")

    def test_long_values_are_folded(self):
        job = self.job(list(range(100)))
        self.assertContains(self.get("job_change", job.id), "104 lines, ")

    def test_only_attempts_that_raised_are_shown_as_errors(self):
        job = self.failed_job("first")
        quiet = dict(job.errors[0], exception_class_path=None, traceback="", attempt=2)
        last = dict(job.errors[0], traceback="ValueError: last", attempt=3)
        Job.objects.filter(id=job.id).update(errors=[*job.errors, quiet, last], attempts=3)
        page = self.get("job_change", job.id)
        self.assertEqual([each.number for each in page.context["failures"]], [3, 1])
        self.assertEqual(page.context["failures"][0].message, "last")
        self.assertContains(page, '<details class="dt-error" open>', 1)

    def test_after_a_retry_by_hand_the_runs_go_on_counting(self):
        begin = timezone.now() - timedelta(hours=1)
        job = self.failed_job("first")
        first = dict(job.errors[0], started_at=begin.isoformat(), finished_at=begin.isoformat())
        Job.objects.filter(id=job.id).update(errors=[first], enqueued_at=begin)
        Job.objects.filter(id=job.id).retry()
        page = self.get("job_change", job.id)
        self.assertContains(page, "retried by hand, waits for a worker")
        self.assertContains(page, "0 since it was retried by hand, 1 in all")
        changes = {"attempts": 1, "status": "FAILED", "finished_at": timezone.now()}
        now = timezone.now()
        Job.objects.filter(id=job.id).update(
            **changes, errors=[first, job.errors[0]], started_at=now, last_attempted_at=now
        )
        page = self.get("job_change", job.id)
        self.assertEqual([each.number for each in page.context["failures"]], [2, 1])
        self.assertEqual([each.number for each in page.context["timeline"].attempts], [1, 2])
        self.assertContains(page, "after the run before, ran")
        self.assertContains(page, "1 since it was retried by hand, 2 in all")
        self.assertEqual(dict(page.context["times"])["First started"].at, begin)

    def test_the_runs_count_on_over_retries_and_what_was_no_run_has_no_number(self):
        job = self.failed_job("x")

        def entry(attempt, **changes):
            return {**job.errors[0], "attempt": attempt, **changes}

        cancel = {"exception_class_path": "durable_tasks.exceptions.TaskCancelled"}
        for errors, status, attempts, numbers, again in (
            ([entry(1), entry(2)], "SCHEDULED", 2, [1, 2], False),
            ([entry(1), entry(3), entry(1)], "SUCCESSFUL", 2, [1, 3, 4], False),
            ([entry(2), entry(1)], "RUNNING", 1, [2, 3], True),
            ([entry(1, **cancel)], "RUNNING", 1, [1], True),
            ([entry(1), entry(1, started_at=None, **cancel)], "CANCELLED", 1, [1, None], False),
            ([entry(0, started_at=None, **cancel)], "READY", 0, [None], True),
            ([entry("one"), entry(None)], "READY", 0, [None, None], False),
        ):
            with self.subTest(status, numbers=numbers):
                runs = Runs(Job(errors=errors, status=status, attempts=attempts))
                self.assertEqual([number for _, number, _ in runs.entries], numbers)
                self.assertEqual(runs.again, again)

    def test_how_late_a_run_began_is_told_once_that_is_known(self):
        now = timezone.now()
        times = {"run_at": now - timedelta(seconds=5), "last_attempted_at": now}
        for status in STATUSES:
            page = self.get("job_change", self.job(status=status, **times).id)
            known = status in ("SUCCESSFUL", "FAILED")
            self.assertEqual("5\xa0s after it was due" in page.content.decode(), known, status)

    def test_the_worker_of_what_failed_is_that_of_its_last_error(self):
        job = self.failed_job("x")
        self.worker("w-1")
        self.assertIsNone(job.worker_id)
        self.assertContains(self.get("job_change", job.id), f'{self.url("worker_change", "w-1")}"')

    def test_it_leads_to_what_belongs_to_it(self):
        older = self.job()
        job = self.failed_job("x", schedule="nightly", worker_id="w/1", error_place="a.py in b")
        newer = self.job()
        periodic = PeriodicTask.objects.create(
            name="nightly", backend_name="default", task_path="x", spec="@daily", priority=0
        )
        self.worker("w/1")
        page = self.get("job_change", job.id)
        for url in (
            self.url("job_change", older.id),
            self.url("job_change", newer.id),
            self.url("worker_change", "w_2F1"),
            self.url("periodictask_change", periodic.id),
            "?task_path=tests.app.tasks.echo",
            "?exception_class_path=builtins.ValueError&amp;error_place=a.py+in+b",
            "?schedule=nightly",
        ):
            self.assertContains(page, f'{url}"')
        Worker.objects.all().delete()
        self.become("view_job")
        page = self.get("job_change", job.id)
        self.assertNotContains(page, self.url("worker_change", "w_2F1"))
        self.assertNotContains(page, self.url("periodictask_change", periodic.id))

    def test_a_job_that_changes_refreshes_itself_and_one_that_ended_does_not(self):
        for status in STATUSES:
            page = self.get("job_change", self.job(status=status).id)
            changes = status in ("READY", "SCHEDULED", "PAUSED", "RUNNING")
            self.assertEqual("data-dt-changes" in page.content.decode(), changes)

    def test_a_job_that_acts_on_others_shows_how_far_it_is(self):
        bulk = {
            "looked": 4200,
            "changed": 39,
            "total": 10000,
            "search": {"status": "FAILED"},
            "by": "ada",
        }
        acting = {"task_path": "durable_tasks.bulk.act", "status": "RUNNING"}
        page = self.get("job_change", self.job(**acting, metadata={"bulk": bulk}).id)
        self.assertContains(page, 'value="39" max="10000"')
        self.assertContains(page, "39 changed, 4,200 looked at")
        self.assertContains(page, "?status=FAILED")
        for broken in ({}, {"looked": "x", "total": "y"}, {"search": 5}, {"search": {"a": 1}}):
            job = self.job(**acting, metadata={"bulk": broken})
            self.assertContains(self.get("job_change", job.id), "0 changed")
        for other in ({"bulk": "x"}, "bulk", [1]):
            self.get("job_change", self.job(**acting, metadata=other).id)

    def test_a_job_whose_task_is_gone_still_opens(self):
        for path in ("tests.app.tasks.removed", "tests.app.explodes.task", "no dots", ""):
            job = self.job(task_path=path)
            with self.subTest(path=path):
                self.assertContains(self.get("job_change", job.id), str(job.id))
        self.assertContains(self.get("job_changelist"), "removed")

    def test_every_status_and_an_unknown_one_opens(self):
        for status in (*STATUSES, "WAITING"):
            with self.subTest(status=status):
                self.get("job_change", self.job(status=status).id)
        self.get("job_changelist")

    def test_what_is_no_job_leads_back(self):
        for id in ("x", "0" * 32, "01994c1e-0000-7000-8000-000000000000"):
            with self.subTest(id):
                response = self.client.get(self.url("job_change", id))
                self.assertEqual(response.status_code, 302)

    def test_the_number_of_queries_is_small(self):
        job = self.failed_job("x", worker_id="w", schedule="s")
        with CaptureQueriesContext(connection) as queries:
            self.get("job_change", job.id)
        self.assertLessEqual(len(queries), 8)


class TimelineTests(AdminTests):
    def drawn(self, job, now=None):
        return timeline_of(Job.objects.get(id=job.id), now or timezone.now()).attempts

    def test_attempts_are_drawn_to_scale_with_what_came_before_them(self):
        begin = timezone.now() - timedelta(seconds=100)

        def at(seconds):
            return begin + timedelta(seconds=seconds)

        def entry(number, since, until, path):
            return {
                "attempt": number,
                "worker_id": "w",
                "started_at": at(since).isoformat(),
                "finished_at": at(until).isoformat(),
                "exception_class_path": path,
                "traceback": "",
            }

        [job] = make_jobs(
            status="SUCCESSFUL",
            enqueued_at=begin,
            errors=[
                entry(1, 10, 20, "builtins.ValueError"),
                entry(2, 30, 50, "durable_tasks.exceptions.WorkerLost"),
            ],
            attempts=3,
            last_attempted_at=at(60),
            finished_at=at(100),
        )
        first, second, third = self.drawn(job)
        self.assertEqual([bar.kind for bar in first.bars], ["waited", "failed"])
        self.assertEqual((first.bars[1].x, first.bars[1].width), ("10.000%", "10.000%"))
        self.assertEqual((second.kind, second.bars[1].x), ("lost", "30.000%"))
        self.assertEqual((third.bars[1].x, third.bars[1].width), ("60.000%", "40.000%"))
        self.assertEqual(third.text, "waited 10\xa0s, ran 40\xa0s, successful")

    def test_what_runs_or_waits_goes_on_to_now(self):
        now = timezone.now()
        ago = now - timedelta(seconds=10)
        [running] = make_running(enqueued_at=ago, last_attempted_at=now - timedelta(seconds=5))
        [run] = self.drawn(running, now)
        self.assertEqual((run.kind, run.bars[1].width), ("running", "50.000%"))
        [waiting] = make_jobs(enqueued_at=ago)
        [wait] = self.drawn(waiting, now)
        self.assertEqual((wait.number, wait.bars[0].width), (None, "100.000%"))
        self.assertIn("waits for a worker", wait.text)

    def test_times_that_are_missing_or_wrong_leave_a_line_without_a_bar(self):
        [job] = make_jobs(
            status="FAILED",
            finished_at=timezone.now(),
            errors=[
                {"exception_class_path": "a.B", "attempt": 1, "traceback": ""},
                {"exception_class_path": None, "started_at": "x", "finished_at": "2026-99-99"},
            ],
        )
        first, second = self.drawn(job)
        self.assertEqual((first.bars, first.text, second.text), ([], "failed", ""))


class WordsTests(SimpleTestCase):
    def test_frames_of_the_projects_own_are_marked(self):
        text = (
            "Traceback (most recent call last):\n"
            '  File "/usr/lib/python3.12/site-packages/x.py", line 1, in a\n    b()\n'
            '  File "/srv/shop/tasks.py", line 2, in pay\n    charge(\n    ~~~~~~^\n'
            '  File "<frozen importlib>", line 3, in c\n'
            "ValueError: no\n"
        )
        found = list(blocks(text))
        self.assertEqual([block.is_own for block in found], [False, True, False])
        self.assertEqual(len(found[1].text.splitlines()), 3)
        self.assertEqual("\n".join(block.text for block in found) + "\n", text)
