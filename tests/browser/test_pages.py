"""Each page, full of life, at the width of a desk and of a phone, in light and in dark.

With DURABLE_TASKS_SCREENSHOTS the pictures of the documentation are written into that folder.
"""

import os
from pathlib import Path
from typing import Any

from django.urls import reverse

from durable_tasks.models import Job, PeriodicTask
from durable_tasks.schedules import parse_schedule

from .case import DARK, DESKTOP, LOOKS, PHONE, BrowserTestCase, show, url
from .life import beat, make_life

SCREENSHOTS = os.environ.get("DURABLE_TASKS_SCREENSHOTS", "")
PICTURES = {
    "overview.png": ("overview", DESKTOP),
    "overview-phone.png": ("overview", PHONE),
    "overview-dark.png": ("overview", DARK),
    "jobs.png": ("jobs", DESKTOP),
    "job.png": ("a job that was retried", DESKTOP),
    "workers.png": ("workers", DESKTOP),
    "periodic.png": ("periodic tasks", DESKTOP),
    "queues.png": ("queues", DESKTOP),
}
# Pixels. These pages go on and on: so much of them tells enough.
HEIGHTS = {
    "overview.png": 970,
    "overview-dark.png": 970,
    "overview-phone.png": 1185,
    "jobs.png": 900,
}


def overview(**query: str) -> str:
    return reverse("admin:app_list", args=["durable_tasks"], query=query or None)


def pages() -> dict[str, str]:
    """Return the path of each page by what it shows."""

    def job(**fields: object) -> str:
        return url("job_change", Job.objects.filter(**fields).order_by("-id")[0].id)

    schedules = PeriodicTask.objects.order_by("name")
    return {
        "overview": overview(),
        "overview of a day": overview(range="24h"),
        "overview of a week": overview(range="7d"),
        "overview of a queue": overview(queue="warehouse"),
        "jobs": url("job_changelist"),
        "failed jobs": url("job_changelist", status="FAILED"),
        "no job": url("job_changelist", q="no.such.task"),
        "a search that can't be": url("job_changelist", q="nonsense=1"),
        "a job that was retried": job(status="SUCCESSFUL", attempts__gt=2),
        "a job that failed": job(status="FAILED"),
        "a job that runs": job(status="RUNNING"),
        "a job that waits": job(status="SCHEDULED"),
        "workers": url("worker_changelist"),
        "a worker": url("worker_change", "shop-1"),
        "periodic tasks": url("periodictask_changelist"),
        "a schedule of the settings": url("periodictask_change", schedules[0].pk),
        "a schedule of the database": url("periodictask_change", schedules[1].pk),
        "a new schedule": url("periodictask_add"),
        "queues": url("pause_changelist"),
    }


class PageTests(BrowserTestCase):
    def setUp(self) -> None:
        super().setUp()
        make_life()
        self.pages = pages()

    def test_each_page_fits_and_can_be_read_and_named(self) -> None:
        page = self.open()
        for name, path in self.pages.items():
            beat()
            page.goto(path)
            for look in LOOKS:
                with self.subTest(page=name, look=str(look)):
                    show(page, look)
                    self.assert_fits(page)
                    self.assert_readable(page)
                    self.assert_named(page)
                for picture, pictured in PICTURES.items():
                    if SCREENSHOTS and pictured == (name, look):
                        self.picture(page, Path(SCREENSHOTS) / picture)
            with self.subTest(page=name):
                self.assertEqual(self.faults, [])
            self.faults.clear()

    def test_what_they_show_agrees(self) -> None:
        beat()
        for row in PeriodicTask.objects.all():
            schedule = parse_schedule(row.spec, timezone=row.time_zone)
            runs = Job.objects.filter(schedule=row.name)
            times = [row.next_run_at, row.last_run_at, *runs.values_list("run_at", flat=True)]
            self.assertEqual([time for time in times if not schedule.match(time)], [], row.name)
            self.assertEqual(runs.latest("run_at").run_at, row.last_run_at, row.name)

    def picture(self, page: Any, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        page.evaluate("document.fonts.ready")
        clip = None
        if file.name in HEIGHTS:
            width = page.viewport_size["width"]
            clip = {"x": 0, "y": 0, "width": width, "height": HEIGHTS[file.name]}
        page.screenshot(path=str(file), full_page=True, clip=clip, animations="disabled")
