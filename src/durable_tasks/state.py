"""What there is now: the depth of queues, workers, schedules that are late.

Every count has a limit, so that a look costs the same with a million rows.
"""

from dataclasses import dataclass

# Counts stop here: "10,000+".
MOST = 10_000


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows; ``is_more``: there are more, which nobody has counted."""

    value: int
    is_more: bool = False

    def __str__(self) -> str:
        return f"{self.value:,}{'+' if self.is_more else ''}"
