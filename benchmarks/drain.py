"""How fast one worker process drains a queue of no-op tasks on PostgreSQL, beside its peers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.bench import Bench, CommandFailed, execute, shown
from benchmarks.contenders import OURS, PEERS, Contender, ensure_environment
from tests.servers import Missing

FULL_ROUNDS, QUICK_ROUNDS = 5, 1
# Our rate divided by that of the first peer, each with its default settings.
TARGETS = {"sync": 10, "async": 15}

SETUP_SECONDS = 60
DRAIN_SECONDS = 90


class DrainFailed(Exception):
    """A worker ended, but not all jobs did."""


@dataclass(slots=True)
class Rates:
    """Jobs per second and the wall clock of each round, for one contender and kind of task."""

    contender: Contender
    kind: str
    jobs: int
    rates: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.rates)


def run(bench: Bench) -> None:
    """Measure everybody in turn, round by round, and compare."""
    rounds = QUICK_ROUNDS if bench.quick else FULL_ROUNDS
    part = bench.report.section(
        "drain",
        "no-op tasks that return their argument, results kept, one worker process",
        rounds=rounds,
        commands={},
        results=[],
        ratios=[],
    )
    try:
        part["server"] = bench.server("postgres").version
    except Missing as missing:
        bench.report.left_out("drain on PostgreSQL", str(missing))
        return
    bench.report.note(f"{part['server']}; rates are medians of {rounds}, process start excluded")
    databases = {}
    for contender in (OURS, *PEERS):
        try:
            databases[contender] = {"default": prepare(bench, contender)}
        except CommandFailed as error:
            bench.report.left_out(contender.name, str(error), failed=contender is OURS)
        else:
            part["commands"][contender.name] = shown(command(contender))
    measured = {
        (contender.name, kind): Rates(contender, kind, contender.jobs[bench.quick])
        for kind in TARGETS
        for contender in databases
    }
    try:
        for _ in range(rounds):
            one_round(bench, measured, databases)
    finally:
        # What was measured before the time was up is worth showing.
        show(bench, part, [rates for rates in measured.values() if rates.rates])


def command(contender: Contender) -> list[str]:
    return [contender.python, "-m", "django", *contender.worker]


def prepare(bench: Bench, contender: Contender) -> dict[str, Any]:
    """Install a contender and make its database with its tables."""
    ensure_environment(bench, contender)
    entry = {**bench.make_database("postgres"), **contender.database}
    python(bench, contender, {"default": entry}, "-m", "django", "migrate", "-v0")
    return entry


def python(
    bench: Bench,
    contender: Contender,
    databases: Mapping[str, Any],
    *words: str,
    timeout: float = SETUP_SECONDS,
) -> None:
    bench.run(
        [contender.python, *words],
        project=contender.project,
        databases=databases,
        timeout=timeout,
        path=contender.path,
    )


def one_round(
    bench: Bench, measured: dict[tuple[str, str], Rates], databases: dict[Contender, Any]
) -> None:
    """Drain once for each contender and kind; one that fails is out of all further rounds."""
    for key, rates in list(measured.items()):
        contender = rates.contender
        try:
            rate, wall = drain(bench, contender, databases[contender], rates.kind, rates.jobs)
        except (CommandFailed, DrainFailed) as error:
            what = f"{contender.name} ({rates.kind})"
            bench.report.left_out(what, str(error), failed=contender is OURS)
            del measured[key]
        else:
            rates.rates.append(rate)
            rates.walls.append(wall)


def drain(
    bench: Bench, contender: Contender, databases: Mapping[str, Any], kind: str, jobs: int
) -> tuple[float, float]:
    """Enqueue jobs and let a worker drain them; return jobs per second and wall clock seconds.

    The rate is of the time between the first start and the last finish that the rows tell. Raises
    ``CommandFailed``, and ``DrainFailed`` if a job did not end well or its result is not kept.
    """
    entry = databases["default"]
    execute(entry, f"TRUNCATE {contender.table}")
    python(bench, contender, databases, "-m", "enqueue", kind, str(jobs))
    began = time.monotonic()
    python(bench, contender, databases, *command(contender)[1:], timeout=DRAIN_SECONDS)
    wall = time.monotonic() - began
    kept, seconds = execute(
        entry,
        "SELECT count(*) FILTER (WHERE status = 'SUCCESSFUL' AND return_value IS NOT NULL),"
        " extract(epoch FROM max(finished_at) - min(started_at))::float"
        f" FROM {contender.table}",
    )
    if kept != jobs:
        raise DrainFailed(f"{kept} of {jobs} jobs ended well with a result.")
    return jobs / seconds, wall


def show(bench: Bench, part: dict[str, Any], measured: list[Rates]) -> None:
    rows = []
    for rates in measured:
        low, high = min(rates.rates), max(rates.rates)
        rows.append(
            [
                rates.contender.name,
                rates.kind,
                f"{rates.jobs:,}",
                str(len(rates.rates)),
                f"{rates.rate:,.0f}",
                f"{low:,.0f}-{high:,.0f}",
                f"{median(rates.walls):.2f}",
            ]
        )
        part["results"].append(
            {
                "contender": rates.contender.name,
                "requirement": rates.contender.requirement or "this checkout",
                "task": rates.kind,
                "jobs": rates.jobs,
                "jobs_per_second": [round(rate, 1) for rate in rates.rates],
                "wall_seconds_with_start": [round(wall, 3) for wall in rates.walls],
                "median_jobs_per_second": round(rates.rate, 1),
            }
        )
    bench.report.table(
        ["worker", "task", "jobs", "rounds", "jobs/s", "range", "s with start"], rows
    )
    for kind, target in TARGETS.items():
        by_contender = {rates.contender: rates.rate for rates in measured if rates.kind == kind}
        if OURS not in by_contender:
            continue
        ours = by_contender.pop(OURS)
        for peer, rate in by_contender.items():
            ratio = ours / rate
            text = f"{kind}: {ratio:.1f} times {peer.name}"
            verdict = None
            if peer is PEERS[0]:
                verdict = "met" if ratio >= target else "MISSED"
                text += f" (target {target}: {verdict})"
            bench.report.note(text)
            part["ratios"].append(
                {"task": kind, "peer": peer.name, "ratio": round(ratio, 2), "verdict": verdict}
            )
