"""When a failed job runs again: pure rules."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import SimpleTestCase

from durable_tasks import Retry, exponential, fixed, steps
from durable_tasks.retry import LONGEST, Policy, seconds_of

pytestmark = pytest.mark.any_database


def after(failures: int, lost: int = 0) -> Any:
    """A result that has failed so often."""
    return SimpleNamespace(attempts=failures + lost, lost_runs=lost)


def waits(backoff: Any, count: int) -> list[float]:
    return [backoff(ValueError(), after(failures)) for failures in range(1, count + 1)]


class BackoffTests(SimpleTestCase):
    def test_exponential_waits_grow_to_their_maximum(self) -> None:
        backoff = exponential(base=2, factor=3, maximum=50, jitter=0)
        self.assertEqual(waits(backoff, 5), [2, 6, 18, 50, 50])
        self.assertEqual(backoff(ValueError(), after(100_000)), 50)

    def test_lost_runs_make_no_wait_longer(self) -> None:
        backoff = exponential(jitter=0)
        self.assertEqual(backoff(ValueError(), after(2, lost=5)), 2)

    def test_jitter_is_a_share_of_the_wait(self) -> None:
        backoff = exponential(base=100, jitter=0.2)
        found = [backoff(ValueError(), after(1)) for _ in range(300)]
        self.assertTrue(all(80 <= wait <= 120 for wait in found), found)
        self.assertTrue(min(found) < 95 and max(found) > 105, "they spread")

    def test_fixed_waits_are_all_alike(self) -> None:
        self.assertEqual(waits(fixed(7), 3), [7, 7, 7])

    def test_steps_end_with_the_last_for_ever(self) -> None:
        self.assertEqual(waits(steps(1, 10, timedelta(minutes=1)), 5), [1, 10, 60, 60, 60])  # type: ignore[arg-type]

    def test_what_makes_no_sense_is_refused(self) -> None:
        nan = float("nan")
        for make in (
            lambda: exponential(base=-1),
            lambda: exponential(factor=0.5),
            lambda: exponential(maximum=nan),
            lambda: exponential(jitter=2),
            lambda: fixed(-1),
            lambda: fixed(1, jitter=-0.1),
            lambda: steps(),
            lambda: steps(1, nan),
        ):
            with self.assertRaises(ValueError):
                make()

    def test_a_delay_is_seconds_or_a_timedelta(self) -> None:
        self.assertEqual(seconds_of(3, "x"), 3.0)
        self.assertEqual(seconds_of(timedelta(minutes=2), "x"), 120.0)
        for wrong in ("3", True, None, [3]):
            with self.assertRaisesMessage(
                TypeError, f"x must be seconds or a timedelta, not {wrong!r}"
            ):
                seconds_of(wrong, "x")
        for wrong in (-1, float("nan"), float("inf"), LONGEST * 1.1):
            with self.assertRaisesMessage(ValueError, "x must be 0 seconds to 100 years"):
                seconds_of(wrong, "x")


class PolicyTests(SimpleTestCase):
    def delay(self, exception: BaseException, runs: int = 1, **rules: Any) -> float | None:
        policy = Policy(**{"max_attempts": 3, "backoff": fixed(5), **rules})
        return policy.delay(exception, runs, lambda: after(runs))

    def test_there_are_no_more_runs_than_attempts(self) -> None:
        found = [self.delay(ValueError(), runs) for runs in (1, 2, 3, 4)]
        self.assertEqual(found, [5, 5, None, None])

    def test_only_some_exceptions_are_worth_another_run(self) -> None:
        self.assertEqual(self.delay(KeyError(), retry_on=(LookupError,)), 5)
        self.assertIsNone(self.delay(ValueError(), retry_on=(LookupError,)))
        self.assertIsNone(self.delay(KeyError(), give_up_on=(KeyError,)))
        self.assertIsNone(self.delay(KeyError(), retry_on=(LookupError,), give_up_on=(KeyError,)))
        self.assertEqual(self.delay(IndexError(), give_up_on=(KeyError,)), 5)

    def test_an_exit_is_no_failure_to_repeat(self) -> None:
        for exception in (SystemExit(), KeyboardInterrupt(), GeneratorExit()):
            self.assertIsNone(self.delay(exception))

    def test_backoff_may_give_up(self) -> None:
        self.assertIsNone(self.delay(ValueError(), backoff=lambda exception, result: None))

    def test_backoff_sees_the_exception_and_the_result(self) -> None:
        def backoff(exception: BaseException, result: Any) -> timedelta:
            return timedelta(seconds=len(str(exception)) + result.attempts)

        self.assertEqual(self.delay(ValueError("four"), 2, backoff=backoff), 6)

    def test_a_task_may_ask_for_a_retry(self) -> None:
        self.assertEqual(self.delay(Retry(after=9)), 9)
        self.assertEqual(self.delay(Retry(after=timedelta(minutes=1))), 60)
        self.assertEqual(self.delay(Retry()), 5)
        # Whatever else is said about exceptions, but not beyond the attempts.
        self.assertEqual(self.delay(Retry(after=9), retry_on=(KeyError,)), 9)
        self.assertIsNone(self.delay(Retry(after=9), 3))

    def test_what_backoff_should_not_have_returned_is_named(self) -> None:
        with self.assertRaisesMessage(TypeError, "What backoff returns must be seconds"):
            self.delay(ValueError(), backoff=lambda exception, result: "soon")
