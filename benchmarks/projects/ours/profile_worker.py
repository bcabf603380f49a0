"""``python -m profile_worker threads|steps``: drain the queue and tell what each job cost.

``threads``: only the CPU clock of each thread is read, at its end: nothing is disturbed.
``steps``: the functions in STEPS are wrapped. A step's time is its own: without the steps that it
calls. Prints JSON, in microseconds a job.
"""

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402

# What a step is called here, and where it is.
STEPS = {
    "driver: send, wait, read rows": "psycopg:Cursor.execute",
    "driver: make Python rows": "psycopg:Cursor.fetchall",
    "store: exchange": "durable_tasks.store.base:Store.exchange",
    "loop: take what ended": "durable_tasks.worker.loop:Loop._drain",
    "loop: a turn": "durable_tasks.worker.loop:Loop._turn",
    "loop: settle": "durable_tasks.worker.loop:Loop._settle",
    "loop: dispatch": "durable_tasks.worker.loop:Loop._dispatch",
    "thread: tidy connections": "durable_tasks.worker.pools:tidy_connections",
    "run: execute": "durable_tasks.execute:Executor.execute",
    "run: aexecute's call": "durable_tasks.execute:Executor._call",
    "run: make the ending": "durable_tasks.execute:Executor._succeeded",
    "coroutines: start a group": "durable_tasks.worker.pools:CoroutinePool._fill",
    "announce: a start is queued": "durable_tasks.worker.announce:Announcer.started",
    "announce: starts": "durable_tasks.announcements:Announcements.start",
    "announce: ends": "durable_tasks.announcements:Announcements.ends",
    "announce: results for receivers": "durable_tasks.execute:Executor._task_of",
    "announce: send, log": "durable_tasks.worker.announce:announce",
}

MICRO = 1e6
TICKS_A_SECOND = 100

Totals = dict[tuple[str, str], list[float]]


def main(how: str) -> dict[str, Any]:
    totals: Totals = defaultdict(lambda: [0.0, 0.0, 0.0])
    missing = [
        path for step, path in STEPS.items() if how == "steps" and not wrap(step, path, totals)
    ]
    jobs = tasks_left()
    threads = watch_threads()
    server, started = server_ticks(), time.thread_time()
    call_command("db_worker", batch=True, startup_delay=False, reload=False, threads=1)
    threads["main, which runs sync tasks"] = time.thread_time() - started
    return {
        "missing": ", ".join(missing),
        "wall": per_job(seconds_on_the_clock(), jobs),
        "server": per_job((server_ticks() - server) / TICKS_A_SECOND, jobs),
        "threads": [
            [name, per_job(seconds, jobs)]
            for name, seconds in sorted(threads.items(), key=lambda entry: -entry[1])
        ],
        "steps": [
            {
                "step": step,
                "thread": thread,
                "calls": round(calls / jobs, 3),
                "cpu": per_job(cpu, jobs),
                "wait": per_job(max(wall - cpu, 0.0), jobs),
            }
            for (step, thread), (calls, cpu, wall) in sorted(
                totals.items(), key=lambda entry: -entry[1][1]
            )
            if cpu / jobs * MICRO >= 0.05
        ],
    }


def per_job(seconds: float, jobs: int) -> float:
    return round(seconds / jobs * MICRO, 2)


def tasks_left() -> int:
    from durable_tasks.models import Job

    return Job.objects.filter(status="READY").count()


def seconds_on_the_clock() -> float:
    from django.db.models import Max, Min

    from durable_tasks.models import Job

    rows = Job.objects.aggregate(first=Min("started_at"), last=Max("finished_at"))
    return (rows["last"] - rows["first"]).total_seconds()


def watch_threads() -> dict[str, float]:
    """Note each thread's CPU time when it ends."""
    found: dict[str, float] = defaultdict(float)
    run = threading.Thread.run

    def run_and_note(self: threading.Thread) -> None:
        try:
            run(self)
        finally:
            found[self.name] += time.thread_time()

    threading.Thread.run = run_and_note  # type: ignore[method-assign]
    return found


def server_ticks() -> int:
    """Return the CPU ticks of PostgreSQL's processes on this machine, running and ended."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        if name.endswith("(postgres"):
            total += sum(map(int, rest.split()[11:15]))
    return total


def wrap(step: str, path: str, totals: Totals) -> bool:
    """Time a function; return whether it is there."""
    module_name, _, names = path.partition(":")
    *owners, name = names.split(".")
    try:
        owner: Any = import_module(module_name)
        for each in owners:
            owner = getattr(owner, each)
        function = getattr(owner, name)
    except (ImportError, AttributeError):
        return False
    setattr(owner, name, timed(step, function, totals))
    return True


# For each thread, the steps that it is in: the CPU and wall clock seconds of the steps inside.
_inside = threading.local()


def timed(step: str, function: Callable[..., Any], totals: Totals) -> Callable[..., Any]:
    cpu_clock, wall_clock = time.thread_time, time.perf_counter

    def call(*args: Any, **kwargs: Any) -> Any:
        stack = _inside.__dict__.setdefault("stack", [])
        stack.append([0.0, 0.0])
        cpu, wall = cpu_clock(), wall_clock()
        try:
            return function(*args, **kwargs)
        finally:
            cpu, wall = cpu_clock() - cpu, wall_clock() - wall
            cpu_inside, wall_inside = stack.pop()
            total = totals[step, threading.current_thread().name]
            total[0] += 1
            total[1] += cpu - cpu_inside
            total[2] += wall - wall_inside
            if stack:
                stack[-1][0] += cpu
                stack[-1][1] += wall

    return call


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
