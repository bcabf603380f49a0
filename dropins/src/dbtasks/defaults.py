"""Defaults."""

# Seconds between two looks for work.
DEFAULT_RUNNER_LOOP_DELAY = 1.0
