"""Jobs and stores for the tests of the store and of the chores."""

import json
import math
import threading
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from unittest import mock
from uuid import UUID

from django.test import TransactionTestCase
from django.utils import timezone

from durable_tasks.ids import uuid7
from durable_tasks.models import Job
from durable_tasks.store import Claim, Exchange, Finish, NewJob, Queues, Store, store_for
from durable_tasks.store import own_connection as make_own_connection

from ..helpers import WorkerTestCase

NOBODY = Queues("", ())


def new_job(**changes: Any) -> NewJob:
    """Return a job to insert."""
    now = timezone.now()
    values: dict[str, Any] = {
        "id": uuid7(),
        "status": "READY",
        "backend_name": "default",
        "queue_name": "default",
        "priority": 0,
        "task_path": "tests.app.store_tasks.again",
        "args": "[]",
        "kwargs": "{}",
        "run_after": None,
        "run_at": now,
        "enqueued_at": now,
    }
    return NewJob(**values | changes)


def make_jobs(count: int = 1, **changes: Any) -> list[Job]:
    """Insert jobs in any state; a change that is callable is asked with the job's number."""
    now = timezone.now()
    fields: dict[str, Any] = {
        "backend_name": "default",
        "queue_name": "default",
        "task_path": "tests.app.store_tasks.again",
        "run_at": now,
        "enqueued_at": now,
    }
    fields |= changes
    return Job.objects.bulk_create(
        (
            Job(**{name: value(n) if callable(value) else value for name, value in fields.items()})
            for n in range(count)
        ),
        batch_size=1000,
    )


def make_running(count: int = 1, worker_id: str = "w", **changes: Any) -> list[Job]:
    """Insert jobs that a worker has claimed once."""
    now = timezone.now()
    fields = {"attempts": 1, "lease": 1, "started_at": now, "last_attempted_at": now}
    return make_jobs(count, **{"status": "RUNNING", "worker_id": worker_id, **fields, **changes})


def state(id: UUID) -> dict[str, Any]:
    """Return every column of a job."""
    return Job.objects.filter(id=id).values().get()


def succeeded(claim: Claim, value: Any = 1) -> Finish:
    now = timezone.now()
    return Finish.succeeded(claim, json.dumps(value), started_at=now, finished_at=now)


def failed(claim: Claim, error: BaseException | None = None) -> Finish:
    now = timezone.now()
    return Finish.failed(
        claim, error or ValueError("no"), worker_id="w", started_at=now, finished_at=now
    )


def retried(claim: Claim, seconds: float, error: BaseException | None = None) -> Finish:
    now = timezone.now()
    return Finish.retried(
        claim,
        error or ValueError("no"),
        run_at=now + timedelta(seconds=seconds),
        worker_id="w",
        started_at=now,
        finished_at=now,
    )


def snoozed(claim: Claim, seconds: float) -> Finish:
    now = timezone.now()
    run_at = now + timedelta(seconds=seconds)
    return Finish.snoozed(claim, run_at=run_at, started_at=now, finished_at=now)


def rescued(claim: Claim, *, again: bool = True) -> Finish:
    return Finish.rescued(claim, RuntimeError("gone"), again=again, now=timezone.now())


class StoreTestCase(TransactionTestCase):
    """Gives ``self.store``: a store on a connection of its own, as a worker has it."""

    available_apps = WorkerTestCase.available_apps

    store: Store

    def setUp(self) -> None:
        self.store = self.open_store()

    def open_store(self, **options: Any) -> Store:
        """Return one more store on a connection of its own, with these ``OPTIONS`` on top."""
        connection = make_own_connection("default")
        connection.settings_dict["OPTIONS"].update(options)
        # A test may use it in a thread; one at a time.
        connection.inc_thread_sharing()
        self.addCleanup(connection.close)
        return store_for(connection, own=True)

    def exchange(
        self,
        finishes: Iterable[Finish] = (),
        want: int = 1000,
        names: Iterable[str] | None = None,
        *,
        excluded: Iterable[str] = (),
        worker_id: str = "w",
        store: Store | None = None,
        now: datetime | None = None,
    ) -> Exchange:
        """Exchange with the backend ``default``; ``names``: None for all queues."""
        return (store or self.store).exchange(
            list(finishes),
            want,
            queues=Queues("default", None if names is None else tuple(names), frozenset(excluded)),
            worker_id=worker_id,
            now=now or timezone.now(),
        )

    def claim(self, *args: Any, **kwargs: Any) -> list[Claim]:
        return self.exchange((), *args, **kwargs).claims

    def finish(self, *finishes: Finish, store: Store | None = None) -> set[UUID]:
        return (store or self.store).finish(finishes, now=timezone.now())

    def look_for_heads(self, names: Iterable[str] | None = None, *, often: bool = False) -> None:
        """Make claims of these queues start at heads, as they are now, or at every claim anew."""
        queues = Queues("default", None if names is None else tuple(names))
        self.claims_seem(slow=True)
        self.finish(*map(Finish.released, self.claim(1, names)))
        self.store.peek(queues)  # the first look
        self.claims_seem(slow=True, every=0.0 if often else 3600.0)
        self.store.peek(queues)

    def claims_seem(self, *, slow: bool, every: float = 0.0) -> None:
        """Let claims and looks seem slow, or not, with so many seconds between two looks."""
        limit = -math.inf if slow else math.inf
        limits = {"SLOW_EXCHANGE": limit, "SLOW_LOOK": limit, "SLOW_HEAD": math.inf}
        for name, value in {**limits, "EVERY": every}.items():
            patch = mock.patch(f"durable_tasks.store.heads.{name}", value)
            patch.start()
            self.addCleanup(patch.stop)

    def pass_time(self, seconds: float) -> None:
        """Let the monotonic clock be ahead from now on."""
        monotonic = time.monotonic
        patch = mock.patch("time.monotonic", side_effect=lambda: monotonic() + seconds)
        patch.start()
        self.addCleanup(patch.stop)

    def meets_conflict(self) -> threading.Event:
        """Return what is set as soon as the store has met a conflict that it tries again."""
        seen = threading.Event()
        is_busy = self.store.is_busy

        def watched(error: Exception) -> bool:
            if is_busy(error):
                seen.set()
                return True
            return False

        patch = mock.patch.object(self.store, "is_busy", watched)
        patch.start()
        self.addCleanup(patch.stop)
        return seen
