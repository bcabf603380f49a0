"""Where the time of one job goes: CPU by thread and by step, and the server's share."""

import json
from typing import Any

from benchmarks.bench import Bench, CommandFailed
from benchmarks.contenders import OURS, OURS_QUIET
from benchmarks.setups import prepared

JOBS = (50_000, 2_000)
SECONDS = 90


def run(bench: Bench) -> None:
    part = bench.report.section(
        "costs",
        "where the time of one job goes, in microseconds of CPU a job (PostgreSQL)",
        runs={},
    )
    jobs = JOBS[bench.quick]
    workers = (OURS,) if bench.quick else (OURS, OURS_QUIET)
    for contender, setup in prepared(bench, *workers).items():
        for kind in ("sync",) if bench.quick else ("sync", "async"):
            try:
                bare = profile(setup, kind, jobs, "threads")
                told = profile(setup, kind, jobs, "steps")
            except CommandFailed as error:
                bench.report.left_out(f"profile of {kind} jobs", str(error), failed=True)
                continue
            name = f"{contender.name}, {kind}"
            part["runs"][name] = {"jobs": jobs, **bare, "steps": told["steps"]}
            show(bench, name, bare, told)


def profile(setup: Any, kind: str, jobs: int, how: str) -> dict[str, Any]:
    setup.empty()
    setup.run("enqueue", kind, str(jobs))
    told: dict[str, Any] = json.loads(setup.run("profile_worker", how, timeout=SECONDS))
    if told["missing"]:
        setup.bench.report.left_out("steps of the profile", f"not found: {told['missing']}.")
    return told


def show(bench: Bench, name: str, bare: dict[str, Any], told: dict[str, Any]) -> None:
    bench.report.note(
        f"\n{name}: {bare['wall']:.1f} us a job on the clock, of which the database server "
        f"{bare['server']:.1f} us of CPU on its core"
    )
    bench.report.table(
        ["thread", "us of CPU"], [[thread, f"{cost:.1f}"] for thread, cost in bare["threads"]]
    )
    bench.report.note("steps, their own time only (measuring them makes all slower):")
    bench.report.table(
        ["step", "thread", "calls a job", "us of CPU", "us waiting"],
        [
            [
                step["step"],
                step["thread"],
                *(f"{step[key]:.2f}" for key in ("calls", "cpu", "wait")),
            ]
            for step in told["steps"]
        ],
    )
