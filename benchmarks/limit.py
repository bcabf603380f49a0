"""The limit of the protocol: the same statements with nothing around them but the driver.

A worker's exchanges are recorded once, with the batch sizes it really uses, and sent again on the
rows as they were: the same claims and finishes, with the same fences. What a worker reaches is
its share of that.
"""

import json
from statistics import median

from benchmarks.bench import Bench, CommandFailed
from benchmarks.contenders import OURS, OURS_QUIET
from benchmarks.drain import drain
from benchmarks.setups import DrainFailed, Setup, prepared

FULL_ROUNDS, QUICK_ROUNDS = 5, 1
SECONDS = 90
# Percent of the limit: with signals and default logging, and with nobody listening.
SHARES = {OURS: 60, OURS_QUIET: 80}


def run(bench: Bench) -> None:
    rounds = QUICK_ROUNDS if bench.quick else FULL_ROUNDS
    part = bench.report.section(
        "limit",
        "the same finish and claim statements, replayed by the driver alone",
        rounds=rounds,
        workers={},
    )
    setups = prepared(bench, *SHARES)
    if len(setups) < len(SHARES):
        return
    jobs = OURS.jobs[bench.quick]
    limits: list[float] = []
    rates: dict[str, list[float]] = {contender.name: [] for contender in setups}
    try:
        recorder = setups[OURS]
        recorder.empty()
        file = str(bench.folder() / "statements")
        recorder.run("enqueue", "sync", str(jobs))
        recorder.run("record", file, timeout=SECONDS)
        for _ in range(rounds):
            for contender, setup in setups.items():
                rates[contender.name].append(drain(setup, "sync", jobs)[0])
            limit, rows = replay(recorder, file, jobs)
            limits.append(limit)
    except (CommandFailed, DrainFailed) as error:
        bench.report.left_out("the limit", str(error), failed=True)
        return
    # Each statement returns the rows it finished and those it claimed.
    part["rows_per_statement"] = {"median": median(rows), "most": max(rows), "count": len(rows)}
    part["limit"] = round(median(limits), 1)
    bench.report.note(
        f"the limit: {part['limit']:,.0f} jobs/s, median of {rounds}; {len(rows)} statements, "
        f"each of which finished and claimed {median(rows):.0f} rows together (median)"
    )
    for contender in setups:
        rate = median(rates[contender.name])
        share = 100 * rate / part["limit"]
        part["workers"][contender.name] = {"rate": round(rate, 1), "share": round(share, 1)}
        what = f"share of the limit, {contender.name} ({rate:,.0f}/s)"
        bench.report.target(what, share, at_least=SHARES[contender], unit=" %")


def replay(recorder: Setup, file: str, jobs: int) -> tuple[float, list[int]]:
    """Return jobs per second and the rows of each statement. Raises ``DrainFailed``."""
    told = json.loads(recorder.run("replay", file, timeout=SECONDS))
    if told["ended"] != jobs:
        raise DrainFailed(f"{told['ended']} of {jobs} jobs ended when replayed.")
    return jobs / told["seconds"], told["rows"]
