"""For a project's tests."""

from typing import Any

from durable_tasks import testing

from .runner import Runner

__all__ = ["RunnerTestCase"]


class LiveRunner(testing.LiveRunner, Runner):
    """A ``Runner`` for a test."""

    def __init__(self, *, interval: float, periodic: bool, **more: Any) -> None:
        super().__init__(loop_delay=interval, init_periodic=periodic, **more)


class RunnerTestCase(testing.RunnerTestCase):
    """Tests beside which a runner works, at ``self.runner``."""

    runner_class = LiveRunner
    runner: LiveRunner
