"""For a project's tests: run what was enqueued, look at what waits, move the clock.

``run_tasks()`` runs jobs in the test's own thread and transaction; ``RunnerTestCase`` has a runner
beside the test, as in production.
"""

from .enqueued import assert_enqueued, enqueued_tasks, refute_enqueued
from .live import LiveRunner, RunnerTestCase, live_runner
from .run import arun_task, arun_tasks, run_task, run_tasks
from .time import FrozenTime, frozen_time

__all__ = [
    "FrozenTime",
    "LiveRunner",
    "RunnerTestCase",
    "arun_task",
    "arun_tasks",
    "assert_enqueued",
    "enqueued_tasks",
    "frozen_time",
    "live_runner",
    "refute_enqueued",
    "run_task",
    "run_tasks",
]
