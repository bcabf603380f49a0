"""What people on call do, in the browser, with real workers beside."""

import re
import time
from datetime import UTC, datetime
from random import Random
from typing import Any
from unittest import mock

from durable_tasks import clock
from durable_tasks.histogram import bucket
from durable_tasks.models import ErrorGroup, Job, Pause, Statistic, Worker
from example import past

from ..app import tasks
from ..helpers import ended, eventually, held, running_worker
from ..store.jobs import make_jobs
from .case import DESKTOP, PHONE, BrowserTestCase, path_of, url
from .test_pages import overview

MANY = 5_000
# Of a job whose worker is told; it may be faster than the answer.
SAID = re.compile("1 running job was asked to end|1 job was cancelled")


def failed_job(**changes: object) -> Job:
    job = tasks.echo.enqueue("again").job
    fields = {"status": "FAILED", "finished_at": job.enqueued_at, "attempts": 1}
    Job.objects.filter(id=job.id).update(**fields | changes)
    return Job.objects.get(id=job.id)


class JobTests(BrowserTestCase):
    def test_log_in_look_for_a_job_and_retry_it(self) -> None:
        wanted, other = failed_job(), tasks.add.enqueue(1).job
        for look in (DESKTOP, PHONE):
            with self.subTest(look=str(look)):
                page = self.open(url("job_changelist"), look, user=False)
                page.get_by_label("Username").fill("admin")
                page.get_by_label("Password").fill("secret")
                page.get_by_role("button", name="Log in").click()
                links = page.locator("#result_list th a")
                self.expect(links).to_have_count(2)
                page.locator(".dt-tabs").get_by_role("link", name="Failed").click()
                self.expect(links).to_have_text(["echo"])
                page.get_by_role("searchbox", name="Search").fill('args.0="again"')
                page.keyboard.press("Enter")
                self.expect(links).to_have_text(["echo"])
                links.click()
                self.assertEqual(path_of(page), url("job_change", wanted.id))
                pill = page.locator("h1 .dt-status")
                self.expect(pill).to_have_text("Failed")
                page.get_by_role("button", name="Retry").click()
                self.expect(pill).to_have_text("Ready")
                self.expect(page.locator(".messagelist")).to_contain_text("1 job")
                self.assertEqual(Job.objects.get(id=wanted.id).status, "READY")
                self.assert_fits(page)
                Job.objects.filter(id=wanted.id).update(status="FAILED")
        self.assertEqual(Job.objects.get(id=other.id).status, "READY")

    def test_a_running_job_is_cancelled_and_its_page_tells(self) -> None:
        with running_worker("--queue-name", "*"):
            result = tasks.hold.enqueue("cancel")
            held("cancel")
            page = self.open()
            page.clock.install()
            page.goto(url("job_change", result.id))
            pill = page.locator("h1 .dt-status")
            self.expect(pill).to_have_text("Running")
            page.get_by_role("button", name="Cancel").click()
            self.expect(page.locator(".messagelist")).to_contain_text(SAID)
            self.assertEqual(ended(result).status, "CANCELLED")
            # By itself, at the page's next look.
            page.clock.fast_forward(3_000)
            self.expect(pill).to_have_text("Cancelled")

    def test_all_that_match_are_cancelled_with_progress(self) -> None:
        make_jobs(MANY, queue_name="other")
        make_jobs(10)
        page = self.open()
        page.clock.install()
        page.goto(url("job_changelist", queue_name="other"))
        page.get_by_label("Action", exact=True).select_option(label="Cancel")
        page.get_by_role("button", name="all").click()
        self.expect(page.get_by_text("5,000")).to_be_visible()
        self.assert_fits(page)
        page.get_by_role("button", name="Cancel").click()
        progress = page.get_by_role("progressbar")
        self.expect(progress).to_be_visible()
        self.assertFalse(Job.objects.filter(status="CANCELLED").exists())
        page.evaluate("look.forget()")
        # The jobs of the other queue are nobody's: what ends them is the bulk action alone.
        with running_worker("--queue-name", "*", "--exclude-queues", "other"):
            pill = page.locator("h1 .dt-status")
            eventually(lambda: Job.objects.filter(status="CANCELLED").count() == MANY)
            bulk = Job.objects.get(task_path__startswith="durable_tasks.")
            eventually(lambda: Job.objects.get(id=bulk.id).status == "SUCCESSFUL")
            page.clock.fast_forward(3_000)
            self.expect(pill).to_have_text("Successful")
        self.expect(page.locator("#dt-progress")).to_contain_text("5,000")
        self.assert_fits(page)

    def test_the_selected_are_deleted_after_a_question_with_the_keyboard_alone(self) -> None:
        gone, kept = failed_job(), failed_job()
        page = self.open(url("job_changelist"))
        self.tab_to(page, f'input[value="{gone.id}"]')
        page.keyboard.press("Space")
        # Backwards: the actions stand above the list.
        self.tab_to(page, "#dt-action", key="Shift+Tab")
        page.keyboard.type("Delete")
        self.tab_to(page, 'button[value="selected"]')
        page.keyboard.press("Enter")
        self.expect(page.get_by_text(f"({gone.id})")).to_be_visible()
        self.assertEqual(Job.objects.count(), 2)
        self.tab_to(page, "form.dt-panel button")
        page.keyboard.press("Enter")
        self.expect(page.locator(".messagelist")).to_contain_text("1 job")
        self.assertEqual(list(Job.objects.all()), [kept])

    def tab_to(self, page: Any, selector: str, key: str = "Tab") -> None:
        """Press a key until the focus is there, where it can be seen."""
        for _ in range(80):
            page.keyboard.press(key)
            if page.evaluate(f"document.activeElement.matches({selector!r})"):
                self.assertTrue(page.evaluate("look.focus()"), f"no focus to be seen: {selector}")
                return
        self.fail(f"{selector} can't be reached with {key}.")


class QueueTests(BrowserTestCase):
    def test_a_queue_is_paused_and_resumed(self) -> None:
        with running_worker("--queue-name", "*"):
            waiting = tasks.effect_elsewhere.enqueue("first")  # makes the queue known
            ended(waiting)
            tasks.effect_elsewhere.using(run_after=waiting.job.run_at.replace(year=2099)).enqueue(
                "for the list"
            )
            page = self.open(url("pause_changelist"), PHONE)
            page.get_by_role("button", name="Pause other").click()
            resume = page.get_by_role("button", name="Resume other")
            self.expect(resume).to_be_visible()
            self.assertEqual(Pause.objects.get().paused_by, "admin")
            self.assert_fits(page)
            # A worker may take a second to see it.
            eventually(lambda: not self.starts(tasks.effect_elsewhere.enqueue("held back")))
            held_back = tasks.effect_elsewhere.enqueue("held back")
            ended(tasks.effect.enqueue("goes on"))
            self.assertEqual(Job.objects.get(id=held_back.id).status, "READY")
            page.goto(overview())
            self.expect(page.locator(".dt-notices")).to_contain_text("other")
            page.goto(url("pause_changelist"))
            resume.click()
            self.assertEqual(ended(held_back).status, "SUCCESSFUL")

    def starts(self, result: Any) -> bool:
        """Whether a job runs though one enqueued after it, in another queue, has ended."""
        ended(tasks.effect.enqueue("goes on"))
        return Job.objects.get(id=result.id).status != "READY"


class WorkerTests(BrowserTestCase):
    def test_a_worker_drains_and_goes_on(self) -> None:
        with running_worker("--worker-id", "w-1", options={"worker_timeout": 1}):
            page = self.open(url("worker_change", "w-1"))
            page.get_by_role("button", name="Drain").click()
            self.expect(page.get_by_role("button", name="Go on")).to_be_visible()
            self.assertEqual(Worker.objects.get().wish, "drain")
            page.get_by_role("button", name="Go on").click()
            self.expect(page.get_by_role("button", name="Drain")).to_be_visible()
            self.assertEqual(ended(tasks.add.enqueue(1)).status, "SUCCESSFUL")


class OverviewTests(BrowserTestCase):
    def test_it_changes_by_itself_and_nothing_moves(self) -> None:
        [job] = make_jobs()
        chance, now = Random(1), int(time.time())
        ErrorGroup.objects.bulk_create(past.error_groups(chance, "default", now, job.id))
        for look in (DESKTOP, PHONE):
            with self.subTest(look=str(look)):
                page = self.open(look=look)
                page.clock.install()
                page.goto(overview())
                ready = page.locator('.dt-tile[data-key="waiting"] strong')
                before = int(ready.inner_text())
                row = page.locator('[data-table="errors"] tbody a').first
                row.focus()
                page.evaluate("look.drawn()")
                page.evaluate("look.forget()")
                scrolled = page.evaluate("scrollY")
                for more in (3, 6):
                    make_jobs(3)
                    page.clock.fast_forward(6_000)
                    self.expect(ready).to_have_text(str(before + more))
                page.evaluate("look.drawn()")
                self.assert_still(page)
                self.expect(row).to_be_focused()
                self.assertEqual(page.evaluate("scrollY"), scrolled)
                page.keyboard.press("Enter")
                page.wait_for_url("**/job/?*exception_class_path=*")

    def test_a_minute_alone_is_drawn_and_an_idle_hour_is_none_without_figures(self) -> None:
        minute = int(time.time()) // 60 * 60 - 300
        row = {"backend_name": "default", "period": 60, "begins": minute, "queue_name": "default"}
        Statistic.objects.create(**row, ready=0, scheduled=0, running=0)
        page = self.open(overview())
        self.assertEqual(self.empty(page), ["waits", "runs"])
        times = {str(bucket(2.0)): 5}
        Statistic.objects.create(
            **row, task_path="shop.tasks.pay", successful=5, waits=times, runs=times
        )
        page.goto(overview())
        self.assertEqual(self.empty(page), [])
        for chart, line in (("depth", "running"), ("waits", "p99"), ("runs", "p99")):
            drawn = page.evaluate(
                """([chart, line]) => {
                  const colour = getComputedStyle(document.querySelector(".dt-overview"))
                    .getPropertyValue(`--dt-${line}`);
                  return look.pixels(
                    document.querySelector(`[data-key="${chart}"] canvas`), colour);
                }""",
                [chart, line],
            )
            self.assertGreater(drawn, 5, chart)

    def empty(self, page: Any) -> list[str]:
        """Return the charts that say that nothing was counted."""
        found: list[str] = page.evaluate(
            """[...document.querySelectorAll(".dt-chart")]
              .filter((chart) => chart.querySelector(".dt-plot").dataset.empty)
              .map((chart) => chart.dataset.key)"""
        )
        return found

    def test_a_time_at_the_end_of_a_chart_is_not_cut(self) -> None:
        at = datetime(2027, 1, 15, 8, 1, tzinfo=UTC)  # the last known minute ends at 08:00
        with mock.patch.object(clock, "source", return_value=at):
            page = self.open(overview())
        self.assertFalse(page.evaluate("[...document.querySelectorAll('canvas')].some(look.cut)"))

    def test_nothing_moves_when_the_script_begins(self) -> None:
        for look in (DESKTOP, PHONE):
            page = self.open(overview(range="24h"), look)
            page.evaluate("look.drawn()")
            self.assert_still(page)

    def test_it_tells_when_it_is_not_answered_and_goes_on(self) -> None:
        page = self.open()
        page.clock.install()
        page.goto(overview())
        problem = page.locator(".dt-problem")
        self.expect(problem).to_be_hidden()
        page.context.set_offline(True)
        page.clock.fast_forward(6_000)
        self.expect(problem).to_be_visible()
        page.context.set_offline(False)
        page.clock.fast_forward(60_000)
        self.expect(problem).to_be_hidden()
        # Nobody is logged in any more.
        page.context.clear_cookies()
        page.clock.fast_forward(6_000)
        self.expect(problem).to_be_visible()
        self.assertIn("net::ERR_INTERNET_DISCONNECTED", str(self.faults))
        self.faults.clear()
