"""Acting on jobs in the admin, and who may."""

from datetime import timedelta
from unittest import mock
from uuid import uuid4

from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.auth import get_user_model
from django.urls import reverse
from django.utils import timezone

from durable_tasks import bulk
from durable_tasks.models import Job
from durable_tasks.search import JobSearch
from durable_tasks.testing import run_tasks
from tests.store.jobs import make_jobs, make_running

from .base import AdminTests

CODENAMES = {
    "run": "run_job",
    "retry": "retry_job",
    "cancel": "cancel_job",
    "move": "move_job",
    "prioritize": "prioritize_job",
    "copy": "copy_job",
    "mark": "mark_job",
    "delete": "delete_job",
}
ARGUMENTS = {"move": "mails", "prioritize": "7"}


class ActionTests(AdminTests):
    def post(self, action, jobs=(), follow=True, **data):
        data = {"action": action, "_selected_action": [str(job.id) for job in jobs], **data}
        return self.client.post(self.url("job_act"), data, follow=follow)

    def made(self):
        """Return jobs of which each action changes some."""
        now = timezone.now()
        return [
            *make_jobs(2),
            *make_jobs(2, status="SCHEDULED", run_at=now),
            *make_jobs(2, status="FAILED", finished_at=now),
        ]


class ActTests(ActionTests):
    def test_there_is_an_action_for_each_permission(self):
        self.assertEqual(
            {name: action.permission for name, action in bulk.ACTIONS.items()}, CODENAMES
        )

    def test_each_action_does_its_word_to_the_selected(self):
        for action, expected in (
            ("run", {"status": "READY"}),
            ("retry", {"status": "READY"}),
            ("cancel", {"status": "CANCELLED"}),
            ("move", {"queue_name": "mails"}),
            ("prioritize", {"priority": 7}),
        ):
            with self.subTest(action):
                Job.objects.all().delete()
                LogEntry.objects.all().delete()
                jobs = self.made()
                before = Job.objects.filter(**expected).count()
                response = self.post(
                    action, jobs, argument=ARGUMENTS.get(action, ""), confirmed="yes"
                )
                changed = Job.objects.filter(**expected).count() - before
                self.assertGreater(changed, 0)
                self.assertEqual(LogEntry.objects.count(), changed)
                self.assertContains(response, f"{len(jobs) - changed} were left as they were")
        entry = LogEntry.objects.first()
        self.assertEqual(entry.change_message, f"{bulk.ACTIONS['prioritize'].label}: 7")
        self.assertEqual(entry.get_edited_object(), Job.objects.get(id=entry.object_id))

    def test_copies_marks_and_deletions(self):
        jobs = self.made()
        page = self.post("copy", jobs)
        self.assertEqual(Job.objects.count(), 12)
        for copy in Job.objects.order_by("-id")[3:6]:
            self.assertContains(page, f'<a href="{self.url("job_change", copy.id)}">{copy.id}</a>')
        self.post("mark", jobs)
        self.assertEqual(Job.objects.filter(delete_after__isnull=False).count(), 2)
        page = self.post("delete", jobs[:3])
        self.assertContains(page, "Are you sure?")
        self.assertEqual(Job.objects.count(), 12)
        self.post("delete", jobs[:3], confirmed="yes")
        self.assertEqual(Job.objects.count(), 9)
        self.assertEqual(LogEntry.objects.filter(action_flag=DELETION).count(), 3)

    def test_one_job_is_acted_on_from_its_page(self):
        job = self.failed_job("x")
        page = self.get("job_change", job.id)
        self.assertContains(page, 'name="action" value="retry"')
        self.assertNotContains(page, 'name="action" value="cancel"')
        response = self.post("retry", [job], job=str(job.id))
        self.assertRedirects(response, self.url("job_change", job.id))
        self.assertEqual(Job.objects.get(id=job.id).status, "READY")
        response = self.post("retry", [job], job=str(job.id))
        self.assertContains(response, "1 was left as it was")
        response = self.post("delete", [job], job=str(job.id), confirmed="yes")
        self.assertRedirects(response, self.url("job_changelist"))

    def test_one_that_runs_is_asked_to_end_and_not_asked_again(self):
        [running], waiting = make_running(), make_jobs(2)
        page = self.post("cancel", [running, *waiting])
        self.assertContains(page, "2 jobs were cancelled, 1 running job was asked to end.")
        page = self.get("job_change", running.id)
        self.assertContains(page, "cancel requested</span>")
        self.assertNotContains(page, 'name="action" value="cancel"')
        self.assertContains(self.get("job_changelist"), "cancel requested</span>", 1)
        page = self.post("cancel", make_running(2))
        self.assertContains(page, "2 running jobs were asked to end.")
        self.assertNotContains(page, "were cancelled")

    def test_what_is_marked_already_is_not_to_be_marked_again(self):
        job = self.failed_job("x", delete_after=timezone.now() + timedelta(days=1))
        self.assertContains(self.get("job_change", job.id), 'value="mark"')
        page = self.post("mark", [job], job=str(job.id))
        self.assertContains(page, "1 job was marked for deletion.")
        self.assertNotContains(page, 'value="mark"')

    def test_a_question_about_one_job_names_it(self):
        job = self.failed_job("x")
        page = self.post("delete", [job])
        self.assertContains(page, f"tests.app.tasks.echo ({job.id})")
        self.assertContains(self.post("delete", [job, self.job()]), "2 jobs")

    def test_a_question_leads_back_to_where_its_link_was(self):
        overview = reverse("admin:app_list", args=["durable_tasks"])
        jobs, here = self.url("job_changelist"), "http://testserver"
        for referer, back in (
            (f"{here}{overview}?period=7d#errors", f"{overview}?period=7d"),
            (f"{here}{jobs}", jobs),
            *((f"http://evil.example{overview}", f"{jobs}?status=FAILED"),),
            *((f"{here}/admin/login/", f"{jobs}?status=FAILED"),),
            *((f"{here}//evil.example{overview}", f"{jobs}?status=FAILED"),),
            *((f"{here}{self.url('job_act')}?action=retry", f"{jobs}?status=FAILED"),),
            *((f"//[{overview}", f"{jobs}?status=FAILED"),),
        ):
            with self.subTest(referer):
                data = {"action": "retry", "status": "FAILED"}
                page = self.client.get(self.url("job_act"), data, headers={"referer": referer})
                self.assertEqual(page.context["back_url"], back)

    def test_an_argument_is_asked_for_and_checked(self):
        [job] = make_jobs()
        for action, wrong in (("prioritize", ("", "x", "101", "-101", "1.5")), ("move", ("",))):
            page = self.post(action, [job])
            self.assertContains(page, 'id="dt-argument"')
            for argument in wrong:
                with self.subTest(action, argument=argument):
                    page = self.post(action, [job], argument=argument, confirmed="yes")
                    self.assertContains(page, "errornote")
        fresh = Job.objects.get()
        self.assertEqual((fresh.queue_name, fresh.priority), ("default", 0))

    def test_all_that_match_are_asked_about_and_then_a_job_does_it(self):
        make_jobs(3, status="FAILED", finished_at=timezone.now(), queue_name="mails")
        make_jobs(2)
        query = "status=FAILED&queue_name=mails"
        for page in (
            self.post("retry", scope="all", search=query),
            self.client.get(f"{self.url('job_act')}?action=retry&{query}"),
        ):
            self.assertContains(page, "All jobs that match, 3 as of now.")
            self.assertContains(page, "mails")
        [job] = make_jobs()
        with mock.patch.object(bulk, "start", return_value=job.id) as start:
            response = self.post("retry", scope="all", search=query, confirmed="yes")
        self.assertRedirects(response, self.url("job_change", job.id))
        [(search, action, argument, user, using)] = [call.args for call in start.call_args_list]
        self.assertEqual(search, JobSearch(status="FAILED", queue_name="mails"))
        self.assertEqual((action, argument, user, using), ("retry", None, "admin", "default"))
        entry = LogEntry.objects.get()
        self.assertIn("mails", entry.change_message)
        self.assertEqual(entry.object_id, str(job.id))
        self.assertEqual(Job.objects.filter(status="FAILED").count(), 3)

    def test_the_job_that_acts_on_all_does_so_and_shows_it(self):
        make_jobs(3, status="FAILED", finished_at=timezone.now(), run_at=timezone.now())
        make_jobs(1, status="CANCELLED", finished_at=timezone.now())
        self.post("mark", scope="all", search="status=FAILED", confirmed="yes")
        run_tasks()
        marked = Job.objects.filter(delete_after__isnull=False, status="FAILED")
        self.assertEqual(marked.count(), 3)
        acting = Job.objects.get(task_path="durable_tasks.bulk.act")
        self.assertContains(self.get("job_change", acting.id), "3 changed, ")

    def test_a_link_only_ever_asks(self):
        [job] = make_jobs(status="FAILED", finished_at=timezone.now())
        query = {"action": "retry", "confirmed": "yes", "_selected_action": str(job.id)}
        with mock.patch.object(bulk, "start") as start:
            self.get("job_act", **query)
        start.assert_not_called()
        self.assertEqual(Job.objects.get().status, "FAILED")

    def test_what_is_wrong_is_told(self):
        [job] = make_jobs()
        for data, text in (
            ({"action": ""}, "Choose an action."),
            ({"action": "explode"}, "is no action"),
            ({"action": "retry"}, "No job is selected."),
            ({"action": "retry", "_selected_action": ["x"]}, "is no id of a job"),
            ({"action": "retry", "scope": "all", "search": "status=NEW"}, "NEW"),
            ({"action": "retry", "scope": "all", "search": "q=kwargs.password%3D1"}, "password"),
        ):
            with self.subTest(data):
                response = self.client.post(self.url("job_act"), data, follow=True)
                self.assertContains(response, text)
        gone = str(uuid4())
        self.post("retry", [mock.Mock(id=gone)], job=gone)
        self.assertEqual(Job.objects.get().status, "READY")
        self.assertEqual(job.id, Job.objects.get().id)

    def test_a_form_leads_back_to_its_list_and_nowhere_else(self):
        jobs = make_jobs(1, status="FAILED", finished_at=timezone.now())
        url = self.url("job_changelist")
        response = self.post("retry", jobs, search="status=FAILED&x=//evil.example", follow=False)
        self.assertEqual(response["Location"], f"{url}?status=FAILED")
        response = self.post("retry", jobs, search="https://evil.example/", follow=False)
        self.assertEqual(response["Location"], url)


class PermissionTests(ActionTests):
    def test_each_action_needs_its_own_permission(self):
        for action, codename in CODENAMES.items():
            argument = ARGUMENTS.get(action, "")
            for permissions, expected in (
                (["view_job", *sorted({*CODENAMES.values()} - {codename})], 403),
                ([codename], 403),
                (["view_job", codename], 200),
            ):
                with self.subTest(action, permissions=permissions):
                    Job.objects.all().delete()
                    jobs = self.made()
                    rows = list(Job.objects.order_by("id").values())
                    self.become(*permissions)
                    for scope in ("selected", "all"):
                        with mock.patch.object(bulk, "start", return_value=jobs[0].id) as start:
                            response = self.post(
                                *(action, jobs),
                                scope=scope,
                                argument=argument,
                                confirmed="yes",
                            )
                        self.assertEqual(response.status_code, expected)
                        if expected == 403:
                            start.assert_not_called()
                            self.assertEqual(list(Job.objects.order_by("id").values()), rows)
                    link = self.client.get(self.url("job_act"), {"action": action})
                    self.assertEqual(link.status_code, expected)

    def test_only_what_is_allowed_is_shown(self):
        jobs = self.made()
        self.become("view_job", "retry_job")
        for page in (self.get("job_changelist"), self.get("job_change", jobs[-1].id)):
            self.assertContains(page, 'value="retry"')
            for other in set(CODENAMES) - {"retry"}:
                self.assertNotContains(page, f'value="{other}"')

    def test_a_user_who_only_views_sees_all_and_no_buttons(self):
        jobs = self.made()
        self.become("view_job")
        for page in (self.get("job_changelist"), self.get("job_change", jobs[-1].id)):
            self.assertNotContains(page, 'name="action"')
            self.assertNotContains(page, "_selected_action")
            self.assertContains(page, str(jobs[-1].id))

    def test_without_a_permission_nothing_is_shown(self):
        job = self.job("secret argument")
        self.client.force_login(get_user_model().objects.create_user("staff", is_staff=True))
        for page in (
            self.client.get(self.url("job_change", job.id)),
            self.client.get(self.url("job_changelist")),
            self.client.get(self.url("job_act"), {"action": "retry"}),
            self.client.post(self.url("job_act"), {"action": "retry"}),
        ):
            self.assertEqual(page.status_code, 403)
            self.assertNotContains(page, "secret argument", status_code=403)

    def test_nothing_can_be_added_edited_or_deleted_by_djangos_own_pages(self):
        job, worker = self.job(), self.worker()
        for name, row in (("job", job), ("worker", worker)):
            pages = [(f"{name}_change", (row.pk,)), (f"{name}_delete", (row.pk,))]
            for page, args in [*pages, (f"{name}_add", ())]:
                with self.subTest(page=page):
                    response = self.client.post(self.url(page, *args), {"status": "READY"})
                    self.assertEqual(response.status_code, 403)
            for page, args in ((f"{name}_delete", (row.pk,)), (f"{name}_add", ())):
                self.assertEqual(self.client.get(self.url(page, *args)).status_code, 403)
            page = self.get(f"{name}_change", row.pk)
            for button in ('name="_save"', "deletelink", 'name="_continue"'):
                self.assertNotContains(page, button)
        self.assertEqual(Job.objects.get().status, "READY")

    def test_a_form_without_its_token_is_refused(self):
        from django.test import Client

        client = Client(enforce_csrf_checks=True)
        client.force_login(self.user)
        [job] = make_jobs(status="FAILED", finished_at=timezone.now())
        data = {"action": "retry", "_selected_action": [str(job.id)]}
        self.assertEqual(client.post(self.url("job_act"), data).status_code, 403)
        self.assertEqual(Job.objects.get().status, "FAILED")
