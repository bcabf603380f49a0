"""What an idle worker costs: queries a second, CPU and memory; and its memory after many jobs."""

import time
from functools import partial
from typing import Any

from benchmarks import processes
from benchmarks.bench import Bench, CommandFailed, execute
from benchmarks.contenders import OURS, OURS_MYSQL, OURS_SQLITE, Contender
from benchmarks.setups import DrainFailed, Setup, peers, prepared
from tests.servers import database_from_url

# Seconds of silence first, so that what follows a start or a job is over: a worker that hears
# nothing looks often for 5 seconds. Then of the measure: a beat's time at least.
QUIET, WINDOW = (8.0, 6.0), (20.0, 7.5)
# Jobs that the worker runs before its memory is looked at again, so often.
BATCH, BATCHES = (100_000, 1_000), (10, 1)
BATCH_SECONDS = 120

QUERIES, MEMORY = 2, 75
# MiB that memory may grow from the first batch of jobs to the last.
GROWTH = 3


def run(bench: Bench) -> None:
    part = bench.report.section(
        "idle", "what an idle worker costs", workers=[], memory_after_jobs=[]
    )
    if not processes.KNOWN:
        bench.report.left_out("idle workers", "only Linux tells what a process uses.")
        return
    # Those that share a project are the same worker with another connection.
    setups = {
        (contender.project, contender.server): setup
        for contender, setup in reversed(
            prepared(bench, OURS, OURS_MYSQL, OURS_SQLITE, *peers(bench)).items()
        )
    }
    part["workers"] = [
        found for found in bench.each(reversed(setups.values()), partial(try_it, bench)) if found
    ]
    rows = []
    for found in part["workers"]:
        queries = found["queries_per_second"]
        rows.append(
            [
                found["contender"],
                "-" if queries is None else f"{queries:.1f}",
                f"{found['cpu_percent']:.1f} %",
                f"{found['memory_mib']:.0f}",
                str(found["processes"]),
            ]
        )
    bench.report.table(["idle worker", "queries/s", "CPU", "MiB", "processes"], rows)
    judge(bench, part)
    after_jobs(bench, part)


def try_it(bench: Bench, setup: Setup) -> dict[str, Any] | None:
    contender = setup.contender
    try:
        return {"contender": contender.name, **measure(bench, setup)}
    except CommandFailed as error:
        ours = contender.requirement is None
        bench.report.left_out(f"idle {contender.name}", str(error), failed=ours)
        return None


def measure(bench: Bench, setup: Setup) -> dict[str, Any]:
    with setup.worker() as worker:
        setup.run("enqueue", "sync" if "sync" in setup.contender.kinds else "async", "2")
        time.sleep(QUIET[bench.quick])
        worker.check()
        # What others do on a MariaDB server counts as well: that is looked at on its own below.
        queries, cpu, began = counted(bench, setup), processes.cpu_seconds(worker.pid), time.time()
        time.sleep(WINDOW[bench.quick])
        worker.check()
        seconds = time.time() - began
        cpu = processes.cpu_seconds(worker.pid) - cpu
        after = counted(bench, setup)
        rate = None if queries is None or after is None else (after - queries - 1) / seconds
        memory, family = processes.memory_mib(worker.pid), len(processes.family(worker.pid))
    if rate is not None and setup.contender.server == "mysql":
        rate -= background(bench, setup)
    return {
        "queries_per_second": None if rate is None else round(max(rate, 0.0), 2),
        "cpu_percent": round(100 * cpu / seconds, 2),
        "memory_mib": round(memory, 1),
        "processes": family,
    }


def background(bench: Bench, setup: Setup) -> float:
    """Return the queries a second that a MariaDB server has without our worker."""
    before = counted(bench, setup)
    time.sleep(WINDOW[bench.quick] / 2)
    after = counted(bench, setup)
    assert before is not None
    assert after is not None
    return (after - before - 1) / (WINDOW[bench.quick] / 2)


def counted(bench: Bench, setup: Setup) -> int | None:
    """Return how many statements the database has had; None for SQLite.

    PostgreSQL counts transactions, which a statement on its own is; asked for on another database.
    MariaDB counts the statements of all its clients.
    """
    kind = setup.contender.server
    if kind == "sqlite":
        return None
    elsewhere = database_from_url(bench.server(kind).url)
    if kind == "mysql":
        return int(execute(elsewhere, "SHOW GLOBAL STATUS LIKE 'Questions'")[1])
    name = setup.entry["NAME"]
    sql = f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'"
    return int(execute(elsewhere, sql)[0])


def after_jobs(bench: Bench, part: dict[str, Any]) -> None:
    """Let one worker run many jobs and look at its memory after each batch of them."""
    batch, batches = BATCH[bench.quick], BATCHES[bench.quick]
    sizes: list[tuple[int, float]] = []
    try:
        for setup in prepared(bench, OURS).values():
            with setup.worker() as worker:
                for number in range(1, batches + 1):
                    setup.run("enqueue", "sync", str(batch), timeout=BATCH_SECONDS)
                    setup.wait_until_ended(number * batch, worker, BATCH_SECONDS)
                    sizes.append((number * batch, processes.memory_mib(worker.pid)))
    except (CommandFailed, DrainFailed) as error:
        bench.report.left_out("memory after many jobs", str(error), failed=True)
    if not sizes:
        return
    part["memory_after_jobs"] = [{"jobs": jobs, "mib": round(mib, 1)} for jobs, mib in sizes]
    bench.report.note("")
    bench.report.table(
        ["jobs done by one worker", "MiB"], [[f"{jobs:,}", f"{mib:.1f}"] for jobs, mib in sizes]
    )
    if len(sizes) > 1:
        what = f"growth of memory from {sizes[0][0]:,} to {sizes[-1][0]:,} jobs"
        bench.report.target(what, sizes[-1][1] - sizes[0][1], at_most=GROWTH, unit=" MiB")


def judge(bench: Bench, part: dict[str, Any]) -> None:
    found = {entry["contender"]: entry for entry in part["workers"]}
    ours: tuple[Contender, ...] = (OURS, OURS_MYSQL, OURS_SQLITE)
    for contender in ours:
        if entry := found.get(contender.name):
            queries = entry["queries_per_second"]
            if queries is not None:
                what = f"idle {contender.name}: queries"
                bench.report.target(what, queries, at_most=QUERIES, unit="/s")
            what = f"idle {contender.name}: memory"
            bench.report.target(what, entry["memory_mib"], at_most=MEMORY, unit=" MiB")
