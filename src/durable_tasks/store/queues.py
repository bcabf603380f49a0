"""Which queues a worker serves, what of them is paused, and what a look at them sees."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues that a worker serves: ``names``, or all of its backend's but ``excluded``."""

    backend_name: str
    names: tuple[str, ...] | None
    excluded: frozenset[str] = frozenset()

    def serve(self, name: str) -> bool:
        """Return whether the worker serves this queue."""
        return name not in self.excluded if self.names is None else name in self.names

    def without(self, names: Collection[str]) -> "Queues":
        """Return these queues but for some."""
        if not names:
            return self
        if self.names is None:
            return replace(self, excluded=self.excluded.union(names))
        return replace(self, names=tuple(name for name in self.names if name not in names))

    def __str__(self) -> str:
        if self.names is not None:
            return ", ".join(self.names)
        return "all but " + ", ".join(sorted(self.excluded)) if self.excluded else "all"


@dataclass(frozen=True, slots=True)
class Pauses:
    """What is paused: queues and tasks of one backend."""

    queue_names: frozenset[str] = frozenset()
    task_paths: frozenset[str] = frozenset()

    def of(self, queues: "Queues") -> "Pauses":
        """Return what of this is of interest to who serves these queues."""
        return replace(self, queue_names=frozenset(filter(queues.serve, self.queue_names)))

    def __bool__(self) -> bool:
        return bool(self.queue_names or self.task_paths)

    def __str__(self) -> str:
        parts = [f"queue {name}" for name in sorted(self.queue_names)]
        return ", ".join(parts + [f"task {path}" for path in sorted(self.task_paths)])


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes with the pauses of a backend: how many there are, and the sum of their ids.

    ``parked``: whether any job is PAUSED, of whatever backend.
    """

    count: int = 0
    sum: int = 0
    parked: bool = False


@dataclass(frozen=True, slots=True)
class Peek:
    """What an idle worker sees: is a job READY, and when is the next SCHEDULED one due?

    ``pauses``: whether these have changed.
    """

    ready: bool
    next_due: datetime | None
    pauses: Stamp


@dataclass(frozen=True, slots=True)
class Resumed:
    """How many PAUSED jobs became READY; ``after``: where to go on, None if all were looked at."""

    jobs: int
    after: Any = None
