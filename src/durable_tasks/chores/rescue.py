"""Jobs of workers that are gone run again, or fail."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ..exceptions import TaskNotFound, WorkerLost
from ..execute import is_marked
from ..results import find_task
from ..store import Claim, Finish, Store
from ..store.registry import Registry, WorkerRow


@dataclass(slots=True)
class Rescued:
    """What a rescue did.

    ``living``: the other rows, of all backends. ``next_look``: microseconds of database time, when
    to look again.
    """

    workers: list[WorkerRow] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)
    next_look: int | None = None
    living: list[WorkerRow] = field(default_factory=list, compare=False)


def tick(
    store: Store,
    now: datetime,
    *,
    seen: int,
    backend_name: str,
    timeout: float,
    max_lost: int,
    is_gone: Callable[[WorkerRow], bool],
) -> Rescued:
    """Remove the rows of this backend's lost workers and rescue the jobs nobody owns.

    ``seen``: the present, as workers write it (database time in microseconds). ``timeout``:
    seconds after which a worker counts as lost. ``max_lost``: a job fails that was lost so often:
    it may be what ends its workers. ``is_gone``: whether a worker's process is known to
    have ended, so that there is nothing to wait for.
    """
    report = Rescued()
    registry = Registry(store)
    # Before the rows of workers: a worker adds its row before it claims and removes it last.
    owners = store.owners()
    for row in registry.all():
        expires = row.last_seen + int(timeout * 1_000_000)
        if row.backend_name != backend_name:
            pass  # its own backend's workers know its timeout
        elif (expires <= seen or is_gone(row)) and registry.remove(row):
            report.workers.append(row)
            continue
        elif report.next_look is None or expires < report.next_look:
            report.next_look = expires
        report.living.append(row)
    known = {row.id for row in report.living}
    for owner in owners:
        if owner not in known:
            # What runs without a worker, where it was enqueued, has no row: but not of a backend
            # that has workers.
            report.finishes += rescue_jobs(
                store, owner, now, max_lost=max_lost, backend_name=backend_name
            )
    return report


def rescue_jobs(
    store: Store,
    worker_id: str,
    now: datetime,
    *,
    max_lost: int,
    backend_name: str | None = None,
) -> list[Finish]:
    """Rescue every RUNNING job of a lost worker; return the finishes that counted.

    ``backend_name``: the backend whose jobs to rescue, or None for all.
    """
    done: list[Finish] = []
    while claims := store.held_by(worker_id, backend_name=backend_name):
        if Registry(store).find(worker_id):  # a new life adds its row before it claims
            break
        finishes = [_decide(claim, now, max_lost) for claim in claims]
        counted = store.finish(finishes, now=now)
        done += [finish for finish in finishes if finish.counted]
        if not counted:  # another worker was faster
            break
    return done


def _decide(claim: Claim, now: datetime, max_lost: int) -> Finish:
    fails = fails_if_lost(claim.task_path)
    if fails is None:
        # Only the start of a task that fails is written before its first loss. Otherwise running it
        # says what is wrong.
        fails = claim.lost == 0 and claim.started_lease == claim.lease
    if is_marked(claim, fails=fails) and claim.started_lease != claim.lease:
        return Finish.unstarted(claim)
    times = claim.lost + 1
    error = worker_lost(claim.worker_id, times, max_lost)
    return Finish.rescued(claim, error, again=not fails and times < max_lost, now=now)


def fails_if_lost(path: str) -> bool | None:
    """Return whether a task fails when its worker is lost; None if there is no such task."""
    try:
        return getattr(find_task(path), "on_worker_lost", "retry") == "fail"
    except TaskNotFound:
        return None


def worker_lost(worker_id: str | None, times: int, max_lost: int) -> WorkerLost:
    """Return the error of a job whose worker was lost, for the ``times``-th time."""
    error = WorkerLost(f"The worker {worker_id!r} was lost while it had this job.")
    if times >= max_lost:
        error.add_note(f"Lost {times} times: the job may be what ends its workers.")
    return error
