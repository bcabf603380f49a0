"""What enqueuing costs: one by one beside a bare INSERT of the same row, and many at once."""

import json
from collections import defaultdict
from dataclasses import replace
from statistics import median

from benchmarks.bench import Bench, CommandFailed
from benchmarks.contenders import DJANGO_TASKS_DB, OURS, OURS_MYSQL, OURS_SQLITE
from benchmarks.setups import Setup, peers, prepared

FULL_ROUNDS, QUICK_ROUNDS = 5, 1
# Calls one by one, a round; then jobs at once for us, and for those that have no bulk call.
ONE_BY_ONE = (1_000, 50)
BULK, LOOP = (50_000, 5_000), (2_000, 100)
SECONDS = 60

HEARD = {"BENCH_HEARD": "1"}
OURS_HEARD = replace(OURS, name="durable-tasks, with a receiver", variables=HEARD)

BARE_SHARE = 80
TIMES_DJANGO_TASKS_DB = 1.8
BULK_RATE, BULK_HEARD_RATE = 65_000, 40_000


def run(bench: Bench) -> None:
    rounds = QUICK_ROUNDS if bench.quick else FULL_ROUNDS
    count = ONE_BY_ONE[bench.quick]
    part = bench.report.section(
        "enqueue",
        "jobs enqueued a second",
        rounds=rounds,
        one_by_one={},
        bare={},
        bulk={},
    )
    bench.report.note(f"medians of {rounds} rounds; one by one: a commit each")
    setups = prepared(bench, OURS, OURS_HEARD, OURS_MYSQL, OURS_SQLITE, *peers(bench))
    single: dict[str, list[float]] = defaultdict(list)
    bulk: dict[str, list[float]] = defaultdict(list)
    bare: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    jobs_of = {}
    for _ in range(rounds):
        for contender, setup in list(setups.items()):
            name = contender.name
            many = LOOP if contender.bulk.startswith("a loop") else BULK
            jobs_of[name] = many[bench.quick]
            try:
                if contender.requirement is None and contender is not OURS_HEARD:
                    for key, rate in beside_bare(setup, count).items():
                        bare[name][key].append(rate)
                elif contender.requirement is not None:
                    single[name].append(one_by_one(setup, count))
                bulk[name].append(at_once(setup, many[bench.quick]))
            except CommandFailed as error:
                ours = contender.requirement is None
                bench.report.left_out(f"{name}: enqueue", str(error), failed=ours)
                del setups[contender]
    for name, rates in bare.items():
        part["bare"][name] = {key: round(median(values), 1) for key, values in rates.items()}
        single[name] = rates["enqueue"]
    part["one_by_one"] = {name: round(median(rates), 1) for name, rates in single.items()}
    part["bulk"] = {
        name: {"jobs": jobs_of[name], "how": contender.bulk, "rate": round(median(bulk[name]), 1)}
        for contender in setups
        if bulk[name := contender.name]
    }
    show(bench, part)


def one_by_one(setup: Setup, count: int) -> float:
    return count / float(setup.run("one_by_one", str(count), timeout=SECONDS))


def at_once(setup: Setup, count: int) -> float:
    setup.empty()
    return (count - 1) / float(setup.run("enqueue", "sync", str(count), timeout=SECONDS))


def beside_bare(setup: Setup, count: int) -> dict[str, float]:
    """Return calls a second: ``enqueue()`` and the bare INSERT, each in transactions of their own
    and all in one transaction."""
    setup.empty()
    seconds = json.loads(setup.run("bare", str(count), timeout=SECONDS))
    return {key: count / took for key, took in seconds.items()}


def show(bench: Bench, part: dict) -> None:
    rows = []
    for name, rates in part["bare"].items():
        share = 100 * rates["enqueue"] / rates["bare"]
        inside = 100 * rates["enqueue_inside"] / rates["bare_inside"]
        rows.append(
            [
                name,
                *(f"{rates[key]:,.0f}" for key in ("enqueue", "bare")),
                f"{share:.0f} %",
                *(f"{rates[key]:,.0f}" for key in ("enqueue_inside", "bare_inside")),
                f"{inside:.0f} %",
            ]
        )
    heads = ["one by one", "enqueue/s", "bare INSERT/s", "share"]
    bench.report.table([*heads, "in one transaction", "bare", "share"], rows)
    bench.report.note("")
    bench.report.table(
        ["one by one, a commit each", "enqueue/s"],
        [[name, f"{rate:,.0f}"] for name, rate in part["one_by_one"].items()],
    )
    bench.report.note("")
    bench.report.table(
        ["many at once", "how", "jobs", "jobs/s"],
        [
            [name, entry["how"], f"{entry['jobs']:,}", f"{entry['rate']:,.0f}"]
            for name, entry in part["bulk"].items()
        ],
    )
    judge(bench, part)


def judge(bench: Bench, part: dict) -> None:
    target = bench.report.target
    ours = part["bare"].get(OURS.name)
    if ours:
        share = 100 * ours["enqueue"] / ours["bare"]
        target("enqueue beside a bare INSERT", share, at_least=BARE_SHARE, unit=" %")
        peer = part["one_by_one"].get(DJANGO_TASKS_DB.name)
        if peer:
            what, ratio = "enqueue beside django-tasks-db", ours["enqueue"] / peer
            target(what, ratio, at_least=TIMES_DJANGO_TASKS_DB, unit=" times")
    for contender, rate in ((OURS, BULK_RATE), (OURS_HEARD, BULK_HEARD_RATE)):
        if entry := part["bulk"].get(contender.name):
            what = f"{contender.name}, many at once"
            target(what, entry["rate"], at_least=rate, unit="/s")
