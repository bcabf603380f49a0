"""What it costs to count what ends, for the admin's charts: the same drain with and without."""

import json
import resource
from dataclasses import replace
from statistics import median

from benchmarks.bench import Bench, CommandFailed
from benchmarks.contenders import OURS, Contender
from benchmarks.drain import DRAIN_SECONDS
from benchmarks.setups import DrainFailed, Setup, prepared

FULL_ROUNDS, QUICK_ROUNDS = 8, 1
# Of the CPU time of a worker that counts, what one that does not takes.
SHARE = 0.98


def run(bench: Bench) -> None:
    rounds = QUICK_ROUNDS if bench.quick else FULL_ROUNDS
    part = bench.report.section(
        "counting", "a drain with and without the statistics, by turns", rounds=rounds
    )
    counts, counts_not = (
        replace(
            OURS,
            name=f"durable-tasks, statistics={statistics}",
            variables={"BENCH_OPTIONS": json.dumps({"statistics": statistics})},
        )
        for statistics in (True, False)
    )
    setups = prepared(bench, counts, counts_not)
    if len(setups) < 2:
        return
    spent: dict[Contender, list[float]] = {counts: [], counts_not: []}
    try:
        for number in range(rounds):
            for contender in (counts, counts_not) if number % 2 else (counts_not, counts):
                spent[contender].append(cpu_of_drain(setups[contender], OURS.jobs[bench.quick]))
    except (CommandFailed, DrainFailed) as error:
        bench.report.left_out("the cost of counting", str(error), failed=True)
        return
    medians = {contender.name: median(seconds) for contender, seconds in spent.items()}
    part["cpu_seconds"] = medians
    bench.report.table(
        ["worker", "CPU seconds"], [[name, f"{seconds:.2f}"] for name, seconds in medians.items()]
    )
    share = medians[counts_not.name] / medians[counts.name]
    bench.report.target("CPU time without statistics, of that with", share, at_least=SHARE)


def cpu_of_drain(setup: Setup, jobs: int) -> float:
    """Return the CPU seconds of a worker that drains so many jobs. Raises as ``drain()``."""
    setup.empty()
    setup.run("enqueue", "sync", str(jobs))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    setup.run_worker("--batch", timeout=DRAIN_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if (ended := setup.ended().count) != jobs:
        raise DrainFailed(f"{ended} of {jobs} jobs ended well.")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
