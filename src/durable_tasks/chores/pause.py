"""What one worker knows of pauses: what it claims from, and which jobs it moves for them."""

from collections.abc import Iterable
from typing import Any

from ..store import Claim, Finish, Pauses, Queues, Store
from ..store.queues import Stamp

# Seconds after which a worker with work looks again, and an idle one while something is paused.
EVERY = 0.5
# Steps that a look for jobs which were forgotten may take.
STEPS = 20


class Pausing:
    """Follows the pauses of a backend and does what they ask for, a step at a time.

    ``queues``: those that are served. ``pauses``: what was paused when the worker said hello. Times
    are monotonic seconds.
    """

    def __init__(self, store: Store, queues: Queues, pauses: Pauses) -> None:
        self._store = store
        self._served = queues
        self.queues = queues.without(pauses.queue_names)  # those that are not paused
        self.pauses = pauses
        self._stamp: Stamp | None = None
        self._looked_at = float("-inf")
        self._met = False  # a claim met a job of a paused task: there may be more behind it
        self._steps = 0.0  # how many more may be taken to make PAUSED jobs READY
        self._after: Any = None  # where to go on with that

    def is_due(self, now: float) -> bool:
        """Return whether what is known is too old to claim by."""
        return now - self._looked_at >= EVERY

    @property
    def has_work(self) -> bool:
        """Whether ``step()`` is due."""
        return self._met or self._steps > 0

    def look(self, now: float) -> bool:
        """Look at the pauses; return as ``note()``."""
        return self.note(self._store.stamp(self._served.backend_name), now)

    def note(self, stamp: Stamp, now: float) -> bool:
        """Note what a look saw, and read the pauses if they have changed; return whether so."""
        before, self._stamp = self._stamp, stamp
        self._looked_at = now
        if before is None or (before.count, before.sum) != (stamp.count, stamp.sum):
            pauses = Pauses()
            if stamp.count:
                pauses = self._store.pauses(self._served.backend_name).of(self._served)
            # This worker may be about to save jobs as PAUSED.
            parked = stamp.parked or bool(self.pauses.task_paths)
            changed, self.pauses = pauses != self.pauses, pauses
            self.queues = self._served.without(pauses.queue_names)
            self._met = bool(pauses.task_paths)
            self._after, self._steps = None, float("inf") if parked else 0
            return changed
        return False

    def look_for_forgotten(self) -> None:
        """Have PAUSED jobs looked for whose task is not paused: their worker may have died.

        Takes a limited number of steps: where no index knows their tasks, all jobs of tasks that
        are still paused are read on the way.
        """
        if self._stamp is not None and self._stamp.parked:
            self._steps = max(self._steps, STEPS)

    def step(self) -> bool:
        """Do a part of what is left to do; return whether jobs became READY."""
        if self._met:
            self._met = self._store.pause(self.queues, self.pauses.task_paths) > 0
        if self._steps <= 0:
            return False
        resumed = self._store.resume(self._served.backend_name, self.pauses.task_paths, self._after)
        self._after = resumed.after
        self._steps = 0 if resumed.after is None else self._steps - 1
        return resumed.jobs > 0

    def sort(self, claims: Iterable[Claim]) -> tuple[list[Claim], list[Finish]]:
        """Return which claims may run, and what becomes of the others."""
        runs: list[Claim] = []
        back: list[Finish] = []
        for claim in claims:
            if claim.task_path in self.pauses.task_paths:
                back.append(Finish.paused(claim))
                self._met = True
            elif claim.queue_name in self.pauses.queue_names:
                back.append(Finish.released(claim))
            else:
                runs.append(claim)
        return runs, back
