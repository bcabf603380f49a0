"""How soon an idle worker starts a job: after enqueue(), and after its due time."""

import json
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench import Bench, CommandFailed, Started
from benchmarks.contenders import DJANGO_TASKS_DB, OURS, OURS_MYSQL, OURS_SQLITE
from benchmarks.figures import milliseconds, percentile
from benchmarks.setups import DrainFailed, Setup, peers, prepared

# How many jobs in a full and in a quick run, and the seconds between two: few and far between for
# a worker that only looks now and then.
SOON, RARE = (250, 10), (15, 2)
PAUSES = (0.03, 0.12)
RARE_PAUSES = (0.4, 1.6)
# After so long a silence the interval alone is what a polling worker has.
SILENCE, SILENT = (6.0, 7.0), (6, 0)
# Jobs due at a time that is further off than the interval (1 s), spread over so many seconds.
LATER, LATER_SPREAD = (150, 10), (12.0, 0.3)
LATER_PROBE = 1.2

START_SECONDS = 20
# What a worker does at its start shall be over.
SETTLE = (2.5, 0.5)

P50 = {OURS: 1.1, OURS_SQLITE: 5, OURS_MYSQL: 25}
P99 = {OURS: 3.5}
LATE_P95 = 20


def run(bench: Bench) -> None:
    part = bench.report.section(
        "latency",
        "milliseconds from the call of enqueue() to the start of the task, on an idle worker",
        commands={},
        results=[],
        deferred=[],
    )
    setups = prepared(bench, OURS, OURS_MYSQL, OURS_SQLITE, *peers(bench))
    if bench.all_peers:
        # Its wait is that of its interval, whether it keeps its connection or not.
        setups.pop(DJANGO_TASKS_DB, None)
    measured_ones = list(setups.values())
    found_by_setup = bench.each(measured_ones, partial(try_it, bench))
    for setup, measured in zip(measured_ones, found_by_setup, strict=True):
        part["commands"][setup.contender.name] = setup.words()
        for key, found in measured.items():
            part[key] += found
    heads = ["worker", "jobs", "p50", "p95", "p99"]
    bench.report.table(
        [*heads, "p50 from the commit"],
        [
            [found["contender"], str(found["jobs"]), *shown(found), f"{found['commit']:.2f}"]
            for found in part["results"]
        ],
    )
    bench.report.note("\nfrom the due time, which is further off than the interval, to the start")
    rows = [[found["contender"], str(found["jobs"]), *shown(found)] for found in part["deferred"]]
    bench.report.table(heads, rows)
    judge(bench, part)


def try_it(bench: Bench, setup: Setup) -> dict[str, list[dict[str, Any]]]:
    try:
        return measure(bench, setup)
    except (CommandFailed, DrainFailed) as error:
        name, ours = setup.contender.name, setup.contender.requirement is None
        bench.report.left_out(f"latency of {name}", str(error), failed=ours)
        return {}


def measure(bench: Bench, setup: Setup) -> dict[str, list[dict[str, Any]]]:
    """Return the results to add to the report, by their part."""
    contender, quick = setup.contender, bench.quick
    notes = bench.folder() / "notes"
    with setup.worker(BENCH_NOTES=str(notes)) as worker:
        setup.run("probe", "1", "0", "0")
        wait_for_notes(worker, notes, 1, START_SECONDS)
        time.sleep(SETTLE[quick])
        count, pauses = (RARE, RARE_PAUSES) if contender.polls else (SOON, PAUSES)
        found = probe(setup, worker, notes, count[quick], pauses)
        results = [{"contender": contender.name, **found}]
        if contender.requirement is not None:
            return {"results": results}
        if SILENT[quick]:
            found = probe(setup, worker, notes, SILENT[quick], SILENCE)
            name = f"{contender.name}, after {SILENCE[0]:.0f} s of silence"
            results.append({"contender": name, **found})
        found = deferred(bench, setup, worker, notes)
        return {"results": results, "deferred": [{"contender": contender.name, **found}]}


def shown(found: dict[str, Any]) -> list[str]:
    return [f"{found[key]:.2f}" for key in ("p50", "p95", "p99")]


def probe(
    setup: Setup, worker: Started, notes: Path, count: int, pauses: tuple[float, float]
) -> dict[str, Any]:
    """Enqueue jobs with pauses; return the percentiles of their waits in milliseconds."""
    notes.write_text("")  # the worker has it open and appends
    calls = json.loads(setup.run("probe", str(count), *map(str, pauses)))
    starts = wait_for_notes(worker, notes, count, START_SECONDS)
    waits = [starts[str(number)] - before for number, (before, _) in enumerate(calls)]
    commits = [starts[str(number)] - after for number, (_, after) in enumerate(calls)]
    return {**summary(waits), "commit": milliseconds(median(commits))}


def deferred(bench: Bench, setup: Setup, worker: Started, notes: Path) -> dict[str, Any]:
    """Enqueue jobs that are due later; return how late they start in milliseconds."""
    count, spread = LATER[bench.quick], LATER_SPREAD[bench.quick]
    notes.write_text("")
    dues = json.loads(setup.run("later", str(count), str(LATER_PROBE), str(LATER_PROBE + spread)))
    starts = wait_for_notes(worker, notes, count, START_SECONDS + spread)
    return summary([starts[str(number)] - due for number, due in enumerate(dues)])


def summary(waits: list[float]) -> dict[str, Any]:
    return {
        "jobs": len(waits),
        **{f"p{percent}": milliseconds(percentile(waits, percent)) for percent in (50, 95, 99)},
        "worst": milliseconds(max(waits)),
    }


def wait_for_notes(worker: Started, notes: Path, count: int, timeout: float) -> dict[str, float]:
    """Return when each task started, by its mark. Raises ``DrainFailed``, ``CommandFailed``."""
    until = time.monotonic() + timeout
    while True:
        lines = notes.read_text().splitlines() if notes.exists() else []
        if len(lines) >= count:
            return {mark: float(at) for mark, at in map(str.split, lines)}
        worker.check()
        if time.monotonic() > until:
            raise DrainFailed(f"{len(lines)} of {count} jobs started within {timeout:.0f} s.")
        time.sleep(0.1)


def judge(bench: Bench, part: dict[str, Any]) -> None:
    found = {entry["contender"]: entry for entry in part["results"]}
    for key, targets in (("p50", P50), ("p99", P99)):
        for contender, target in targets.items():
            if entry := found.get(contender.name):
                what = f"pick-up latency {key}, {contender.name}"
                bench.report.target(what, entry[key], at_most=target, unit=" ms")
    for entry in part["deferred"]:
        what = f"start after the due time p95, {entry['contender']}"
        bench.report.target(what, entry["p95"], at_most=LATE_P95, unit=" ms")
