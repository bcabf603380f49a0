import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from unittest import mock, skipUnless

from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection
from django.test import RequestFactory, SimpleTestCase, TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from durable_tasks import metrics
from durable_tasks.histogram import bucket
from durable_tasks.models import Statistic

from .app import tasks
from .helpers import run_worker, tasks_setting
from .store.jobs import make_jobs, make_running
from .test_state import BACKEND, StateTestCase, ago, make_schedule, make_worker, pause

needs_prometheus = skipUnless(find_spec("prometheus_client"), "needs prometheus-client")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def get(user: Any = None, *, token: str | None = "t0p", method: str = "get", **headers: str) -> Any:
    """Ask the view as somebody; ``headers``: in addition."""
    request = getattr(RequestFactory(), method)("/metrics/", headers=headers)
    if user is not None:
        request.user = user
    return metrics.view(token=token)(request)


def all_time(**changes: Any) -> Statistic:
    """Insert the sums of all time of a task."""
    fields = {"backend_name": "default", "period": 0, "begins": 0, "queue_name": "default"}
    fields |= {"task_path": "shop.tasks.pay"}
    return Statistic.objects.create(**fields | changes)


@needs_prometheus
class AccessTests(TestCase):
    def user(self, **changes: Any) -> User:
        return User.objects.create_user(**{"username": "ann", "is_staff": True, **changes})

    def allow(self, user: User) -> User:
        permission = Permission.objects.get(
            codename="view_job", content_type__app_label="durable_tasks"
        )
        user.user_permissions.add(permission)
        return User.objects.get(pk=user.pk)

    def test_the_token_lets_in(self) -> None:
        self.assertEqual(get(Authorization="Bearer t0p").status_code, 200)
        self.assertEqual(get(AnonymousUser(), Authorization="bearer  t0p").status_code, 200)
        for header in ("Bearer t0", "Bearer", "Bearer ", "Basic t0p", "t0p", "Bearer ü", ""):
            with self.subTest(header):
                response = get(AnonymousUser(), Authorization=header)
                self.assertEqual(response.status_code, 401)
                self.assertIn("Bearer", response["WWW-Authenticate"])
                self.assertNotIn(b"durable_tasks_", response.content)
        self.assertEqual(get(token=None, Authorization="Bearer None").status_code, 401)
        self.assertEqual(get(token=None, Authorization="Bearer ").status_code, 401)

    def test_staff_need_the_permission(self) -> None:
        user = self.user()
        self.assertEqual(get(user).status_code, 403)
        self.assertEqual(get(self.allow(user)).status_code, 200)
        for name, changes in (("out", {"is_staff": False}), ("gone", {"is_active": False})):
            with self.subTest(name):
                other = self.allow(self.user(username=name, **changes))
                self.assertEqual(get(other).status_code, 403)

    def test_only_reading(self) -> None:
        self.assertEqual(get(method="post", Authorization="Bearer t0p").status_code, 405)
        response = get(method="head", Authorization="Bearer t0p")
        self.assertEqual(response.status_code, 200)
        self.assertIn("no-cache", response["Cache-Control"])

    def test_a_database_that_is_away_is_told_without_its_name(self) -> None:
        with mock.patch.object(metrics.Look, "queues", side_effect=OperationalError("host db1")):
            response = get(Authorization="Bearer t0p")
        self.assertEqual(response.status_code, 503)
        self.assertEqual(response.content, b"The database can't be asked.\n")


class SetUpTests(SimpleTestCase):
    @needs_prometheus
    def test_a_token_that_anybody_could_guess_is_refused(self) -> None:
        for token in ("", "  ", 7):
            with self.subTest(token), self.assertRaisesMessage(ImproperlyConfigured, "token must"):
                metrics.view(token=token)  # type: ignore[arg-type]

    def test_the_extra_is_named_where_it_is_missing(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"prometheus_client": None}),
            self.assertRaisesMessage(ImproperlyConfigured, "django-durable-tasks[metrics]"),
        ):
            metrics.view()


@needs_prometheus
class FigureTests(StateTestCase):
    def families(self, accept: str = "text/plain") -> dict[str, Any]:
        """Ask for the metrics and return them as Prometheus' own parsers understand them."""
        from prometheus_client.openmetrics import parser as openmetrics
        from prometheus_client.parser import text_string_to_metric_families

        response = get(Authorization="Bearer t0p", Accept=accept)
        self.assertEqual(response.status_code, 200)
        text = response.content.decode()
        if "openmetrics" in response["Content-Type"]:
            found = openmetrics.text_string_to_metric_families(text)
        else:
            found = text_string_to_metric_families(text)
        return {family.name: family for family in found}

    def values(self, family: Any, *labels: str) -> dict[Any, float]:
        """Return the samples of a family by the values of these labels."""
        return {tuple(each.labels[name] for name in labels): each.value for each in family.samples}

    def test_an_empty_database(self) -> None:
        families = self.families()
        self.assertEqual(self.values(families["durable_tasks_workers"], "state")[("alive",)], 0)
        self.assertEqual(families["durable_tasks_jobs"].samples, [])
        self.assertEqual(families["durable_tasks_runs"].samples, [])

    def test_what_there_is_now(self) -> None:
        make_jobs(3, queue_name="mail", run_at=ago(100))
        make_jobs(2, queue_name="mail", status="SCHEDULED", run_at=ago(-100))
        make_jobs(1, queue_name="mail", status="PAUSED")
        make_running(4)
        make_worker("a", capacity=7)
        make_worker("b", 20)
        make_worker("c", 90)
        make_schedule(late=500)
        pause(queue_name="mail")
        pause(task_path="shop.tasks.pay")
        families = self.families()
        jobs = self.values(families["durable_tasks_jobs"], "queue", "status")
        self.assertEqual(jobs["mail", "ready"], 3)
        self.assertEqual(jobs["mail", "scheduled"], 2)
        self.assertEqual(jobs["mail", "paused"], 1)
        self.assertEqual(jobs["default", "running"], 4)
        waiting = self.values(families["durable_tasks_oldest_waiting_seconds"], "queue")
        self.assertEqual((waiting["mail",] // 10, waiting["default",]), (10, 0))
        paused = self.values(families["durable_tasks_queue_paused"], "queue")
        self.assertEqual(paused, {("mail",): 1, ("default",): 0})
        self.assertEqual(
            self.values(families["durable_tasks_task_paused"], "task"), {("shop.tasks.pay",): 1}
        )
        self.assertEqual(
            self.values(families["durable_tasks_workers"], "state"),
            {("alive",): 1, ("silent",): 1, ("lost",): 1},
        )
        self.assertEqual(
            self.values(families["durable_tasks_capacity"], "backend"), {("default",): 11}
        )
        age = self.values(families["durable_tasks_oldest_heartbeat_seconds"], "backend")
        self.assertEqual(age["default",] // 10, 9)
        late = self.values(families["durable_tasks_late_schedules"], "backend")
        self.assertEqual(late, {("default",): 1})

    def test_counters_and_histograms_are_the_sums_of_all_time(self) -> None:
        runs = {bucket(0.02): 5, bucket(3): 2, bucket(1e7): 1}
        waits = {bucket(0.0): 3, bucket(0.3): 4}
        all_time(successful=5, failed=2, retried=1, runs=runs, waits=waits)
        all_time(task_path="shop.tasks.mail", cancelled=3_000_000_000, lost=1, waits=waits)
        all_time(period=60, begins=60, successful=100)
        all_time(backend_name="gone", successful=100)
        for accept in ("text/plain", OPENMETRICS):
            with self.subTest(accept):
                families = self.families(accept)
                counts = self.values(families["durable_tasks_runs"], "task", "outcome")
                self.assertEqual(counts["shop.tasks.pay", "successful"], 5)
                self.assertEqual(counts["shop.tasks.pay", "retried"], 1)
                self.assertEqual(counts["shop.tasks.mail", "cancelled"], 3_000_000_000)
                self.assertEqual(len(counts), 10)
                family = families["durable_tasks_run_seconds"]
                [pay] = [list(each) for each in self.histograms(family, {"task": "shop.tasks.pay"})]
                found = dict(pay)
                self.assertEqual(found["0.01"], 0)
                self.assertEqual((found["0.025"], found["2.5"], found["5.0"]), (5, 5, 7))
                self.assertEqual((found["86400.0"], found["+Inf"]), (7, 8))
                [delay] = self.histograms(families["durable_tasks_wait_seconds"], {})
                self.assertEqual(dict(delay)["0.001"], 6)
                self.assertEqual(dict(delay)["+Inf"], 14)

    def test_what_real_workers_ran_is_counted_for_all_time(self) -> None:
        for round in (1, 2):
            tasks.add.enqueue(1, 2)
            tasks.fail.enqueue()
            run_worker()
            # As once they are too old.
            Statistic.objects.filter(period__gt=0).delete()
            families = self.families()
            counts = self.values(families["durable_tasks_runs"], "task", "outcome")
            self.assertEqual(counts["tests.app.tasks.add", "successful"], round)
            self.assertEqual(counts["tests.app.tasks.fail", "failed"], round)
            [times] = self.histograms(
                families["durable_tasks_run_seconds"], {"task": "tests.app.tasks.add"}
            )
            self.assertEqual(times[-1], ("+Inf", round))

    def histograms(self, family: Any, labels: dict[str, str]) -> Iterator[list[tuple[str, float]]]:
        """Yield the buckets of each histogram with these labels; what they promise is asserted."""
        samples = [each for each in family.samples if labels.items() <= each.labels.items()]
        for count in [each for each in samples if each.name.endswith("_count")]:
            of = count.labels.items()
            mine = [each for each in samples if of <= each.labels.items()]
            buckets = [
                (each.labels["le"], each.value) for each in mine if each.name.endswith("_bucket")
            ]
            values = [value for _, value in buckets]
            self.assertEqual(values, sorted(values))
            self.assertEqual(values[-1], count.value)
            self.assertEqual(sum(each.name.endswith("_sum") for each in mine), 1)
            yield buckets

    def test_names_of_any_kind_survive(self) -> None:
        name = 'a"b\\c\nd{e="f"} ü'
        make_jobs(2, queue_name=name)
        all_time(queue_name=name, task_path=name, successful=1)
        families = self.families()
        jobs = self.values(families["durable_tasks_jobs"], "queue", "status")
        self.assertEqual(jobs[name, "ready"], 2)
        runs = self.values(families["durable_tasks_runs"], "task", "outcome")
        self.assertEqual(runs[name, "successful"], 1)

    def test_any_accept_header_gets_an_answer(self) -> None:
        for accept in ("", "*/*", "application/openmetrics-text; version=x", "text/plain;version="):
            with self.subTest(accept):
                self.assertIn("durable_tasks_jobs", self.families(accept))

    def test_all_backends_of_ours(self) -> None:
        make_jobs(1, backend_name="other")
        all_time(backend_name="other", successful=2)
        other = {"BACKEND": BACKEND, "QUEUES": ["mail"]}
        with override_settings(TASKS={**tasks_setting(), "other": other}):
            families = self.families()
        jobs = self.values(families["durable_tasks_jobs"], "backend", "queue", "status")
        self.assertEqual(jobs["other", "default", "ready"], 1)
        self.assertEqual(jobs["other", "mail", "ready"], 0)
        runs = self.values(families["durable_tasks_runs"], "backend", "outcome")
        self.assertEqual(runs["other", "successful"], 2)

    def test_the_queries_do_not_grow_with_what_is_counted(self) -> None:
        counts = set()
        for round in range(2):
            make_jobs(50)
            for number in range(20):
                all_time(task_path=f"t{round}.{number}", successful=1)
            with CaptureQueriesContext(connection) as queries:
                self.families()
            counts.add(len(queries))
        self.assertEqual(len(counts), 1)
        self.assertLess(counts.pop(), 20)


@needs_prometheus
class BucketTests(SimpleTestCase):
    def test_each_time_is_below_its_bound(self) -> None:
        for seconds in (0.0005, 0.003, 0.2, 1.5, 45, 7200):
            found, total = metrics.buckets({bucket(seconds): 1})
            at = next(float(bound) for bound, count in found if count)
            self.assertGreaterEqual(at * 1.13, seconds)
            self.assertAlmostEqual(total, seconds, delta=seconds / 7)

    def test_a_sum_does_not_depend_on_the_order(self) -> None:
        histogram = {bucket(10**power): 3**20 for power in range(-6, 6)}
        backwards = dict(reversed(histogram.items()))
        self.assertEqual(metrics.buckets(histogram)[1], metrics.buckets(backwards)[1])
        self.assertEqual(metrics.buckets({})[1], 0)
