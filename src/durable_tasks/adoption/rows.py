"""One row of the other packages as one of our jobs: what becomes of it, and why not."""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from ..backend import DatabaseBackend
from ..chores.rescue import fails_if_lost, worker_lost
from ..compat import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from ..models import MAX_NAME, MAX_PATH, MAX_WORKER_ID, Job
from ..results import add_entry, add_error, cut_traceback, dumps, storable
from ..statuses import ENDED, JobStatus

# A row's columns, by what django-tasks-db calls them if the packages do not agree.
type OldRow = Mapping[str, Any]
# What becomes of jobs that were running; None: what becomes of a lost worker's.
type Running = Literal["retry", "fail"] | None

# django-tasks-db has 9999-01-01 where there is no ``run_after``; a time zone may move it.
NEVER = 9998


class Outcome(StrEnum):
    """What becomes of a row."""

    READY = "waiting, due now"
    SCHEDULED = "waiting, due later"
    AGAIN = "were running, to run again"
    LOST = "were running, failed as lost"
    SUCCESSFUL = "successful"
    FAILED = "failed"
    # Not moved
    THERE = "taken before"
    RAN = "taken before, and run by an old worker since"
    EXPIRED = "ended, and to be deleted by now"
    PERIODIC = "next runs of periodic tasks (the workers make their own)"


class BadRow(ValueError):
    """A row can't be a job; the message says why."""


def job_of(
    row: OldRow, *, backend: DatabaseBackend, running: Running, now: datetime
) -> tuple[Outcome, Job | None]:
    """Return what becomes of a row, and the job to insert if it becomes one.

    ``backend``: whose job it is to be. ``now``: database time. Raises ``BadRow`` or ``ValueError``.
    """
    status = row["status"]
    if status not in ("READY", "RUNNING", "SUCCESSFUL", "FAILED"):
        raise BadRow(f"its status is {status!r}")
    if status == JobStatus.READY and row.get("periodic"):
        return Outcome.PERIODIC, None
    job = _job(row, backend, now)
    job.status = status
    if job.status == JobStatus.READY:
        if job.run_at > now:
            job.status = JobStatus.SCHEDULED
        outcome = Outcome[job.status]
    elif job.status == JobStatus.RUNNING:
        fails = _fails(job, backend, running)
        job.status = JobStatus.FAILED if fails else JobStatus.READY
        job.finished_at = now if fails else None
        outcome = Outcome.LOST if fails else Outcome.AGAIN
    else:
        outcome = Outcome[job.status]
        job.finished_at = row.get("finished_at")
        job.delete_after = row.get("delete_after")
    if job.status in ENDED:
        _retain(job, backend)
        if job.delete_after is not None and job.delete_after <= now:
            return Outcome.EXPIRED, None
    return outcome, job


def _job(row: OldRow, backend: DatabaseBackend, now: datetime) -> Job:
    """Return the job with all but its status and what follows from that."""
    args, kwargs = _arguments(row)
    run_after = row.get("run_after")
    if run_after is not None and run_after.year >= NEVER:
        run_after = None
    path = _text(row, "task_path", MAX_PATH)
    job = Job(
        id=row["id"],
        backend_name=backend.alias,
        queue_name=_text(row, "queue_name", MAX_NAME),
        priority=_priority(row),
        task_path=path,
        args=args,
        kwargs=kwargs,
        run_after=run_after,
        run_at=run_after or min(row["enqueued_at"], now),  # its host's clock may be ahead
        enqueued_at=row["enqueued_at"],
        started_at=row.get("started_at"),
        last_attempted_at=row.get("started_at"),
        schedule=_schedule(path, backend) if row.get("periodic") else None,
    )
    _add_runs(job, row, backend.durable_options.max_lost, now)
    return job


def _schedule(path: str, backend: DatabaseBackend) -> str:
    """Return what our settings call the periodic task that enqueued a task; its path if unclear."""
    periodic = backend.durable_options.periodic
    names = [name for name, each in periodic.items() if (each.task or name) == path]
    return names[0] if len(names) == 1 else path


def _arguments(row: OldRow) -> tuple[list[Any], dict[str, Any]]:
    if "args_kwargs" not in row:
        return _json(row, "args", list), _json(row, "kwargs", dict)
    both = _json(row, "args_kwargs", dict)
    args, kwargs = both.get("args"), both.get("kwargs")
    if not (isinstance(args, list) and isinstance(kwargs, dict)):
        raise BadRow("args_kwargs has not a list as args and a dict as kwargs")
    return args, kwargs


def _add_runs(job: Job, row: OldRow, max_lost: int, now: datetime) -> None:
    """Add what is known of the runs so far: all but one that ended were lost with their worker."""
    workers = _json(row, "worker_ids", list) if row.get("worker_ids") else []
    owner = row.get("worker_id")
    if owner and owner not in workers:
        workers.append(owner)
    for worker in workers:
        if not isinstance(worker, str) or len(worker) > MAX_WORKER_ID:
            raise BadRow(f"worker_ids has {worker!r:.250}")
    status = row["status"]
    runs: list[str | None] = [*workers]
    if not runs and status != JobStatus.READY:
        runs = [None]
    ended = runs.pop() if status in ENDED else None
    job.attempts = len(runs) + (status in ENDED)
    job.lost = len(runs)
    errors: list[dict[str, Any]] = []
    for attempt, worker in enumerate(runs, 1):
        # Of earlier runs it is not known when they were, nor in history what it did not tell.
        is_last = status == JobStatus.RUNNING and attempt == job.attempts
        run: dict[str, Any] = {
            "attempt": attempt,
            "worker_id": worker,
            "started_at": row.get("started_at") if is_last else None,
            "finished_at": now if is_last else None,
        }
        if status in ENDED:
            errors = add_entry(errors, None, "", **run)
        else:
            errors = add_error(errors, worker_lost(worker, attempt, max_lost), **run)
    path = row.get("exception_class_path")
    if status == JobStatus.FAILED and path:
        errors = add_entry(
            errors,
            storable(path)[:MAX_PATH],
            cut_traceback(row.get("traceback") or ""),
            attempt=job.attempts,
            worker_id=ended,
            started_at=row.get("started_at"),
            finished_at=row.get("finished_at"),
        )
    else:
        job.worker_id = ended
    if status == JobStatus.SUCCESSFUL and row.get("return_value") is not None:
        job.return_value = _json(row, "return_value", object)
    if errors:
        job.errors = errors
        job.exception_class_path = errors[-1]["exception_class_path"]


def _fails(job: Job, backend: DatabaseBackend, running: Running) -> bool:
    """Return whether a job ends that was running: as its rescue would decide, unless it is said."""
    if running is not None:
        return running == "fail"
    # Running a task that is gone says what is wrong.
    return bool(fails_if_lost(job.task_path)) or job.lost >= backend.durable_options.max_lost


def _retain(job: Job, backend: DatabaseBackend) -> None:
    """Say when an ended job is to be deleted, if nothing has said so before."""
    if job.delete_after is None and job.finished_at is not None:
        rule = backend.retention.of(job.task_path, job.schedule)
        if rule is not None and (time := rule.time(job.status)) is not None:
            job.delete_after = job.finished_at + time


def _text(row: OldRow, name: str, limit: int) -> str:
    text = row[name]
    if not text or len(text) > limit:
        raise BadRow(f"{name} has {len(text or '')} characters, not 1 to {limit}")
    if storable(text) != text:
        raise BadRow(f"{name} contains what not every database can store: {text!r}")
    return str(text)


def _priority(row: OldRow) -> int:
    priority = row.get("priority", 0)
    if not isinstance(priority, int) or not TASK_MIN_PRIORITY <= priority <= TASK_MAX_PRIORITY:
        raise BadRow(
            f"its priority is {priority!r}, not {TASK_MIN_PRIORITY} to {TASK_MAX_PRIORITY}"
        )
    return priority


def _json(row: OldRow, name: str, kind: type) -> Any:
    """Return what a column has as JSON. Raises ``BadRow``, ``NotSerializable``."""
    try:
        value = json.loads(row[name])
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"{name} is no JSON: {error}") from error
    if not isinstance(value, kind):
        raise BadRow(f"{name} is {type(value).__name__}, not {kind.__name__}")
    dumps(value, name)
    return value
