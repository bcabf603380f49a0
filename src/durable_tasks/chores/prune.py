"""Ended jobs are deleted when they are old enough."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, OperationalError

from ..store import Store

# Seconds between two looks for jobs that are due to be deleted, more or less.
EVERY = 60.0
# The fewest and the most jobs in a batch.
FEWEST, MOST = 50, 1000
# Seconds: the first and the longest pause after a conflict with others.
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many jobs were deleted, and the seconds until the next look.

    ``done``: whether this is the end of a round. ``kept``: then, how many stay although they are
    due, since other rows refer to them.
    """

    jobs: int
    pause: float
    done: bool = False
    kept: int = 0


class Pruning:
    """Deletes the jobs whose time to stay is over, a batch at a time."""

    def __init__(self) -> None:
        self._limit = FEWEST
        self._since: datetime | None = None  # where the last batch ended, if there is more
        # Of those that are due since then, the ones to which other rows refer.
        self._without: set[UUID] = set()
        self._kept = 0  # how many of those there were in this round
        self._after_conflict = FIRST_PAUSE

    def tick(self, store: Store, now: datetime) -> Pruned:
        """Delete at most one batch of what is due at ``now`` (database time).

        While there is more it pauses for as long as a batch takes, so that others get their turns.
        A job that another row refers to stays until the next round; smaller and smaller batches
        find it. Raises ``DatabaseError`` but for an ordinary conflict.
        """
        limit = self._limit
        began = time.monotonic()
        try:
            jobs, last = store.prune_due(now, limit, since=self._since, without=self._without)
        except IntegrityError:
            if limit == 1:
                self._pass_by(store, now)
            self._limit = max(1, limit // 2)
            return Pruned(0, time.monotonic() - began)
        except OperationalError as error:
            if not store.is_busy(error):
                raise
            pause = self._after_conflict
            self._after_conflict = min(pause * 2, LONGEST_PAUSE)
            return Pruned(0, pause * random.uniform(0.5, 1.5))
        self._after_conflict = FIRST_PAUSE
        took = time.monotonic() - began
        if jobs < limit:
            report = Pruned(jobs, self.pause(), done=True, kept=self._kept)
            self._kept = 0
            self._go_on_since(None)
            return report
        self._go_on_since(last)
        if took > store.prune_for:
            self._limit = max(FEWEST, limit // 2)
        elif took < store.prune_for / 2:
            self._limit = min(MOST, limit * 2)
        return Pruned(jobs, took)

    def finish(self, store: Store, now: datetime) -> int:
        """Delete all that is due at ``now`` (database time); return how many jobs that were.

        Raises like ``tick()``.
        """
        deleted = 0
        while not (pruned := self.tick(store, now)).done:
            deleted += pruned.jobs
            time.sleep(pruned.pause)
        return deleted + pruned.jobs

    def _pass_by(self, store: Store, now: datetime) -> None:
        """Leave out the next one, which can't be deleted, until the next round."""
        found = store.longest_due(now, since=self._since, without=self._without)
        if found is not None:
            id, due = found
            self._go_on_since(due)
            self._without.add(id)
            self._kept += 1
            if len(self._without) > MOST:  # all of one moment: too many to name in a statement
                self._go_on_since(due + timedelta(microseconds=1))

    def _go_on_since(self, due: datetime | None) -> None:
        if due != self._since:
            self._since = due
            self._without.clear()

    def pause(self) -> float:
        """Return the seconds until a look: not all workers at once."""
        return EVERY * random.uniform(0.5, 1.5)


def prune(
    store: Store,
    *,
    statuses: Sequence[str],
    before: datetime,
    backend_name: str,
    queue_names: Sequence[str] | None,
) -> Iterator[int]:
    """Delete jobs that ended in ``statuses`` before ``before``, in batches.

    ``queue_names``: None for all. Yields the number deleted by each batch.
    """
    while deleted := store.prune(
        statuses, before, backend_name=backend_name, queue_names=queue_names
    ):
        yield deleted
