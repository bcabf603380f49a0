"""``DBTaskResult`` and ``ScheduledTask``: the rows of ``Job`` by other packages' names."""

import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connection, models
from django.db.models import Case, Count, Exists, F, Max, OuterRef, Q, Value, When
from django.db.models.functions import Coalesce, Concat, Least
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from dbtasks.models import ScheduledTask
from dbtasks.runner import Runner
from django_tasks_db.models import DBTaskResult
from durable_tasks import DurableTasksError
from durable_tasks.models import Job
from tests.app import tasks
from tests.helpers import WorkerTestCase, tasks_setting
from tests.store.jobs import make_jobs

# The fields of the packages that are replaced, in their order.
DB_TASK_RESULT = [
    *("id", "status", "enqueued_at", "started_at", "finished_at", "args_kwargs", "priority"),
    *("task_path", "worker_ids", "queue_name", "backend_name", "run_after", "return_value"),
    *("exception_class_path", "traceback"),
]
SCHEDULED_TASK = [
    *("id", "status", "enqueued_at", "started_at", "finished_at", "args", "kwargs", "task_path"),
    *("priority", "queue", "backend", "run_after", "delete_after", "periodic", "worker_id"),
    *("worker_ids", "return_value", "exception_path", "traceback"),
]
NEVER = datetime(9999, 1, 1, tzinfo=UTC if settings.USE_TZ else None)
VALUE_ERROR = "builtins.ValueError"


def error(worker_id: str | None, traceback: str) -> dict[str, Any]:
    return {"worker_id": worker_id, "exception_class_path": VALUE_ERROR, "traceback": traceback}


class RowsTestCase(TestCase):
    now = timezone.now()

    @classmethod
    def setUpTestData(cls) -> None:
        cls.names: dict[Any, str] = {}
        later = cls.now + timedelta(days=1)
        cls.add("ready", args=[1, "e"], kwargs={"b": {"c": 2}}, priority=3)
        cls.add("deferred", status="SCHEDULED", run_after=later, run_at=later, queue_name="slow")
        cls.add("due", status="SCHEDULED", run_after=cls.now, run_at=cls.now)
        errors = [error("w1", "first"), error(None, "second")]
        failed = {"errors": errors, "exception_class_path": VALUE_ERROR, "finished_at": cls.now}
        cls.add("retried", status="SCHEDULED", run_at=later, **failed | {"finished_at": None})
        cls.add("running", status="RUNNING", worker_id="w2", started_at=cls.now)
        ended = {"finished_at": cls.now, "worker_id": "w3"}
        cls.add("successful", status="SUCCESSFUL", return_value={"x": [1]}, **failed | ended)
        cls.add("periodic", status="SUCCESSFUL", schedule="hourly", delete_after=later, **ended)
        cls.add("failed", status="FAILED", **failed)
        cls.add("cancelled", status="CANCELLED", finished_at=cls.now)

    @classmethod
    def add(cls, name: str, **fields: Any) -> None:
        [job] = make_jobs(1, task_path="tests.app.tasks.add", **fields)
        cls.names[job.id] = name

    def found(self, queryset: Any) -> set[str]:
        return {self.names[row.pk] for row in queryset}

    def row(self, model: type[models.Model], name: str) -> Any:
        [pk] = [pk for pk, each in self.names.items() if each == name]
        return model._default_manager.get(pk=pk)

    def assert_shows(self, model: type[models.Model], field: str, shown: dict[str, Any]) -> None:
        """The field is so as an attribute, in values(), as a filter, and deferred."""
        for name, value in shown.items():
            with self.subTest(name, field=field):
                row = self.row(model, name)
                rows = model._default_manager.filter(pk=row.pk)
                self.assertEqual(getattr(row, field), value)
                self.assertEqual(rows.values(field).get(), {field: value})
                self.assertEqual(list(rows.values_list(field, flat=True)), [value])
                self.assertEqual(getattr(rows.only(field).get(), field), value)
                self.assertEqual(getattr(rows.defer(field).get(), field), value)
                condition = Q(**{f"{field}__isnull": True} if value is None else {field: value})
                self.assertTrue(rows.filter(condition).exists())
                self.assertFalse(rows.exclude(condition).exists())


class DBTaskResultTests(RowsTestCase):
    def test_fields(self) -> None:
        self.assertEqual([each.name for each in DBTaskResult._meta.get_fields()], DB_TASK_RESULT)
        self.assertEqual(list(DBTaskResult.objects.values().first() or {}), DB_TASK_RESULT)

    def test_status(self) -> None:
        shown = {
            **dict.fromkeys(("ready", "deferred", "due", "retried"), "READY"),
            "running": "RUNNING",
            **dict.fromkeys(("successful", "periodic"), "SUCCESSFUL"),
            **dict.fromkeys(("failed", "cancelled"), "FAILED"),
        }
        self.assert_shows(DBTaskResult, "status", shown)
        self.assertEqual(self.row(DBTaskResult, "cancelled").get_status_display(), "Failed")

    def test_other_fields(self) -> None:
        shown: dict[str, dict[str, Any]] = {
            "args_kwargs": {
                "ready": {"args": [1, "e"], "kwargs": {"b": {"c": 2}}},
                "running": {"args": [], "kwargs": {}},
            },
            "worker_ids": {
                "ready": [],
                "running": ["w2"],
                "retried": ["w1"],
                "successful": ["w1", "w3"],
                "cancelled": [],
            },
            "run_after": {"due": self.now, "ready": NEVER, "retried": NEVER},
            "return_value": {"successful": {"x": [1]}, "periodic": None, "failed": None},
            # Errors before a success are no longer shown: there it would mean that it failed.
            "exception_class_path": {"failed": VALUE_ERROR, "ready": "", "successful": ""},
            "traceback": {"failed": "second", "retried": "second", "ready": "", "successful": ""},
            "queue_name": {"ready": "default", "deferred": "slow"},
            "priority": {"ready": 3, "due": 0},
            "finished_at": {"ready": None, "failed": self.now},
        }
        for field, values in shown.items():
            self.assert_shows(DBTaskResult, field, values)

    def test_lookups(self) -> None:
        waiting = {"ready", "deferred", "due", "retried"}
        ended = {"successful", "periodic", "failed", "cancelled"}
        retried = {"retried", "successful", "failed"}
        for condition, expected in (
            (Q(status__in=["READY", "RUNNING"]), {*waiting, "running"}),
            (~Q(status__in=["READY", "RUNNING"]), ended),
            (Q(status="SCHEDULED"), set()),
            (~Q(status="NONSENSE"), {*waiting, "running", *ended}),
            (Q(status__in=[]), set()),
            (Q(status__startswith="S"), {"successful", "periodic"}),
            (Q(status=F("status"), run_after=self.now), {"due"}),
            (Q(args_kwargs__args__0=1), {"ready"}),
            (Q(args_kwargs__args=[1, "e"]), {"ready"}),
            (Q(args_kwargs__kwargs__b__c__gt=1), {"ready"}),
            (Q(args_kwargs__kwargs__has_key="b"), {"ready"}),
            (Q(worker_ids__0="w1"), retried),
            (Q(worker_ids__1="w3"), {"successful"}),
            (Q(run_after__gt=self.now, run_after__lt=NEVER), {"deferred"}),
            (Q(traceback__contains="econ"), {"failed", "retried"}),
            (Q(traceback__icontains="SECOND"), {"failed", "retried"}),
            (Q(exception_class_path__icontains="valueERROR"), {"failed", "retried"}),
            (Q(return_value__x__0=1), {"successful"}),
            (Q(pk__in=DBTaskResult.objects.filter(status="RUNNING")), {"running"}),
        ):
            with self.subTest(condition):
                self.assertEqual(self.found(DBTaskResult.objects.filter(condition)), expected)

    def test_running_without_a_worker(self) -> None:
        [job] = make_jobs(1, status="RUNNING")
        self.names[job.id] = "by hand"
        for statuses in (["RUNNING"], ["RUNNING", "SUCCESSFUL"]):
            with self.subTest(statuses):
                inside = Q(status__in=statuses)
                self.assertIn("by hand", self.found(DBTaskResult.objects.filter(inside)))
                self.assertNotIn("by hand", self.found(DBTaskResult.objects.exclude(inside)))
        self.assertIn("by hand", self.found(DBTaskResult.objects.filter(status="RUNNING")))
        self.assertIn("by hand", self.found(DBTaskResult.objects.exclude(status="READY")))

    def test_words(self) -> None:
        for word, expected in (
            ("ready", {"ready", "due"}),
            ("running", {"running"}),
            ("successful", {"successful", "periodic"}),
            ("failed", {"failed", "cancelled"}),
            ("finished", {"successful", "periodic", "failed", "cancelled"}),
        ):
            with self.subTest(word):
                self.assertEqual(self.found(getattr(DBTaskResult.objects, word)()), expected)
                chained = getattr(DBTaskResult.objects.filter(queue_name="slow"), word)()
                self.assertEqual(self.found(chained), set())

    def test_aggregates(self) -> None:
        counted = DBTaskResult.objects.values("status").annotate(n=Count("id"))
        self.assertEqual(
            {each["status"]: each["n"] for each in counted},
            {"READY": 4, "RUNNING": 1, "SUCCESSFUL": 2, "FAILED": 2},
        )
        latest = DBTaskResult.objects.exclude(run_after=NEVER).aggregate(latest=Max("run_after"))
        self.assertEqual(latest, {"latest": self.now + timedelta(days=1)})
        self.assertEqual(DBTaskResult.objects.values("status").distinct().count(), 4)
        by_status = DBTaskResult.objects.aggregate(
            waiting=Count("pk", filter=Q(status="READY")),
            ended=Count("pk", filter=Q(status__in=["FAILED", "SUCCESSFUL"])),
            unknown=Count("pk", filter=Q(status="NONSENSE")),
        )
        self.assertEqual(by_status, {"waiting": 4, "ended": 4, "unknown": 0})
        first = DBTaskResult.objects.all()[:2].aggregate(n=Count("pk"), last=Max("run_after"))
        self.assertEqual(first, {"n": 2, "last": NEVER})

    def test_expressions_of_both_kinds_of_fields(self) -> None:
        for expression, name, expected in (
            (Coalesce("started_at", "run_after"), "due", self.now),
            (Coalesce("started_at", "run_after"), "running", self.now),
            (Coalesce("run_after", "started_at"), "due", self.now),
            (Least("enqueued_at", "run_after"), "due", self.now),
            (Concat("task_path", "status"), "due", "tests.app.tasks.addREADY"),
            (Case(When(status="READY", then=Value("w")), default="status"), "due", "w"),
            (Case(When(status="READY", then=Value("w")), default="status"), "failed", "FAILED"),
            (Coalesce("return_value", "worker_ids"), "successful", {"x": [1]}),
            (Coalesce("worker_ids", "return_value"), "successful", ["w1", "w3"]),
        ):
            with self.subTest(expression):
                row = self.row(DBTaskResult, name)
                shown = DBTaskResult.objects.annotate(shown=expression).get(pk=row.pk).shown
                self.assertEqual(shown, expected)
        either = Case(When(queue="slow", then=Value(True)), default="periodic")
        shown = ScheduledTask.objects.annotate(shown=either).filter(shown=True)
        self.assertEqual(self.found(shown), {"deferred", "periodic"})

    def test_order(self) -> None:
        # Those that are to run first are first: by priority, then by time.
        first = [self.names[row.pk] for row in DBTaskResult.objects.filter(status="READY")[:3]]
        self.assertEqual(first, ["ready", "due", "deferred"])
        statuses = DBTaskResult.objects.order_by("-status").values_list("status", flat=True)
        self.assertEqual(list(statuses), sorted(statuses, reverse=True))

    def test_in_subqueries_and_unions(self) -> None:
        same = DBTaskResult.objects.filter(status=OuterRef("status"), queue_name="slow")
        found = DBTaskResult.objects.filter(Exists(same))
        self.assertEqual(self.found(found), {"ready", "deferred", "due", "retried"})
        both = DBTaskResult.objects.order_by().running()
        both = both.union(DBTaskResult.objects.order_by().failed(), all=True)
        self.assertEqual(self.found(both), {"running", "failed", "cancelled"})

    def test_in_bulk(self) -> None:
        self.assertEqual(set(DBTaskResult.objects.in_bulk(list(self.names))), set(self.names))

    def test_a_row_is_read_anew(self) -> None:
        row = self.row(DBTaskResult, "ready")
        Job.objects.filter(pk=row.pk).update(status="CANCELLED")
        row.refresh_from_db()
        self.assertEqual(row.status, "FAILED")

    def test_delete(self) -> None:
        deleted, _ = DBTaskResult.objects.filter(status="READY", run_after__lt=NEVER).delete()
        self.assertEqual(deleted, 2)
        self.row(DBTaskResult, "failed").delete()
        self.assertEqual(DBTaskResult.objects.ready().delete()[0], 1)
        left = {self.names[pk] for pk in Job.objects.values_list("pk", flat=True)}
        self.assertEqual(left, {"retried", "running", "successful", "periodic", "cancelled"})

    def test_task_and_result(self) -> None:
        row = self.row(DBTaskResult, "deferred")
        self.assertEqual(row.task_name, "add")
        later = self.now + timedelta(days=1)
        self.assertEqual(row.task, tasks.add.using(queue_name="slow", run_after=later))
        self.assertIsNone(self.row(DBTaskResult, "ready").task.run_after)
        result = row.task_result
        self.assertEqual((result.id, result.task), (str(row.pk), row.task))
        self.assertEqual(result.db_result, row)

    def test_the_row_of_a_result(self) -> None:
        for name, status, traceback in (("brief", "FAILED", ""), ("late", "CANCELLED", "first")):
            errors = {"errors": [error(None, traceback)], "exception_class_path": VALUE_ERROR}
            [job] = make_jobs(1, status=status, task_path="tests.app.tasks.add", **errors)
            self.names[job.id] = name
        for name in self.names.values():
            with self.subTest(name):
                row = self.row(DBTaskResult, name)
                result = row.task_result
                with self.assertNumQueries(0):
                    made = result.db_result
                for field in DB_TASK_RESULT:
                    self.assertEqual(getattr(made, field), getattr(row, field), field)
                self.assertIs(made, result.db_result)
                Job.objects.filter(pk=row.pk).update(priority=9)
                made.refresh_from_db()
                self.assertEqual(result.db_result.priority, 9)

    def test_a_task_that_is_gone(self) -> None:
        row = self.row(DBTaskResult, "failed")
        Job.objects.filter(pk=row.pk).update(task_path="tests.app.gone.away")
        row.refresh_from_db()
        self.assertEqual(row.task_name, "away")
        self.assertEqual(row.task_result.errors[-1].traceback, "second")

    def test_without_time_zones(self) -> None:
        with override_settings(USE_TZ=False):
            row = DBTaskResult.objects.filter(run_after=datetime(9999, 1, 1)).first()
        assert row is not None
        self.assertEqual(row.run_after, datetime(9999, 1, 1))

    def test_copies(self) -> None:
        row = self.row(DBTaskResult, "failed")
        for made in (copy.copy(row), copy.deepcopy(row), pickle.loads(pickle.dumps(row))):
            self.assertEqual(made, row)
            self.assertEqual((made.traceback, made._state.db), ("second", "default"))

    def test_pickled_querysets(self) -> None:
        later = Coalesce("started_at", "run_after")
        for made, expected in (
            (DBTaskResult.objects.filter(status="RUNNING"), {"running"}),
            (DBTaskResult.objects.ready().exclude(queue_name="slow"), {"ready", "due"}),
            (ScheduledTask.objects.filter(worker_ids=["w1", "w3"]), {"successful"}),
            (DBTaskResult.objects.annotate(x=later).filter(x=self.now), {"due", "running"}),
        ):
            with self.subTest(expected):
                self.assertEqual(self.found(pickle.loads(pickle.dumps(made))), expected)
                copied = made.all()
                copied.query = pickle.loads(pickle.dumps(made.query))
                self.assertEqual(self.found(copied), expected)


class ScheduledTaskTests(RowsTestCase):
    def test_fields(self) -> None:
        self.assertEqual([each.name for each in ScheduledTask._meta.get_fields()], SCHEDULED_TASK)

    def test_shown(self) -> None:
        shown: dict[str, dict[str, Any]] = {
            "status": {"deferred": "READY", "running": "RUNNING", "cancelled": "FAILED"},
            "args": {"ready": [1, "e"], "failed": []},
            "kwargs": {"ready": {"b": {"c": 2}}},
            "queue": {"deferred": "slow", "ready": "default"},
            "backend": {"ready": "default"},
            "run_after": {"due": self.now, "ready": None},
            "delete_after": {"periodic": self.now + timedelta(days=1), "failed": None},
            "periodic": {"periodic": True, "ready": False, "successful": False},
            "worker_id": {"running": "w2", "ready": None},
            "worker_ids": {"successful": ["w1", "w3"], "ready": []},
            "exception_path": {"failed": VALUE_ERROR, "ready": ""},
            "traceback": {"failed": "second", "ready": ""},
        }
        for field, values in shown.items():
            self.assert_shows(ScheduledTask, field, values)

    def test_a_condition_as_a_field(self) -> None:
        everything = set(self.names.values())
        others = ScheduledTask.objects.filter(queue="slow").values("periodic")
        for condition, expected in (
            (Q(periodic__in=[True, False]), everything),
            (Q(periodic__in=others), everything - {"periodic"}),
            (Q(periodic=True), {"periodic"}),
            (~Q(periodic=True), everything - {"periodic"}),
            (Q(periodic=F("periodic")), everything),
        ):
            with self.subTest(condition):
                self.assertEqual(self.found(ScheduledTask.objects.filter(condition)), expected)

    def test_groups(self) -> None:
        counted = ScheduledTask.objects.values_list("periodic", "queue").annotate(n=Count("pk"))
        self.assertEqual(
            set(counted), {(False, "default", 7), (False, "slow", 1), (True, "default", 1)}
        )

    def test_words(self) -> None:
        row = self.row(ScheduledTask, "deferred")
        self.assertEqual(str(row), f"tests.app.tasks.add ({row.pk})")
        self.assertEqual(row.task_id, str(row.pk))
        self.assertEqual(row.result.id, row.task_id)
        self.assertEqual(row.task, row.result.task)
        self.assertIs(row.task_backend, tasks.add.get_backend())
        self.assertEqual(self.found(ScheduledTask.objects.ready()), {"ready", "due"})


class NewRowTests(TestCase):
    def test_the_defaults(self) -> None:
        new: Any = ScheduledTask(task_path="tests.app.tasks.add")
        self.assertEqual((new.args, new.kwargs, new.worker_ids), ([], {}, []))
        self.assertEqual((new.status, new.queue, new.backend), ("READY", "default", "default"))
        self.assertEqual((new.priority, new.run_after, new.periodic), (0, None, False))
        row: Any = DBTaskResult()
        self.assertEqual((row.status, row.queue_name, row.worker_ids), ("READY", "default", []))

    def test_a_runner_takes_one_without_arguments(self) -> None:
        result = Runner().submit_task(ScheduledTask(task_path="tests.app.tasks.no_value"))
        self.assertEqual((result.args, result.kwargs), ([], {}))


class WritingTests(RowsTestCase):
    def test_writing_is_refused_and_says_what_to_use(self) -> None:
        for model in (DBTaskResult, ScheduledTask):
            rows = model._default_manager
            row = rows.get(pk=self.row(model, "failed").pk)
            for write in (
                row.save,
                lambda rows=rows: rows.create(priority=1),
                lambda rows=rows: rows.filter(status="FAILED").update(status="READY"),
                lambda rows=rows, row=row: rows.bulk_create([row]),
                lambda rows=rows, row=row: rows.bulk_update([row], ["priority"]),
            ):
                with (
                    self.subTest(model=model),
                    self.assertRaisesRegex(DurableTasksError, rf"{model.__name__} .* retry\(\)"),
                ):
                    write()
        self.assertEqual(self.row(DBTaskResult, "failed").status, "FAILED")


class LinkTests(TransactionTestCase):
    available_apps = WorkerTestCase.available_apps

    def setUp(self) -> None:
        class Report(models.Model):  # noqa: DJ008
            job = models.ForeignKey(Job, models.CASCADE, related_name="+")

            class Meta:
                app_label = "tests_app"

        self.reports = Report._default_manager
        with connection.schema_editor() as editor:
            editor.create_model(Report)
        self.addCleanup(self.forget, Report)

    def forget(self, model: type[models.Model]) -> None:
        with connection.schema_editor() as editor:
            editor.delete_model(model)
        del apps.all_models["tests_app"][model._meta.model_name]
        apps.clear_cache()

    def test_what_is_linked_to_a_job_goes_with_it(self) -> None:
        for job in make_jobs(4):
            self.reports.create(job=job)
        _, _, third, last = DBTaskResult.objects.order_by("pk")
        deleted, _ = DBTaskResult.objects.filter(status="READY", pk__lt=third.pk).delete()
        self.assertEqual(deleted, 4)
        third.delete()
        self.assertEqual([report.job_id for report in self.reports.all()], [last.pk])
        self.assertEqual(Job.objects.get().pk, last.pk)

    def test_only_rows_can_be_deleted(self) -> None:
        make_jobs(2)
        for queryset in (DBTaskResult.objects.values("status"), DBTaskResult.objects.all()[:1]):
            with self.assertRaises(TypeError):
                queryset.delete()
        self.assertFalse(hasattr(DBTaskResult.objects, "delete"))
        self.assertEqual(Job.objects.count(), 2)


class EnqueuedTests(TestCase):
    def test_what_the_engine_has_written(self) -> None:
        result = tasks.add.using(priority=7).enqueue(1, y="ü")
        row = DBTaskResult.objects.get(args_kwargs={"args": [1], "kwargs": {"y": "ü"}})
        self.assertEqual(str(row.pk), result.id)
        self.assertEqual(row.args_kwargs, {"args": [1], "kwargs": {"y": "ü"}})
        self.assertEqual(ScheduledTask.objects.get(args=[1], kwargs={"y": "ü"}).pk, row.pk)
        with override_settings(TASKS=tasks_setting(immediate=True)):
            done = tasks.add.enqueue(2, 3)
        row = DBTaskResult.objects.get(return_value=5)
        self.assertEqual((str(row.pk), row.worker_ids), (done.id, done.worker_ids))
        self.assertEqual(row.task_result, done)


class RouterTests(TestCase):
    databases = {"default", "other"}

    def test_the_models_go_where_jobs_go(self) -> None:
        class JobElsewhere:
            def db_for_read(self, model: type[models.Model], **hints: Any) -> str | None:
                return "other" if model is Job else None

            db_for_write = db_for_read

        with override_settings(DATABASE_ROUTERS=[JobElsewhere()]):
            result = tasks.add.enqueue(1, 2)
            row = DBTaskResult.objects.get(pk=result.id)
            self.assertEqual(row._state.db, "other")
            row.refresh_from_db()
            self.assertEqual((row.task_result.db_result, row.status), (row, "READY"))
            self.assertFalse(ScheduledTask.objects.using("default").exists())
            row.delete()
            self.assertFalse(Job.objects.exists())


class PlanTests(TestCase):
    def test_waiting_tasks_are_found_without_reading_the_history(self) -> None:
        now = timezone.now()
        make_jobs(5000, status="SUCCESSFUL", finished_at=now)
        make_jobs(20)
        make_jobs(20, status="SCHEDULED", run_at=now + timedelta(days=1))
        make_jobs(5, status="RUNNING", worker_id="w")
        if connection.vendor != "mysql":  # it looks into the index itself
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")
        for queryset in (
            DBTaskResult.objects.filter(status="READY"),
            DBTaskResult.objects.filter(status__in=["READY", "RUNNING"]),
            DBTaskResult.objects.ready(),
            ScheduledTask.objects.filter(status="RUNNING"),
        ):
            plan = queryset.order_by().only("id").explain()
            with self.subTest(plan):
                index = "durable_job_(ready|scheduled|running)"
                expected = {
                    "postgresql": f"Index Scan (on|using) {index}",
                    "sqlite": f"(SEARCH|SCAN) durable_tasks_job USING INDEX {index}",
                    # Here all these indexes begin with the status.
                    "mysql": r"durable_tasks_job (range|ref) .* durable_job_(\w+) ",
                }
                self.assertRegex(plan, expected[connection.vendor])
                self.assertNotRegex(
                    plan, "Seq Scan|SCAN durable_tasks_job($|\n)|durable_tasks_job (ALL|index)"
                )
