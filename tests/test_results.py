import json
import math
import pickle
from collections import OrderedDict, UserDict, UserList, deque
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pytest
from django.test import SimpleTestCase
from django.utils import timezone

from durable_tasks.compat import TaskError
from durable_tasks.exceptions import NotSerializable
from durable_tasks.results import (
    MAX_TRACEBACK,
    JobError,
    add_error,
    class_path,
    dumps,
    format_traceback,
    storable,
)

from .app.models import Effect

pytestmark = pytest.mark.any_database

nan, inf = math.nan, math.inf


class DumpsTests(SimpleTestCase):
    def assert_refused(self, value: Any, text: str) -> None:
        with self.assertRaises(NotSerializable) as caught:
            dumps(value, "args")
        self.assertIn(text, str(caught.exception))

    def test_what_json_carries_comes_back(self) -> None:
        for value in (
            None,
            [True, 0, -1.5, 10**30, "", "ü🎈\x7f", [], {}],
            {"a": {"b": [None]}},
            # Text that only looks like a NUL or a surrogate.
            ["\\u0000", "\\\\u0000", "\\ud800", 'a"\\u0000'],
            {"\\u0000": "\\"},
        ):
            with self.subTest(value=value):
                self.assertEqual(json.loads(dumps(value, "args")), value)

    def test_what_djangos_api_allows_is_made_json(self) -> None:
        cases: list[tuple[Any, Any]] = [
            ((1, (2,)), [1, [2]]),
            ([b"bytes"], ["bytes"]),
            (OrderedDict(a=1), {"a": 1}),
            (MappingProxyType({"a": (b"b",)}), {"a": ["b"]}),
            (UserDict(a=UserList([1])), {"a": [1]}),
            (
                {1: "a", None: "b", False: "c", 2.5: "d"},
                {"1": "a", "null": "b", "false": "c", "2.5": "d"},
            ),
        ]
        for value, expected in cases:
            with self.subTest(value=value):
                self.assertEqual(json.loads(dumps(value, "args")), expected)

    def test_what_json_cannot_carry_is_refused_with_its_place(self) -> None:
        cases: list[tuple[Any, str]] = [
            (nan, "args is nan, which JSON can't carry."),
            ([1, inf], "args[1] is inf"),
            ({"a": [{"b": -inf}]}, "args['a'][0]['b'] is -inf"),
            (["x", "a\0b"], "args[1] contains a NUL character"),
            ({"a\0": 1}, "a key of args contains a NUL character"),
            ([[b"\0"]], "args[0][0] contains a NUL character"),
            (["\\u0000", "\0"], "args[1] contains a NUL character"),
            ({"k": "\ud800"}, "args['k'] contains a lone surrogate"),
            ({"\udfff": 1}, "a key of args contains a lone surrogate"),
            ([b"\xff"], "args[0] is bytes that are not UTF-8"),
            ([{1}], "args[0] is of type set"),
            ({"when": datetime(2026, 1, 1)}, "args['when'] is of type datetime"),
            ([object], "args[0] is of type type"),
            ([MappingProxyType({"a": nan})], "args[0]['a'] is nan"),
            (UserDict(a=deque([complex(1)])), "args['a'][0] is of type complex"),
            ({(1, 2): 3}, "args has a key of type tuple: (1, 2)"),
            ({frozenset(): 3}, "args has a key of type frozenset"),
            ({nan: 1}, "a key of args is nan"),
        ]
        for value, text in cases:
            with self.subTest(value=ascii(value)):
                self.assert_refused(value, text)

    def test_a_value_that_contains_itself_is_refused(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        self.assert_refused(loop, "args")
        deep: Any = 1
        for _ in range(200_000):
            deep = [deep]
        self.assert_refused(deep, "nested too deeply")
        while isinstance(deep, list):  # not by the garbage collector's recursion
            deep = deep[0]

    def test_a_number_too_long_to_print_is_refused(self) -> None:
        self.assert_refused([10**5000], "args can't be stored")

    def test_no_space_is_wasted(self) -> None:
        self.assertEqual(dumps({"a": [1, "ü"]}, "x"), '{"a":[1,"ü"]}')


class ErrorTests(SimpleTestCase):
    def add(self, errors: list[dict[str, Any]] | None, exception: BaseException, n: int = 1) -> Any:
        return add_error(
            errors,
            exception,
            attempt=n,
            worker_id="w",
            started_at=timezone.now(),
            finished_at=timezone.now(),
        )

    def test_an_entry_says_who_when_and_why(self) -> None:
        now = timezone.now()
        [entry] = add_error(
            None, KeyError("k"), attempt=2, worker_id=None, started_at=None, finished_at=now
        )
        self.assertEqual(
            entry,
            {
                "attempt": 2,
                "worker_id": None,
                "started_at": None,
                "finished_at": now.isoformat(),
                "exception_class_path": "builtins.KeyError",
                "traceback": "KeyError: 'k'\n",
            },
        )

    def test_the_first_and_the_last_nine_are_kept(self) -> None:
        errors = None
        for n in range(1, 16):
            before = list(errors or ())
            made = self.add(errors, ValueError(n), n)
            self.assertEqual(errors or [], before)  # not changed in place
            errors = made
        self.assertEqual([entry["attempt"] for entry in errors], [1, *range(7, 16)])

    def test_a_long_traceback_loses_its_middle(self) -> None:
        text = format_traceback(ValueError("begin" + "x" * MAX_TRACEBACK + "end"))
        self.assertTrue(text.startswith("ValueError: begin"))
        self.assertTrue(text.endswith("end\n"))
        total = len("ValueError: begin" + "x" * MAX_TRACEBACK + "end\n")
        self.assertIn(f"[... {total - MAX_TRACEBACK} characters left out ...]", text)
        self.assertLess(len(text), MAX_TRACEBACK + 100)

    def test_an_exception_that_cannot_be_printed_still_makes_an_entry(self) -> None:
        class Broken(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no")

        class Worse(Exception):
            @property
            def __cause__(self) -> Any:  # type: ignore[override]
                raise RuntimeError("no cause either")

        for exception in (Broken(), Worse()):
            [entry] = self.add(None, exception)
            self.assertIn(type(exception).__name__, entry["traceback"])
            self.assertTrue(dumps(entry, "errors"))

    def test_text_that_no_database_takes_is_written_out(self) -> None:
        self.assertEqual(storable("a\0b\ud800c\udfff"), "a\\x00b\\ud800c\\udfff")
        [entry] = self.add(None, ValueError("a\0b", "\ud800"))
        self.assertTrue(dumps(entry, "errors"))
        [entry] = self.add(None, ValueError("a\0b"))
        self.assertEqual(entry["traceback"], "ValueError: a\\x00b\n")

    def test_a_class_path_fits_its_column(self) -> None:
        self.assertEqual(class_path(NotSerializable()), "durable_tasks.exceptions.NotSerializable")
        long = type("E" * 300, (Exception,), {})
        self.assertEqual(len(class_path(long())), 255)


class JobErrorTests(SimpleTestCase):
    class Inner(Exception):
        class Innermost(Exception):
            pass

        nothing = None

    def class_of(self, path: str) -> type[BaseException]:
        return JobError(exception_class_path=path, traceback="").exception_class

    def test_classes_inside_of_classes_are_found(self) -> None:
        for found in (ValueError, NotSerializable, Effect.DoesNotExist, self.Inner):
            self.assertIs(self.class_of(f"{found.__module__}.{found.__qualname__}"), found)
        path = f"{__name__}.JobErrorTests.Inner.Innermost"
        self.assertIs(self.class_of(path), self.Inner.Innermost)

    def test_what_is_not_found_is_told_as_django_tells_it(self) -> None:
        class Local(Exception):
            pass

        for path in (
            class_path(Local()),
            f"{__name__}.JobErrorTests.Inner.nothing",
            f"{__name__}.JobErrorTests.Inner.Gone",
            "tests.gone.Error",
            "tests.gone.Outer.Error",
            "gone.Error",
            "gone",
            "os.path",
        ):
            with self.subTest(path):
                raised: list[BaseException] = []
                for kind in (TaskError, JobError):
                    with self.assertRaises((ImportError, ValueError)) as caught:
                        _ = kind(exception_class_path=path, traceback="").exception_class
                    raised.append(caught.exception)
                self.assertEqual(*map(repr, raised))

    def test_it_is_like_djangos_own(self) -> None:
        facts = {"exception_class_path": "builtins.KeyError", "traceback": "text"}
        ours, djangos = JobError(**facts), TaskError(**facts)
        self.assertTrue(ours == djangos == ours == JobError(**facts))
        self.assertEqual(len({ours, djangos}), 1)
        self.assertNotEqual(ours, JobError(**facts | {"traceback": ""}))
        self.assertNotEqual(djangos, JobError(**facts | {"traceback": ""}))
        self.assertNotEqual(ours, "text")
        self.assertEqual(pickle.loads(pickle.dumps(ours)), ours)
        self.assertEqual(
            repr(ours), "JobError(exception_class_path='builtins.KeyError', traceback='text')"
        )
