"""Who may open which page of the admin, and do what: every address with every permission."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client, override_settings
from django.urls import get_resolver, reverse

from durable_tasks.models import Job, Pause, PeriodicTask, Worker
from tests.helpers import tasks_setting

from .base import AdminTests

ADD = "tests.app.tasks.add"
PREFIX = "admin/durable_tasks/"


@dataclass(frozen=True)
class Page:
    """What an address needs.

    ``get``, ``post``: the permissions of which one is enough to be answered by something else than
    403 or 404; "" for everybody of the staff. ``with_view``: these do not do without the right to
    view. ``data``: what is posted. ``row``: what stands in the address.
    """

    get: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    row: str = ""
    act: str = ""
    view: str = ""


def page(*get: str, **more: Any) -> Page:
    return Page(get, **more)


# As everywhere in the admin: who may change may view.
VIEW_JOB = ("view_job", "change_job")
VIEW_WORKER = ("view_worker", "change_worker")
VIEW_SCHEDULE = ("view_periodictask", "change_periodictask")
SCHEDULE = {"backend_name": "default", "name": "new", "enabled": "on", "task_path": ADD}
SCHEDULE |= {"spec": "1h", "args": "[1]", "catch_up": "latest", "overlap": "allow"}
QUEUE = {"backend": "default", "queue": "mails"}
JOB_ACTIONS = {
    "run": "run_job",
    "retry": "retry_job",
    "cancel": "cancel_job",
    "move": "move_job",
    "prioritize": "prioritize_job",
    "copy": "copy_job",
    "mark": "mark_job",
    "delete": "delete_job",
}
PAGES = {
    "app_list": [page(*VIEW_JOB)],
    "durable_tasks_overview": [page(*VIEW_JOB, post=VIEW_JOB)],
    "durable_tasks_job_changelist": [page(*VIEW_JOB)],
    "durable_tasks_job_add": [page()],
    "durable_tasks_job_history": [page(*VIEW_JOB, row="job")],
    "durable_tasks_job_delete": [page(row="job", data={"post": "yes"})],
    "durable_tasks_job_change": [page(*VIEW_JOB, row="job")],
    "durable_tasks_job_act": [
        page(
            post=(permission,),
            view="view_job",
            data={"action": name, "confirmed": "yes", "argument": "5", "_selected_action": "job"},
        )
        for name, permission in JOB_ACTIONS.items()
    ],
    "durable_tasks_worker_changelist": [
        page(*VIEW_WORKER),
        page(
            *VIEW_WORKER,
            data={"action": "delete_selected", "_selected_action": "w-1", "post": "yes"},
        ),
    ],
    "durable_tasks_worker_add": [page()],
    "durable_tasks_worker_history": [page(*VIEW_WORKER, row="worker")],
    "durable_tasks_worker_delete": [page(row="worker", data={"post": "yes"})],
    "durable_tasks_worker_change": [page(*VIEW_WORKER, row="worker")],
    "durable_tasks_worker_act": [
        page(row="worker", act="drain", post=("drain_worker",), view="view_worker"),
        page(row="worker", act="go_on", post=("drain_worker",), view="view_worker"),
        page(row="worker", act="stop", post=("stop_worker",), view="view_worker"),
        page(row="worker", act="other"),
    ],
    "durable_tasks_periodictask_changelist": [page(*VIEW_SCHEDULE)],
    "durable_tasks_periodictask_add": [
        page("add_periodictask", post=("add_periodictask",), data=SCHEDULE)
    ],
    "durable_tasks_periodictask_history": [page(*VIEW_SCHEDULE, row="schedule")],
    "durable_tasks_periodictask_delete": [
        page(
            "delete_periodictask",
            post=("delete_periodictask",),
            row="schedule",
            data={"post": "yes"},
        )
    ],
    "durable_tasks_periodictask_change": [
        page(
            *VIEW_SCHEDULE,
            post=("change_periodictask",),
            row="schedule",
            data={**SCHEDULE, "name": "mine"},
        )
    ],
    "durable_tasks_periodictask_act": [
        page(row="schedule", act="enable", post=("change_periodictask",)),
        page(row="schedule", act="disable", post=("change_periodictask",)),
        page(row="schedule", act="run", post=("run_periodictask",), view="view_periodictask"),
        page(row="schedule", act="other"),
    ],
    "durable_tasks_pause_changelist": [page("view_pause")],
    "durable_tasks_pause_pause": [page(post=("add_pause",), view="view_pause", data=QUEUE)],
    "durable_tasks_pause_resume": [page(post=("delete_pause",), view="view_pause", data=QUEUE)],
}


def names_in(resolver: Any, prefix: str = "") -> set[str]:
    """Return the names of our addresses; "" for one without."""
    found: set[str] = set()
    for each in resolver.url_patterns:
        path = prefix + str(each.pattern)
        if hasattr(each, "url_patterns"):
            found |= names_in(each, path)
        elif path.startswith(PREFIX) or each.name == "app_list":
            # Django's redirect of old links has no name: it only adds "change/".
            found |= {each.name} if each.name else set()
    return found


@pytest.mark.any_database
@pytest.mark.any_version
@override_settings(TASKS=tasks_setting(schedulable=[ADD]))
class PermissionTests(AdminTests):
    def setUp(self) -> None:
        super().setUp()
        self.worker()
        self.ids = {"job": self.job(5).pk, "worker": "w-1"}
        self.client.post(self.url("periodictask_add"), {**SCHEDULE, "name": "mine"})
        self.ids["schedule"] = PeriodicTask.objects.get().pk
        LogEntry.objects.all().delete()

    def path(self, name: str, wanted: Page) -> str:
        args: list[Any] = [self.ids[wanted.row]] if wanted.row else []
        if name == "app_list":
            args = ["durable_tasks"]
        return reverse(f"admin:{name}", args=args + ([wanted.act] if wanted.act else []))

    def data(self, wanted: Page) -> dict[str, Any]:
        data = dict(wanted.data)
        if data.get("_selected_action") == "job":
            data["_selected_action"] = str(self.ids["job"])
        return data

    def state(self) -> list[Any]:
        """Everything that an address could change."""
        rows = [list(model.objects.values()) for model in (Job, Worker, PeriodicTask, Pause)]
        return [*rows, LogEntry.objects.count()]

    def cases(self) -> Any:
        for name, pages in PAGES.items():
            for wanted in pages:
                yield name, wanted, self.path(name, wanted)

    def test_the_table_has_every_address(self) -> None:
        self.assertEqual(names_in(get_resolver()), set(PAGES))

    def test_who_is_not_logged_in_is_sent_away(self) -> None:
        self.client.logout()
        before = self.state()
        for name, wanted, path in self.cases():
            for answer in (self.client.get(path), self.client.post(path, self.data(wanted))):
                with self.subTest(name, method=answer.request["REQUEST_METHOD"]):
                    self.assertEqual(answer.status_code, 302)
                    self.assertIn("/login/", answer["Location"])
        self.assertEqual(self.state(), before)

    def test_who_is_not_of_the_staff_is_sent_away(self) -> None:
        user = get_user_model().objects.create_user("customer")
        user.user_permissions.set(Permission.objects.all())
        self.client.force_login(user)
        for name, wanted, path in self.cases():
            with self.subTest(name):
                self.assertEqual(self.client.get(path).status_code, 302)
                self.assertEqual(self.client.post(path, self.data(wanted)).status_code, 302)
        self.assertFalse(LogEntry.objects.exists())

    def check(self, granted: set[str]) -> None:
        """Open and post everything; what these permissions do not allow changes nothing."""
        self.become(*granted)
        before = self.state()
        for name, wanted, path in self.cases():
            if name == "app_list":
                continue  # Django's own: it shows what there is a permission for
            with self.subTest(name, granted=granted, act=wanted.act or wanted.data.get("action")):
                if name == "durable_tasks_job_act":
                    # Without an action there is nothing to ask about; who may view is led back.
                    expected = (302,) if granted & set(VIEW_JOB) else (403,)
                else:
                    expected = (200,) if granted & set(wanted.get) else (403, 405)
                self.assertIn(self.client.get(path).status_code, expected)
                if granted & set(wanted.post) and (not wanted.view or wanted.view in granted):
                    continue
                answer = self.client.post(path, self.data(wanted))
                # Some pages answer a POST as they do a GET; what counts is what it changes.
                self.assertIn(answer.status_code, (200, 302, 403, 405))
                if answer.status_code in (200, 302):
                    self.assertEqual(self.state(), before)
        self.assertEqual(self.state(), before)

    def test_staff_without_a_permission(self) -> None:
        self.check(set())
        self.assertEqual(self.client.get("/admin/durable_tasks/").status_code, 404)

    def test_each_permission_alone_and_with_the_right_to_view(self) -> None:
        every = Permission.objects.filter(content_type__app_label="durable_tasks")
        for codename, model in every.values_list("codename", "content_type__model"):
            self.check({codename})
            if codename.partition("_")[0] not in ("view", "add", "change", "delete"):
                self.check({codename, f"view_{model}"})

    def test_what_is_allowed_is_done(self) -> None:
        for name, wanted, path in self.cases():
            for permission in wanted.post:
                with self.subTest(name, permission=permission):
                    self.become(*{permission, wanted.view} - {""})
                    answer = self.client.post(path, self.data(wanted))
                    expected = 200 if name == "durable_tasks_overview" else 302
                    self.assertEqual(answer.status_code, expected)
                    self.ids["job"] = self.job(5).pk
                    if not PeriodicTask.objects.filter(pk=self.ids["schedule"]).exists():
                        row = PeriodicTask.objects.first()
                        assert row is not None
                        self.ids["schedule"] = row.pk

    def test_nobody_repeats_what_only_others_may_do(self) -> None:
        form = {"action": "delete", "scope": "all", "confirmed": "yes", "search": "queue_name=no"}
        self.client.post(self.url("job_act"), form)
        job = Job.objects.get(task_path="durable_tasks.bulk.act")
        Job.objects.filter(pk=job.pk).update(status="CANCELLED")
        again = {"_selected_action": [str(job.pk), str(self.ids["job"])], "confirmed": "yes"}
        for action in ("retry", "copy", "run"):
            before = self.state()
            self.become("view_job", JOB_ACTIONS[action])
            answer = self.client.post(self.url("job_act"), {"action": action, **again})
            self.assertEqual(answer.status_code, 403)
            self.assertEqual(self.state(), before)
        self.become("view_job", "retry_job", "delete_job")
        self.client.post(self.url("job_act"), {"action": "retry", **again})
        job.refresh_from_db()
        self.assertEqual(job.status, "READY")

    def test_each_post_needs_the_token(self) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(self.user)
        before = self.state()
        for name, wanted, path in self.cases():
            with self.subTest(name):
                self.assertEqual(client.post(path, self.data(wanted)).status_code, 403)
        self.assertEqual(self.state(), before)
