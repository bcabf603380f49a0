"""The shop's past week, made up: what workers would have counted, some jobs that ended, errors.

So that the pages have something to show from the first moment. It is the same each time, but for
the dates. It ends about where the customers of demo.py go on: a chart that falls or leaps at that
moment would look like trouble.
"""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import exp, pi, sin
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from durable_tasks.histogram import bucket
from durable_tasks.models import ErrorGroup, Job, PeriodicTask, Statistic
from durable_tasks.schedules import Crontab

HOUR = 3600
DAY = 24 * HOUR
# Seconds that rows of a length of period cover, as workers keep them; of those of an hour, a week.
KEPT = {60: 3 * HOUR, 600: 3 * DAY, 3600: 7 * DAY}
# Yesterday the bank was away: from so many seconds ago to so many.
AWAY = (25.5 * HOUR, 24.5 * HOUR)
# Samples that stand for all runs of a row.
SAMPLES = 12


@dataclass(frozen=True)
class Error:
    """``weight``: how common it is among the task's errors."""

    exception: str
    place: str
    message: str
    weight: int = 1


@dataclass(frozen=True)
class Kind:
    """What a task did: runs an hour at noon, seconds of a run, and the share that failed."""

    path: str
    queue: str
    hourly: float
    seconds: float
    failing: float = 0.0
    retries: bool = False
    errors: tuple[Error, ...] = ()
    # Of the jobs that are made; "order" stands for an order's number.
    args: tuple = ("order",)
    kwargs: dict = field(default_factory=dict)
    returns: str = "done"


AWAY_ERROR = Error(
    "shop.services.BankAway", "shop/services.py in charge", "The bank does not answer"
)
COUNT = Kind("shop.tasks.count_stock", "warehouse", 60, 0.004, args=(), returns="41 to pack")
REPORT = Kind("shop.reports.sales_report", "reports", 12, 0.004, args=(), returns="7,310 euros")
KINDS = (
    Kind("shop.tasks.confirm_order", "default", 2200, 0.008, returns="sent to ada@example.com"),
    Kind("shop.tasks.pack_order", "warehouse", 2200, 0.007, returns="packed, attempt 1"),
    Kind(
        "shop.tasks.charge_card",
        "default",
        2200,
        0.003,
        failing=0.38,
        errors=(
            Error(
                "shop.tasks.PaymentDeclined",
                "shop/tasks.py in charge_card",
                "899.00 euros are above the card's limit of 500",
                weight=5,
            ),
            AWAY_ERROR,
        ),
        returns="charged 19.00 euros",
    ),
    Kind(
        "shop.tasks.book_courier",
        "warehouse",
        2200,
        0.001,
        failing=0.37,
        retries=True,
        errors=(
            Error("shop.services.CourierBusy", "shop/services.py in book", "All vans are out", 10),
            Error("builtins.KeyError", "shop/services.py in price_to", "'Atlantis'"),
        ),
        returns="van 7",
    ),
    Kind(
        "shop.tasks.make_thumbnail", "default", 4400, 0.004, args=("mug.pgm",), kwargs={"width": 8}
    ),
    Kind("shop.tasks.ask_suppliers", "default", 750, 0.3, args=("mug",)),
    Kind(
        "shop.tasks.write_invoice",
        "reports",
        1100,
        2.7,
        failing=0.09,
        errors=(
            Error("builtins.OSError", "shop/services.py in render", "The printer is out of ink"),
        ),
    ),
    COUNT,
    Kind(
        "shop.tasks.save_card",
        "default",
        460,
        0.001,
        args=("Ada",),
        kwargs={"card_number": "4111 1111 1111 1111"},
    ),
    REPORT,
)
# What there is at noon: jobs that are ready, running and scheduled.
DEPTHS = {"default": (2, 1, 7), "reports": (0, 1, 0), "warehouse": (1, 0.5, 2)}


def make_past(*, backend="default", jobs=240, seed=6):
    """Make a week of statistics, groups of errors, and so many jobs of the last hours."""
    chance = random.Random(seed)
    now = int(timezone.now().timestamp())
    Statistic.objects.bulk_create(statistics(chance, backend, now), 500, ignore_conflicts=True)
    made = Job.objects.bulk_create(ended_jobs(chance, backend, now, jobs), 100)
    ErrorGroup.objects.bulk_create(error_groups(chance, backend, now, made[-1].id))
    make_schedule(chance, backend, now, "Count the stock", COUNT, "* * * * *", "settings", HOUR)
    make_schedule(chance, backend, now, "Sales so far", REPORT, "*/5 * * * *", "database", 3 * HOUR)


def liveliness(ago):
    """Return how much goes on, from 0 to 1, so many seconds ago: it is afternoon now."""
    return 0.12 + 0.88 * max(0.0, sin(pi * (((14.5 * HOUR - ago) / DAY) % 1 - 0.21) / 0.72)) ** 1.5


def trouble(kind, ago):
    """Return the share of runs that failed so many seconds ago."""
    bank = AWAY_ERROR in kind.errors and AWAY[0] > ago > AWAY[1]
    return 0.95 if bank else kind.failing


# Statistics


def statistics(chance, backend, now):
    for period, kept in KEPT.items():
        for begins in range(now // period * period, now - kept, -period):
            # The current period has only begun; workers go on with it.
            seconds = min(period, now - begins)
            ago = now - begins - seconds / 2
            for kind in KINDS:
                if row := counted(chance, kind, ago, seconds):
                    yield Statistic(
                        backend_name=backend,
                        period=period,
                        begins=begins,
                        queue_name=kind.queue,
                        task_path=kind.path,
                        **row,
                    )
            for queue in DEPTHS:
                yield Statistic(
                    backend_name=backend,
                    period=period,
                    begins=begins,
                    queue_name=queue,
                    **depth(chance, queue, ago),
                )


def counted(chance, kind, ago, seconds):
    expected = kind.hourly * seconds / HOUR * liveliness(ago)
    total = round(max(0.0, chance.gauss(expected, expected**0.5)))
    if not total:
        return None
    bad = sum(chance.random() < trouble(kind, ago) for _ in range(min(total, 200)))
    bad = round(bad * total / min(total, 200))
    # Of those that are tried again, few fail for good.
    failed = bad // 100 if kind.retries else bad
    late = 3.0 if AWAY[0] > ago > AWAY[1] else 1.0
    return {
        "failed": failed,
        "retried": bad - failed,
        "successful": total - bad,
        "cancelled": int(chance.random() < 0.01),
        "runs": histogram(chance, kind.seconds * late, 0.5, total),
        "waits": histogram(chance, (0.006 + 0.02 * liveliness(ago) ** 4) * late, 0.9, total),
    }


def histogram(chance, seconds, spread, total):
    """Return a histogram of ``total`` times around ``seconds``."""
    made = {}
    samples = min(total, SAMPLES)
    for number in range(samples):
        share = total // samples + (number < total % samples)
        key = str(bucket(seconds * exp(chance.gauss(0, spread))))
        made[key] = made.get(key, 0) + share
    return made


def depth(chance, queue, ago):
    busy, (ready, running, scheduled) = liveliness(ago), DEPTHS[queue]
    jam = 140 if queue == "default" and AWAY[0] + 600 > ago > AWAY[1] - 1200 else 0
    return {
        "ready": round(
            max(0.0, chance.gauss(ready * busy**3, 0.5)) + jam * chance.uniform(0.7, 1.1)
        ),
        "running": min(8, round(max(0.0, chance.gauss(running * busy, 0.5)))),
        "scheduled": round(max(0.0, chance.gauss(scheduled * busy, 1))),
    }


# Schedules


def make_schedule(chance, backend, now, name, kind, spec, source, since):
    """Make a periodic task that ran whenever it was due, for so many seconds; workers go on."""
    schedule = Crontab(spec, timezone="UTC")
    # What was due later than this may still run.
    last = at(now, 10)
    dues = list(schedule.dates(at(now, since), last))[-20:]
    runs = [ended_job(chance, backend, now, now - due.timestamp(), kind, False) for due in dues]
    for run in runs:
        run.schedule = name
    Job.objects.bulk_create(runs)
    PeriodicTask.objects.create(
        backend_name=backend,
        name=name,
        task_path=kind.path,
        spec=spec,
        time_zone="UTC",
        args=[],
        kwargs={},
        queue_name=kind.queue,
        priority=0,
        catch_up="latest",
        overlap="allow",
        definition="",
        next_run_at=schedule.next(last),
        last_run_at=dues[-1],
        last_job_id=runs[-1].id,
        last_job_ids=[str(run.id) for run in runs],
        source=source,
    )


# Errors


def error_groups(chance, backend, now, last_job_id):
    for kind in KINDS:
        weights = sum(error.weight for error in kind.errors)
        for error in kind.errors:
            hours = {}
            for begins in range(now // HOUR * HOUR, now - 7 * DAY, -HOUR):
                ago = now - begins
                share = trouble(kind, ago) if error is AWAY_ERROR else kind.failing
                share *= error.weight / weights
                expected = kind.hourly * liveliness(ago) * share
                if count := round(max(0.0, chance.gauss(expected, expected**0.5))):
                    hours[str(begins)] = count
            if hours:
                yield ErrorGroup(
                    backend_name=backend,
                    exception_class_path=error.exception,
                    place=error.place,
                    count=sum(hours.values()),
                    hours=hours,
                    first_seen=at(now, 7 * DAY),
                    last_seen=at(now, chance.uniform(20, 0.6 * HOUR)),
                    message=error.message,
                    task_path=kind.path,
                    last_job_id=last_job_id,
                )


# Jobs


def ended_jobs(chance, backend, now, count):
    """Yield jobs of the last two hours, the oldest first."""
    weights = [kind.hourly for kind in KINDS]
    for number in range(count):
        ago = 2 * HOUR * (1 - number / count) + 5
        [kind] = chance.choices(KINDS, weights)
        bad = chance.random() < kind.failing and kind.errors
        yield ended_job(chance, backend, now, ago, kind, bad)


def ended_job(chance, backend, now, ago, kind, bad):
    again = chance.randint(1, 4) if bad and kind.retries else 0
    failed = bool(bad) and again in (0, 4)
    # What is tried again needs its time.
    ago += 2.0 ** (again + 1) if again else 0
    worker = f"shop-{chance.randint(1, 2)}"
    errors, runs, due = [], [], ago
    for attempt in range(1, again + 2):
        start = due - chance.uniform(0.02, 0.4)
        end = start - kind.seconds * exp(chance.gauss(0, 0.4))
        runs.append((at(now, start), at(now, end)))
        if attempt <= again or failed:
            error = chance.choices(kind.errors, [each.weight for each in kind.errors])[0]
            errors.append(entry(error, kind, attempt, worker, *runs[-1]))
        if attempt <= again:
            due = end - 2.0 ** (attempt - 1) * chance.uniform(0.8, 1.0)
    order = chance.randint(4000, 5000)
    return Job(
        id=id_at(now - ago, chance),
        status="FAILED" if failed else "SUCCESSFUL",
        backend_name=backend,
        queue_name=kind.queue,
        priority=10 if kind.path.endswith("pack_order") else 0,
        task_path=kind.path,
        args=[order if value == "order" else value for value in kind.args],
        kwargs=kind.kwargs,
        run_at=at(now, due),
        enqueued_at=at(now, ago),
        started_at=runs[0][0],
        last_attempted_at=runs[-1][0],
        finished_at=runs[-1][1],
        attempts=len(runs),
        lease=len(runs),
        worker_id=None if failed else worker,
        return_value=None if failed else kind.returns,
        errors=errors or None,
        exception_class_path=error.exception if errors else None,
        error_place=error.place if errors else None,
    )


def entry(error, kind, attempt, worker, started, finished):
    file, _, function = error.place.partition(" in ")
    module, _, task = kind.path.rpartition(".")
    return {
        "attempt": attempt,
        "worker_id": worker,
        "started_at": started.isoformat(),
        "finished_at": finished.isoformat(),
        "exception_class_path": error.exception,
        "traceback": "Traceback (most recent call last):\n"
        f'  File "/srv/{module.replace(".", "/")}.py", line 48, in {task}\n'
        f"    return {function}(order)\n"
        f'  File "/srv/{file}", line 23, in {function}\n'
        f"    raise {error.exception.rpartition('.')[2]}(text)\n"
        f"{error.exception.removeprefix('builtins.')}: {error.message}\n",
    }


def at(now, ago):
    """Return the time so many seconds ago, as Django's settings want it."""
    time = datetime.fromtimestamp(now - ago, UTC)
    return time if settings.USE_TZ else timezone.make_naive(time)


def id_at(seconds, chance):
    """Return an id as of that time: the admin's list is in the order of ids."""
    high = int(seconds * 1000) << 16 | 0x7000 | chance.getrandbits(12)
    return UUID(int=high << 64 | 0b10 << 62 | chance.getrandbits(62))
