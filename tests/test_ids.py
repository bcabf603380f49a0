import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from django.db.models import Value
from django.test import SimpleTestCase

from durable_tasks.compat import EXPRESSION_IDS
from durable_tasks.exceptions import DurableTasksError
from durable_tasks.ids import checked_id, uuid7

pytestmark = pytest.mark.any_database


class Uuid7Tests(SimpleTestCase):
    def test_it_is_of_version_7_and_carries_the_time(self) -> None:
        before = time.time_ns() // 1_000_000
        made = uuid7()
        after = time.time_ns() // 1_000_000
        self.assertEqual((made.version, made.variant), (7, uuid.RFC_4122))
        self.assertGreaterEqual(made.int >> 80, before)
        self.assertLessEqual(made.int >> 80, after)

    def test_each_is_greater_than_the_one_before(self) -> None:
        made = [uuid7() for _ in range(10_000)]
        self.assertEqual(made, sorted(set(made)))
        self.assertEqual([id.hex for id in made], sorted(id.hex for id in made))

    def test_threads_make_no_id_twice(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: [uuid7() for _ in range(1000)], range(8)))
        self.assertEqual(len({id for ids in made for id in ids}), 8000)
        for ids in made:
            self.assertEqual(ids, sorted(ids))


if sys.version_info < (3, 14):

    class OurUuid7Tests(SimpleTestCase):
        """What we can only know of our own implementation."""

        def test_a_clock_that_stands_still_or_goes_back_changes_no_order(self) -> None:
            # Beyond all that was made before, so that this clock decides.
            start = time.time_ns() + 10**9
            clock = [start, start, start, start - 10**9, start + 1]
            with (
                mock.patch("durable_tasks.ids._last_stamp", 0),
                mock.patch("durable_tasks.ids.time.time_ns", side_effect=clock),
            ):
                made = [uuid7() for _ in clock]
            self.assertEqual(made, sorted(set(made)))
            self.assertEqual({id.int >> 80 for id in made}, {start // 1_000_000})

        def test_random_bits_differ(self) -> None:
            low = {uuid7().int & (1 << 62) - 1 for _ in range(100)}
            self.assertEqual(len(low), 100)


class CheckedIdTests(SimpleTestCase):
    def test_uuids_and_strings_of_uuids_are_taken(self) -> None:
        made = uuid.uuid4()
        for given in (made, str(made), made.hex.upper()):
            with self.subTest(given):
                self.assertEqual(checked_id(given), made)

    def test_expressions_are_taken_where_django_can_save_them(self) -> None:
        expression = Value(uuid.uuid4())
        if EXPRESSION_IDS:
            self.assertIs(checked_id(expression), expression)
        else:
            with self.assertRaisesMessage(DurableTasksError, "need Django 6.0 or later"):
                checked_id(expression)

    def test_anything_else_is_an_error_that_shows_it(self) -> None:
        for given in ("", "42", "not-a-uuid", 42, None, b"0" * 16, uuid.UUID):
            with (
                self.subTest(given),
                self.assertRaisesMessage(DurableTasksError, f"not {given!r}."),
            ):
                checked_id(given)
