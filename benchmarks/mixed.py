"""How soon urgent jobs start while a worker is busy with a mix of slow and quick ones."""

import json

from benchmarks.bench import Bench, CommandFailed
from benchmarks.contenders import OURS
from benchmarks.latency import summary, wait_for_notes
from benchmarks.setups import DrainFailed, prepared

THREADS = 4
# Jobs of the two lower priorities that wait at first, and urgent ones that come one by one.
BACKLOG, URGENT = (2_000, 300), (150, 20)
SECONDS = 60
TARGET_P99 = 500


def run(bench: Bench) -> None:
    backlog, urgent = BACKLOG[bench.quick], URGENT[bench.quick]
    part = bench.report.section(
        "mixed",
        f"urgent jobs among others on {THREADS} threads; a tenth of all take 200 ms",
        backlog=backlog,
        urgent=urgent,
    )
    for setup in prepared(bench, OURS).values():
        notes = bench.folder() / "notes"
        threads = ("--threads", str(THREADS))
        part["command"] = setup.words(*threads)
        try:
            with setup.worker(*threads, BENCH_NOTES=str(notes)) as worker:
                told = setup.run("mix", str(backlog), str(urgent), timeout=SECONDS)
                calls = json.loads(told)
                starts = wait_for_notes(worker, notes, urgent, SECONDS)
                left = backlog + urgent - setup.ended().count
        except (CommandFailed, DrainFailed) as error:
            bench.report.left_out("mixed load", str(error), failed=True)
            return
        waits = [starts[str(number)] - before for number, before in enumerate(calls)]
        part |= summary(waits) | {"left": left}
        bench.report.note(f"{left:,} jobs were left when the last urgent one had started")
        heads = ["milliseconds to the start of an urgent job", "jobs", "p50", "p95", "p99"]
        values = [f"{part[key]:.1f}" for key in ("p50", "p95", "p99")]
        bench.report.table(heads, [["durable-tasks", str(urgent), *values]])
        what = f"pick-up of urgent jobs in a mixed load, p99, {THREADS} threads"
        bench.report.target(what, part["p99"], at_most=TARGET_P99, unit=" ms")
