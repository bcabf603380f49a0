"""How fast workers drain a queue of no-op tasks: ours, on each database, beside their peers."""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.bench import Bench, CommandFailed
from benchmarks.contenders import (
    DJANGO_TASKS_DB,
    OURS,
    OURS_MYSQL,
    OURS_QUIET,
    OURS_SQLITE,
    OURS_SQLITE_QUIET,
    OURS_TWO,
    VARIANTS,
    Contender,
)
from benchmarks.processes import CoreWatch
from benchmarks.setups import DrainFailed, Setup, peers, prepared

FULL_ROUNDS, QUICK_ROUNDS = 5, 1
# The peers are slower and the targets leave room: fewer are enough.
PEER_ROUNDS = 3
DRAIN_SECONDS = 90

# Jobs per second that our worker shall reach, by contender and kind of task.
TARGETS = {
    (OURS, "sync"): 16_000,
    (OURS_QUIET, "sync"): 20_000,
    (OURS, "async"): 16_000,
    (OURS_MYSQL, "sync"): 8_000,
    (OURS_SQLITE, "sync"): 14_000,
    (OURS_SQLITE_QUIET, "sync"): 20_000,
}
TIMES_DJANGO_TASKS_DB = 40
# Two processes shall be so many times as fast as one, or keep the cores so busy (percent).
TIMES_ONE_PROCESS, CORES_BUSY = 1.15, 90


@dataclass(slots=True)
class Rates:
    """Each round's jobs per second and how busy the cores were."""

    jobs: int
    rates: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.rates)


def run(bench: Bench) -> None:
    """Measure everybody in turn, round by round, and compare."""
    rounds = QUICK_ROUNDS if bench.quick else FULL_ROUNDS
    part = bench.report.section(
        "drain",
        "no-op tasks that return their argument, drained by one worker",
        rounds=rounds,
        commands={},
        results=[],
    )
    bench.report.note(
        f"medians of {rounds} rounds, {min(rounds, PEER_ROUNDS)} for peers; from the first start "
        "to the last end that the rows tell"
    )
    setups = prepared(bench, *VARIANTS, *peers(bench))
    for contender, setup in setups.items():
        part["commands"][contender.name] = setup.words(*(contender.once or ()))
    measured: dict[tuple[Contender, str], Rates] = {}
    try:
        for number in range(rounds):
            if number == PEER_ROUNDS:
                setups = {who: setup for who, setup in setups.items() if who in VARIANTS}
            one_round(bench, setups, measured)
    finally:
        # What was measured before the time was up is worth showing.
        show(bench, part, measured)


def one_round(
    bench: Bench, setups: dict[Contender, Setup], measured: dict[tuple[Contender, str], Rates]
) -> None:
    """Drain once for each contender and kind; one that fails is out of all further rounds."""
    for contender, setup in list(setups.items()):
        kinds = contender.kinds[:1] if bench.quick and contender is not OURS else contender.kinds
        for kind in kinds:
            rates = measured.setdefault((contender, kind), Rates(contender.jobs[bench.quick]))
            try:
                rate, busy = drain(setup, kind, rates.jobs)
            except (CommandFailed, DrainFailed) as error:
                ours = contender in VARIANTS
                bench.report.left_out(f"{contender.name} ({kind})", str(error), failed=ours)
                setups.pop(contender, None)
                break
            rates.rates.append(rate)
            rates.busy += [busy] if busy is not None else []


def drain(setup: Setup, kind: str, jobs: int) -> tuple[float, float | None]:
    """Enqueue jobs and let a worker drain them; return jobs per second and how busy the cores were.

    Raises ``CommandFailed``, and ``DrainFailed`` if a job did not end well.
    """
    contender = setup.contender
    setup.empty()
    setup.run("enqueue", kind, str(jobs))
    with CoreWatch() as cores:
        if contender.once is None:
            with setup.worker() as worker:
                setup.wait_until_ended(jobs, worker, DRAIN_SECONDS)
        else:
            setup.run_worker(*contender.once, timeout=DRAIN_SECONDS)
    ended = setup.ended()
    if ended.count != jobs:
        raise DrainFailed(f"{ended.count} of {jobs} jobs ended well.")
    return jobs / ended.seconds, cores.percent(ended.first, ended.last)


def show(bench: Bench, part: dict[str, Any], measured: dict[tuple[Contender, str], Rates]) -> None:
    rows = []
    rates_of: dict[str, dict[Contender, Rates]] = defaultdict(dict)
    for (contender, kind), rates in measured.items():
        if not rates.rates:
            continue
        rates_of[kind][contender] = rates
        busy = median(rates.busy) if rates.busy else None
        rows.append(
            [
                contender.name,
                kind,
                f"{rates.jobs:,}",
                f"{rates.rate:,.0f}",
                f"{min(rates.rates):,.0f}-{max(rates.rates):,.0f}",
                "-" if busy is None else f"{busy:.0f} %",
            ]
        )
        part["results"].append(
            {
                "contender": contender.name,
                "requirement": contender.requirement or "this checkout",
                "note": contender.note,
                "task": kind,
                "jobs": rates.jobs,
                "jobs_per_second": [round(rate, 1) for rate in rates.rates],
                "median_jobs_per_second": round(rates.rate, 1),
                "cores_busy_percent": busy,
            }
        )
    bench.report.table(["worker", "task", "jobs", "jobs/s", "range", "cores busy"], rows)
    judge(bench, rates_of)


def judge(bench: Bench, rates_of: dict[str, dict[Contender, Rates]]) -> None:
    """Compare with the targets."""
    for (contender, kind), target in TARGETS.items():
        if contender in rates_of[kind]:
            rate = rates_of[kind][contender].rate
            bench.report.target(f"{contender.name}, {kind}", rate, at_least=target, unit="/s")
    sync = rates_of["sync"]
    if OURS in sync and DJANGO_TASKS_DB in sync:
        ratio = sync[OURS].rate / sync[DJANGO_TASKS_DB].rate
        bench.report.target(
            "drain beside django-tasks-db, each with its defaults",
            ratio,
            at_least=TIMES_DJANGO_TASKS_DB,
            unit=" times",
        )
    if OURS in rates_of["async"]:
        ours = rates_of["async"][OURS].rate
        for peer, rates in rates_of["async"].items():
            if peer.project == "pgqueuer_app":
                bench.report.target(
                    f"async, beside {peer.name}", ours / rates.rate, at_least=1, unit=" times"
                )
    if OURS in sync and OURS_TWO in sync:
        ratio, busy = sync[OURS_TWO].rate / sync[OURS].rate, sync[OURS_TWO].busy
        if ratio < TIMES_ONE_PROCESS and busy:
            what = "2 processes: cores busy"
            bench.report.target(what, median(busy), at_least=CORES_BUSY, unit=" %")
        else:
            what = "2 processes beside one"
            bench.report.target(what, ratio, at_least=TIMES_ONE_PROCESS, unit=" times")
