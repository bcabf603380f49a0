"""How long ended jobs stay: what settings and tasks say."""

from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.test import SimpleTestCase, override_settings

from durable_tasks import task
from durable_tasks.compat import InvalidTask, task_backends
from durable_tasks.options import Options
from durable_tasks.results import find_task
from durable_tasks.retention import Retention, Rule, retain_by_path, retain_of

from .app import tasks
from .helpers import tasks_setting

pytestmark = pytest.mark.any_database

DAY = timedelta(days=1)
ADD = "tests.app.tasks.add"
RETAINED = "tests.app.tasks.retained"
KEPT = "tests.app.tasks.kept"


class DurationTests(SimpleTestCase):
    def test_a_time_may_be_given_in_several_ways(self) -> None:
        cases: dict[Any, timedelta | None] = {
            "7d": 7 * DAY,
            "2w3d7h21m10s": timedelta(weeks=2, days=3, hours=7, minutes=21, seconds=10),
            "90m": timedelta(minutes=90),
            "0s": timedelta(),
            0: timedelta(),
            1.5: timedelta(seconds=1.5),
            DAY: DAY,
            None: None,
        }
        for given, expected in cases.items():
            with self.subTest(given):
                self.assertEqual(retain_of(given, "x"), expected)

    def test_what_is_no_time_is_refused_by_name(self) -> None:
        for given in ("", "d", "soon", "1d1", "-7d", -1, "6000w", 1e300, b"7d", True, []):
            with self.subTest(given), self.assertRaisesMessage(ValueError, "the name must be a "):
                retain_of(given, "the name")

    def test_one_time_is_for_the_rest_of_the_tasks(self) -> None:
        self.assertEqual(retain_by_path("1d", "x"), {"*": DAY})
        self.assertEqual(retain_by_path(None, "x"), {"*": None})
        mapping = {"a.b": 60, "c.d": None, "*": "1d"}
        expected = {"a.b": timedelta(minutes=1), "c.d": None, "*": DAY}
        self.assertEqual(retain_by_path(mapping, "x"), expected)


class RuleTests(SimpleTestCase):
    def rule(self, path: str, **options: Any) -> Rule | None:
        return Retention("default", Options(**options), find_task)[path]

    def test_without_options_jobs_stay_for_ever(self) -> None:
        self.assertIsNone(self.rule(ADD))
        self.assertIsNone(self.rule("no.task"))

    def test_retain_holds_for_failed_jobs_too_if_nothing_else_is_said(self) -> None:
        self.assertEqual(self.rule(ADD, retain="1d"), (DAY, DAY))
        self.assertEqual(self.rule(ADD, retain="1d", retain_failed="2d"), (DAY, 2 * DAY))
        self.assertEqual(self.rule(ADD, retain="1d", retain_failed=None), (DAY, None))
        self.assertEqual(self.rule(ADD, retain_failed="2d"), (None, 2 * DAY))

    def test_a_path_wins_over_the_rest(self) -> None:
        retain = {ADD: 0, "no.task": None, "*": "1d"}
        self.assertEqual(self.rule(ADD, retain=retain), (timedelta(), timedelta()))
        self.assertIsNone(self.rule("no.task", retain=retain))
        self.assertEqual(self.rule("no.other", retain=retain), (DAY, DAY))
        self.assertIsNone(self.rule("no.other", retain={ADD: "1d"}))
        # Where a mapping says nothing of a task, that is as if there was none.
        failed = {"no.task": "3d"}
        self.assertEqual(self.rule(ADD, retain="1d", retain_failed=failed), (DAY, DAY))

    def test_a_task_wins_over_the_options(self) -> None:
        options = {"retain": {"*": "9d", RETAINED: "8d"}, "retain_failed": "7d"}
        self.assertEqual(self.rule(RETAINED, **options), (DAY, 2 * DAY))
        self.assertEqual(self.rule(RETAINED), (DAY, 2 * DAY))
        # It says nothing of its failed jobs: the option does.
        self.assertEqual(self.rule("tests.app.tasks.atomic_retained", **options), (DAY, 7 * DAY))

    def test_none_of_a_task_means_for_ever(self) -> None:
        self.assertIsNone(self.rule(KEPT, retain="9d"))
        self.assertEqual(self.rule(KEPT, retain="9d", retain_failed="7d"), (None, 7 * DAY))

    def test_a_schedule_wins_over_both(self) -> None:
        retention = Retention("default", Options(retain="9d", retain_failed="7d"), find_task)
        for given, expected in (("3d", (3 * DAY, 3 * DAY)), (None, None)):
            rule = retention.decide(RETAINED, tasks.retained, schedule=given)
            self.assertEqual(rule, expected)

    def test_a_task_is_looked_up_once(self) -> None:
        finds = mock.Mock(side_effect=find_task)
        retention = Retention("default", Options(), finds)
        for _ in range(3):
            self.assertEqual(retention[RETAINED], (DAY, 2 * DAY))
            self.assertIsNone(retention[ADD])
        self.assertEqual(finds.call_count, 2)

    def test_a_task_that_comes_later_is_found(self) -> None:
        path = "tests.test_retention.later"
        retention = Retention("default", Options(), find_task)
        self.assertIsNone(retention[path])
        with mock.patch("tests.test_retention.later", tasks.retained, create=True):
            self.assertEqual(retention[path], (DAY, 2 * DAY))

    @override_settings(TASKS=tasks_setting(retain="1d"))
    def test_a_backend_has_its_rules(self) -> None:
        self.assertEqual(task_backends["default"].retention[ADD], (DAY, DAY))


class TaskTests(SimpleTestCase):
    def test_a_wrong_time_is_an_invalid_task(self) -> None:
        for name in ("retain", "retain_failed"):
            for value in ("soon", -1, {"*": "1d"}):
                with (
                    self.subTest(name, value=value),
                    self.assertRaisesMessage(InvalidTask, f"{name} must be a time up to 100 years"),
                ):
                    task(**{name: value})(tasks.add.func)

    def test_a_copy_says_the_same(self) -> None:
        self.assertEqual(tasks.retained.using(priority=5).retain, "1d")
        self.assertIsNone(tasks.kept.using(priority=5).retain)
