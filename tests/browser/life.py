"""A project that works: a made-up week, workers, jobs in each status. The same each time."""

import time
import uuid
from datetime import timedelta
from random import Random

from django.utils import timezone

from durable_tasks import clock
from durable_tasks.models import Job, Pause, PeriodicTask, Worker
from durable_tasks.schedules import parse_schedule
from example import past


def make_life() -> None:
    """Fill all tables. The workers' rows are of no process: nothing here runs."""
    past.make_past()
    chance = Random(7)
    now = int(time.time())
    for name, ago, wish in (("shop-1", 2, None), ("shop-2", 4, None), ("shop-3", 3, "drain")):
        make_worker(name, ago, wish)
    for number in range(6):
        kind = past.KINDS[number]
        make_job(
            chance,
            kind,
            now - 1 - number,
            status="RUNNING",
            worker_id=f"shop-{number % 2 + 1}",
            started_at=past.at(now, number + 0.5),
            last_attempted_at=past.at(now, number + 0.5),
            attempts=1,
        )
    for number in range(23):
        make_job(chance, chance.choice(past.KINDS[:3]), now - 1.2 * number)
    for number in range(41):
        due = past.at(now, -60 * number - 10)
        make_job(chance, past.KINDS[2], now - 60 * number - 20, status="SCHEDULED", run_at=due)
    for number in range(12):
        make_job(chance, past.KINDS[6], now - 90 * number - 40, status="PAUSED")
    Pause.objects.create(
        backend_name="default",
        task_path=past.KINDS[6].path,
        paused_at=past.at(now, 1500),
        paused_by="ada",
    )
    past.make_schedule(
        *(chance, "default", now, "Sales of the day", past.REPORT),
        *("0 6 * * 1-5", "database", 40 * past.DAY),
    )


def beat() -> None:
    """Let the workers be alive and the schedules be on time, as of now."""
    Worker.objects.update(last_seen=int((time.time() - 3) * 1e6))
    now = clock.now()
    for row in PeriodicTask.objects.all():
        row.next_run_at = parse_schedule(row.spec, timezone=row.time_zone).next(now)
        row.save()


def make_worker(name: str, seconds_ago: float, wish: str | None = None) -> Worker:
    return Worker.objects.create(
        id=name,
        life=uuid.uuid4(),
        backend_name="default",
        host="web-1",
        pid=4200 + int(name[-1]),
        process_started="1",
        queues="all",
        started_at=timezone.now() - timedelta(hours=5),
        last_seen=int((time.time() - seconds_ago) * 1e6),
        capacity=12,
        threads=4,
        coroutines=8,
        version="0.1.0",
        memory=96 * 2**20,
        wish=wish,
    )


def make_job(chance: Random, kind: past.Kind, seconds: float, **changes: object) -> Job:
    at = timezone.now() - timedelta(seconds=time.time() - seconds)
    order = chance.randint(4000, 5000)
    fields = {
        "id": past.id_at(seconds, chance),
        "status": "READY",
        "backend_name": "default",
        "queue_name": kind.queue,
        "task_path": kind.path,
        "args": [order if value == "order" else value for value in kind.args],
        "kwargs": kind.kwargs,
        "run_at": at,
        "enqueued_at": at,
        "lease": 1,
    }
    return Job.objects.create(**fields | changes)
