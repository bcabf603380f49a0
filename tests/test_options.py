import uuid
from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Func
from django.test import SimpleTestCase

from durable_tasks import Periodic
from durable_tasks.compat import EXPRESSION_IDS
from durable_tasks.ids import uuid7
from durable_tasks.options import Options, parse_options

pytestmark = pytest.mark.any_database

WHERE = 'TASKS["default"]["OPTIONS"]'

NO_FUNCTION = "just text"


class OptionsTests(SimpleTestCase):
    def assert_refused(self, given: Any, *texts: str) -> None:
        with self.assertRaises(ImproperlyConfigured) as caught:
            parse_options("default", given)
        for text in texts:
            self.assertIn(text, str(caught.exception))

    def test_nothing_given_means_the_defaults(self) -> None:
        options = parse_options("default", {})
        self.assertEqual((options.worker_timeout, options.max_result_size), (30, 4 * 1024 * 1024))
        self.assertIs(options.make_id, uuid7)

    def test_given_values_are_taken(self) -> None:
        given = {"id_function": uuid.uuid4, "worker_timeout": 1.5, "max_result_size": 1}
        options = parse_options("default", given)
        self.assertEqual(given, {name: getattr(options, name) for name in given})
        self.assertIs(options.make_id, uuid.uuid4)

    def test_options_are_frozen(self) -> None:
        with self.assertRaises(FrozenInstanceError):
            parse_options("default", {}).worker_timeout = 5  # type: ignore[misc]

    def test_an_unknown_key_is_named_with_what_was_meant(self) -> None:
        self.assert_refused(
            {"worker_timout": 5}, f'{WHERE}["worker_timout"]', 'Did you mean "worker_timeout"?'
        )
        self.assert_refused({"x": 1}, f'{WHERE}["x"] is not an option', "Known: id_function, ")
        self.assert_refused({1: 1}, f'{WHERE}["1"] is not an option')

    def test_the_alias_is_named(self) -> None:
        with self.assertRaisesMessage(ImproperlyConfigured, 'TASKS["mail"]["OPTIONS"]["x"]'):
            parse_options("mail", {"x": 1})

    def test_options_that_are_no_dictionary_are_refused(self) -> None:
        for given in (None, [], "x"):
            with self.subTest(given):
                self.assert_refused(given, f"{WHERE} must be a dictionary, not {given!r}.")

    def test_a_value_of_the_wrong_type_or_size_is_refused_and_shown(self) -> None:
        nan, inf = float("nan"), float("inf")
        cases: dict[str, list[Any]] = {
            "max_lost": [0, "3", None, 1.5, True],
            "max_attempts": [0, "3", None, 1.5, True],
            "backoff": [3, None, ""],
            "timeout": [0, "30", -1, nan, True],
            "retain": ["", "x", "7 y", "-1d", -1, nan, inf, True, b"7d", [7], "6000w"],
            "retain_failed": ["x", -1, {7}],
            "worker_timeout": ["30s", None, True, 0, 0.9, -1, nan, inf, -inf, [30]],
            "signals": ["no", "", 2, []],
            "max_result_size": ["1", None, True, 0, -1, 1.0, inf],
            "id_function": ["", None, 42, b"uuid.uuid4", ["uuid.uuid4"]],
        }
        for name, values in cases.items():
            for value in values:
                with self.subTest(name, value=value):
                    self.assert_refused(
                        {name: value}, f'{WHERE}["{name}"] must be ', f"not {value!r}."
                    )

    def test_values_as_an_environment_may_give_them(self) -> None:
        given = {"worker_timeout": "45", "immediate": 1, "signals": 0}
        options = parse_options("default", given)
        self.assertEqual(options.worker_timeout, 45.0)
        self.assertIs(options.immediate, True)
        self.assertIs(options.signals, False)

    def test_none_for_a_flag_means_its_default(self) -> None:
        flags = ("notify", "immediate", "signals")
        options, default = parse_options("default", dict.fromkeys(flags)), Options()
        for name in flags:
            self.assertIs(getattr(options, name), getattr(default, name), name)

    def test_a_wrong_time_of_one_task_is_refused_by_its_path(self) -> None:
        for name in ("retain", "retain_failed"):
            self.assert_refused(
                {name: {"a.b": "1d", "c.d": "never"}},
                f'{WHERE}["{name}"]["c.d"] must be a time up to 100 years, such as "7d"',
                "not 'never'.",
            )
            self.assert_refused({name: {7: "1d"}}, f'{WHERE}["{name}"] must have the paths of')


class PeriodicTests(SimpleTestCase):
    def test_specs_are_made_into_periodic_tasks(self) -> None:
        given = {"a.b": "30 3 * * 1-5", "c": Periodic(60, [1], task="a.b"), "d": timedelta(days=1)}
        periodic = parse_options("default", {"periodic": given}).periodic
        self.assertEqual(
            dict(periodic),
            {
                "a.b": Periodic("30 3 * * 1-5"),
                "c": Periodic(60, [1], task="a.b"),
                "d": Periodic(timedelta(days=1)),
            },
        )

    def test_what_is_wrong_is_named(self) -> None:
        for given, text in (
            ([], "must be a dictionary of names or task paths and when to run, not []."),
            ({5: "1h"}, "has a key that is no text of 1 to 255 characters: 5."),
            ({"": "1h"}, "has a key that is no text"),
            (
                {"Report": Periodic("1h", task="a.b"), "report": Periodic("2h", task="a.b")},
                "has keys that are equal but for their case: 'Report' and 'report'.",
            ),
            ({"x" * 256: "1h"}, "has a key that is no text"),
            ({"x": "61 * * * *"}, '["x"]: '),
            ({"x": None}, '["x"]: '),
            ({"x": Periodic("* * * * *", timezone="Mars/Base")}, '["x"]: '),
        ):
            with (
                self.subTest(text),
                self.assertRaises(ImproperlyConfigured) as caught,
            ):
                parse_options("default", {"periodic": given})
            self.assertIn(f'{WHERE}["periodic"]', str(caught.exception))
            self.assertIn(text, str(caught.exception))

    def test_a_periodic_task_takes_its_first_four_by_position(self) -> None:
        given = Periodic("1h", None, None, "7d")
        self.assertEqual(given, Periodic("1h", retain="7d"))
        self.assertEqual((given.make_args(), given.make_kwargs()), ([], {}))

    def test_a_periodic_task_names_the_argument_that_is_wrong(self) -> None:
        for changes, error, text in (
            ({"catch_up": "some"}, ValueError, "catch_up must be one of"),
            ({"overlap": True}, ValueError, "overlap must be one of"),
            ({"args": "text"}, TypeError, "args must be a list"),
            ({"args": 5}, TypeError, "args must be a list"),
            ({"kwargs": [1]}, TypeError, "kwargs must be a dictionary"),
            ({"task": len}, TypeError, "task must be of type str"),
            ({"queue_name": 5}, TypeError, "queue_name must be of type str"),
            ({"priority": "x"}, TypeError, "priority must be of type int"),
            ({"retain": "long"}, ValueError, "retain must be a time up to 100 years"),
        ):
            with self.subTest(text), self.assertRaisesRegex(error, text):
                Periodic("1h", **changes)


class IdFunctionTests(SimpleTestCase):
    def made_from(self, value: Any) -> Any:
        return parse_options("default", {"id_function": value}).make_id

    def test_a_dotted_path_is_imported_when_it_is_first_used(self) -> None:
        self.assertIs(self.made_from("uuid.uuid4"), uuid.uuid4)
        options = parse_options("default", {"id_function": "tests.nowhere.function"})
        with self.assertRaisesMessage(
            ImproperlyConfigured, f'{WHERE}["id_function"] can\'t be imported: '
        ):
            options.make_id  # noqa: B018

    def test_pythons_uuid7_is_found_on_every_python(self) -> None:
        self.assertIs(self.made_from("uuid.uuid7"), uuid7)

    def test_a_path_to_something_that_cannot_be_called_is_refused(self) -> None:
        with self.assertRaisesMessage(
            ImproperlyConfigured, f"{WHERE}[\"id_function\"] must name a callable, not 'just text'."
        ):
            self.made_from("tests.test_options.NO_FUNCTION")

    def test_an_expression_needs_a_django_that_can_save_it(self) -> None:
        with (
            mock.patch("durable_tasks.options.EXPRESSION_IDS", False),
            self.assertRaisesMessage(ImproperlyConfigured, "need Django 6.0 or later"),
        ):
            self.made_from("django.db.models.Func")
        if EXPRESSION_IDS:
            self.assertIs(self.made_from("django.db.models.Func"), Func)
