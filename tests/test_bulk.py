"""Acting on all jobs that match a search: what is changed, and how far it is."""

from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

from django.db import OperationalError, connection
from django.test import override_settings
from django.utils import timezone

from durable_tasks import bulk
from durable_tasks.models import Job, Worker
from durable_tasks.pauses import pause_queue
from durable_tasks.search import JobSearch
from durable_tasks.statuses import ENDED, WAITING

from .app import tasks
from .helpers import WorkerTestCase, tasks_setting, work
from .store.jobs import make_jobs, make_running


class BulkTests(WorkerTestCase):
    def setUp(self) -> None:
        for name, value in (
            ("SIZE", 10),
            # What becomes READY is not to run.
            ("DEFAULT_TASK_QUEUE_NAME", "bulk"),
        ):
            patch = mock.patch.object(bulk, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        settings = override_settings(TASKS=tasks_setting())
        settings.enable()
        self.addCleanup(settings.disable)

    def work(self) -> None:
        work(queue_names=("bulk",))

    def start(self, action: str, argument: Any = None, **search: Any) -> UUID:
        asked = {"backend_name": "default", "task_path": "a.b", **search}
        return bulk.start(JobSearch(**asked), action, argument, "ada", "default")

    def progress(self, id: UUID) -> dict[str, Any]:
        return Job.objects.get(id=id).metadata["bulk"]

    def test_each_action_changes_all_that_match(self) -> None:
        cases = {
            "run": (None, "SCHEDULED", {"status": "READY"}),
            "retry": (None, "FAILED", {"status": "READY"}),
            "cancel": (None, "SCHEDULED", {"status": "CANCELLED"}),
            "move": ("other", "SCHEDULED", {"queue_name": "other"}),
            "prioritize": ("-7", "SCHEDULED", {"priority": -7}),
            "copy": (None, "FAILED", {"status": "FAILED"}),
            "mark": (None, "FAILED", {"delete_after__isnull": False}),
            "delete": (None, "SUCCESSFUL", None),
        }
        self.assertEqual(set(cases), set(bulk.ACTIONS))
        for action, (argument, status, changes) in cases.items():
            with self.subTest(action):
                Job.objects.all().delete()
                later = timezone.now() + timedelta(hours=1)
                fields = {"status": status, "run_at": later}
                if status in ENDED:
                    fields["finished_at"] = timezone.now()
                made = make_jobs(25, task_path="a.b", **fields)
                make_jobs(2, task_path="c.d", **fields)
                id = self.start(action, argument, status=status)
                asked = self.progress(id)
                self.work()
                job = Job.objects.get(id=id)
                self.assertEqual((job.status, job.return_value), ("SUCCESSFUL", 25), job.errors)
                self.assertEqual((asked["total"], asked["changed"]), (25, 0))
                progress = self.progress(id)
                self.assertEqual(progress["changed"], 25)
                # Rows that were read: with the others, where they are between those that match.
                self.assertIn(progress["looked"], range(25, 28))
                self.assertEqual((progress["by"], progress["action"]), ("ada", action))
                ids = [job.id for job in made]
                jobs = Job.objects.filter(id__in=ids)
                found = jobs.filter(**changes).count() if changes else 25 - jobs.count()
                self.assertEqual(found, 25)
                copies = Job.objects.filter(task_path="a.b", status="READY")
                self.assertEqual(copies.exclude(id__in=ids).count(), 25 if action == "copy" else 0)
                self.assertEqual(Job.objects.filter(task_path="c.d", status=status).count(), 2)
                self.assertIn("25", bulk.ACTIONS[action].done(25))
                self.assertTrue(str(bulk.ACTIONS[action].label))

    def test_neither_later_jobs_nor_itself(self) -> None:
        with mock.patch("durable_tasks.clock.now", return_value=timezone.now()):
            id = self.start("delete", task_path="")  # at one time with it
        make_jobs(3)
        self.work()
        self.assertEqual(Job.objects.count(), 4)
        self.assertEqual(Job.objects.get(id=id).return_value, 0)

    def test_after_a_lost_worker_nothing_is_done_twice(self) -> None:
        make_jobs(35, status="FAILED", task_path="a.b", finished_at=timezone.now())
        id = self.start("copy", status="FAILED")
        steps = JobSearch.steps

        def cut(self: JobSearch, *args: Any) -> Iterator[Any]:
            every = steps(self, *args)
            yield next(every)
            yield next(every)
            raise OperationalError("The connection is gone.")

        with mock.patch.object(JobSearch, "steps", cut):
            self.work()
        job = Job.objects.get(id=id)
        self.assertEqual((job.status, self.progress(id)["changed"]), ("SCHEDULED", 20))
        self.assertEqual(Job.objects.filter(task_path="a.b", status="READY").count(), 20)
        Job.objects.filter(task_path="a.b", status="READY").update(queue_name="elsewhere")
        Job.objects.filter(id=id).run_now()
        self.work()
        job.refresh_from_db()
        self.assertEqual((job.status, job.return_value), ("SUCCESSFUL", 35))
        self.assertEqual(Job.objects.filter(task_path="a.b").count(), 70)

    def test_a_page_that_fails_is_undone_with_its_progress(self) -> None:
        make_jobs(15, status="FAILED", task_path="a.b", finished_at=timezone.now())
        id = self.start("copy", status="FAILED")
        with mock.patch.object(bulk._Run, "_write", side_effect=ValueError("broken")):
            self.work()
        self.assertEqual(Job.objects.filter(task_path="a.b").count(), 15)
        self.assertEqual(self.progress(id)["changed"], 0)

    def test_what_acts_on_all_is_not_repeated_by_an_act_on_all(self) -> None:
        make_jobs(5, status="FAILED", task_path="a.b", finished_at=timezone.now())
        make_jobs(1, status="FAILED", task_path=bulk.act.module_path, finished_at=timezone.now())
        for action in ("retry", "copy", "run"):
            id = self.start(action, status="FAILED", task_path="")
            self.work()
            self.assertNotEqual(Job.objects.get(id=id).return_value, None)
        paths = Job.objects.filter(task_path=bulk.act.module_path)
        self.assertEqual(paths.count(), 4)
        self.assertEqual(paths.filter(status="FAILED").count(), 1)

    def test_it_makes_way_and_goes_on(self) -> None:
        make_jobs(35, status="FAILED", task_path="a.b", finished_at=timezone.now())
        id = self.start("mark", status="FAILED")
        with mock.patch.object(bulk, "SLICE", -1.0):
            self.work()
        job = Job.objects.get(id=id)
        self.assertEqual((job.status, job.return_value, job.attempts), ("SUCCESSFUL", 35, 1))

    def test_a_host_whose_clock_is_behind_waits_until_copies_do_not_match(self) -> None:
        make_jobs(15, task_path="a.b")
        now = bulk.clock.now()
        with mock.patch.object(bulk.clock, "now", return_value=now + timedelta(seconds=40)):
            id = self.start("copy", status="READY")
        self.work()
        job = Job.objects.get(id=id)
        self.assertEqual((job.status, job.attempts), ("SCHEDULED", 0))
        self.assertGreater(job.run_at, now + timedelta(seconds=40))
        self.assertEqual(Job.objects.filter(task_path="a.b").count(), 15)

    def test_a_cancel_stops_it_between_two_pages(self) -> None:
        make_jobs(35, status="FAILED", task_path="a.b", finished_at=timezone.now())
        id = self.start("mark", status="FAILED")
        context = SimpleNamespace(
            task_result=SimpleNamespace(id=str(id)),
            lease=0,
            cancelled=True,
        )
        asked = self.progress(id)
        arguments = [asked[name] for name in ("search", "action", "argument", "before", "by")]
        with self.assertRaisesRegex(bulk.Cancel, "after 0 jobs"):
            bulk.act.func(context, *arguments)
        self.assertEqual(Job.objects.filter(delete_after=None).count(), 36)

    def test_who_has_lost_the_job_changes_nothing_more(self) -> None:
        make_jobs(5, status="FAILED", task_path="a.b", finished_at=timezone.now())
        id = self.start("mark", status="FAILED")
        # Another has it before this one looks at the row.
        Job.objects.filter(id=id).update(lease=9)
        run = bulk._Run(str(id), 8, self.progress(id))
        [step] = run.steps()
        with self.assertRaisesRegex(bulk.DurableTasksError, "Another worker"):
            run.do(step)
        self.assertEqual(Job.objects.filter(delete_after=None).count(), 6)

    def test_where_jobs_run_at_once_it_has_ended_at_once(self) -> None:
        make_jobs(25, status="FAILED", task_path="a.b", finished_at=timezone.now())
        with override_settings(TASKS=tasks_setting(immediate=True)):
            job = Job.objects.get(id=self.start("mark", status="FAILED"))
        self.assertEqual((job.status, job.return_value), ("SUCCESSFUL", 25), job.errors)
        self.assertEqual(self.progress(job.id)["changed"], 25)

    def test_it_goes_where_it_begins_soonest(self) -> None:
        def queue() -> str:
            return Job.objects.get(id=self.start("mark")).queue_name

        def serve(text: str, seen: float, **changes: Any) -> None:
            now = timezone.now()
            Worker.objects.create(
                id=text,
                life=UUID(int=1),
                backend_name="default",
                host="h",
                pid=1,
                queues=text,
                started_at=now,
                capacity=1,
                last_seen=int(seen * 1e6),
                **changes,
            )

        now = timezone.now().timestamp()
        with mock.patch.object(bulk, "DEFAULT_TASK_QUEUE_NAME", "default"):
            self.assertEqual(queue(), "default")
            serve("long, gone", now - 3600)
            serve("drained", now, wish="drain")
            self.assertEqual(queue(), "default")
            serve("mail, slow", now)
            self.assertEqual(queue(), "mail")
            pause_queue("default", "mail")
            self.assertEqual(queue(), "slow")
            serve("all but slow", now)
            self.assertEqual(queue(), "default")
            pause_queue("default", "default")
            self.assertEqual(queue(), "slow")
        setting = tasks_setting()
        setting["default"]["QUEUES"] = ["a", "mail"]
        with override_settings(TASKS=setting):
            self.assertEqual(queue(), "a")

    def test_what_will_not_do_is_refused_before(self) -> None:
        for action, argument, search, text in (
            ("explode", None, {}, "'explode' is no action"),
            ("move", None, {}, "queue is missing"),
            ("move", "x" * 101, {}, "101 characters"),
            ("prioritize", "101", {}, "from -100 to 100"),
            ("prioritize", "high", {}, "'high'"),
            ("cancel", None, {"backend_name": "none"}, "'none' is no backend"),
        ):
            with self.subTest(text), self.assertRaisesRegex(ValueError, text):
                self.start(action, argument, **search)
        self.assertEqual(Job.objects.count(), 0)


class WordTests(WorkerTestCase):
    """The words on querysets."""

    def test_a_copy_is_the_same_call_as_a_new_job(self) -> None:
        result = tasks.add.using(priority=3, queue_name="default").enqueue(1, b=2)
        work()
        made: list[UUID] = []
        self.assertEqual(Job.objects.filter(id=result.id).copy(made), 1)
        copy = Job.objects.get(id=made[0])
        expected = ("READY", [1], {"b": 2}, 3, result.job.task_path, None, 0)
        found = (copy.status, copy.args, copy.kwargs, copy.priority, copy.task_path)
        self.assertEqual((*found, copy.schedule, copy.attempts), expected)
        work()
        copy.refresh_from_db()
        self.assertEqual(copy.return_value, 3)

    def test_copies_are_not_copied_and_tasks_need_not_be_there(self) -> None:
        make_jobs(1200, status="FAILED", task_path="gone.away")
        self.assertEqual(Job.objects.all().copy(), 1200)
        self.assertEqual(Job.objects.filter(status="READY", task_path="gone.away").count(), 1200)

    def test_the_words_in_batches(self) -> None:
        make_jobs(1200, status=lambda n: [*WAITING, *ENDED][n % 6])
        make_running(5)
        jobs = Job.objects.all()
        self.assertEqual(jobs.move("slow"), 600)
        self.assertEqual(jobs.prioritize(4), 600)
        self.assertEqual(jobs.run_now(), 200)
        self.assertEqual(jobs.mark(), 600)
        self.assertEqual(jobs.mark(timezone.now()), 600)
        self.assertEqual(jobs.discard(), 1200)
        self.assertEqual(jobs.count(), 5)

    def test_what_will_not_do_is_refused(self) -> None:
        make_jobs(2)
        for priority in (101, -101, 1.5, True, None):
            with self.assertRaisesRegex(ValueError, "from -100 to 100"):
                Job.objects.all().prioritize(priority)  # type: ignore[arg-type]
        setting = tasks_setting()
        setting["default"]["QUEUES"] = ["default", "mail"]
        with override_settings(TASKS=setting):
            with self.assertRaisesRegex(ValueError, "has no queue 'nail'; it has default, mail"):
                Job.objects.all().move("nail")
            self.assertEqual(Job.objects.all().move("mail"), 2)

    def test_a_job_that_others_refer_to_stays(self) -> None:
        jobs = make_jobs(7)
        table = Job._meta.db_table
        kind = Job._meta.pk.db_type(connection)
        with connection.cursor() as cursor:
            cursor.execute(
                f"CREATE TABLE refers (job {kind} NOT NULL, "
                f"FOREIGN KEY (job) REFERENCES {table} (id))"
            )
            try:
                key = jobs[2].id if connection.features.has_native_uuid_field else jobs[2].id.hex
                cursor.execute("INSERT INTO refers VALUES (%s)", [key])
                self.assertEqual(Job.objects.all().discard(), 6)
                self.assertEqual(Job.objects.get(), jobs[2])
            finally:
                cursor.execute("DROP TABLE refers")

    def test_a_job_that_is_moved_while_workers_claim_runs_once(self) -> None:
        results = [tasks.mark.enqueue(f"m{n}") for n in range(60)]
        del results
        moved = Job.objects.filter(status="READY").move("elsewhere")
        self.assertEqual(moved, 60)
        work()
        self.assertEqual(Job.objects.filter(status="READY").count(), 60)
        work(queue_names=("elsewhere",))
        self.assertEqual(Job.objects.successful().count(), 60)
