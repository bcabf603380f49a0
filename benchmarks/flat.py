"""Whether a claim costs the same with a large table as with a nearly empty one."""

import json
from dataclasses import astuple, dataclass
from statistics import median
from typing import Any

from benchmarks.bench import Bench, CommandFailed, shown
from benchmarks.contenders import OURS
from tests.servers import Missing

DATABASES = {"postgres": "PostgreSQL", "mysql": "MariaDB", "sqlite": "SQLite"}


@dataclass(frozen=True)
class Sizes:
    """How many rows of a kind make a table large, how often 1 and how often 100 jobs are claimed,
    and how many jobs are drained beside a long transaction (0: none)."""

    rows: int
    rounds_of_1: int
    rounds_of_100: int
    drained: int


QUICK = Sizes(5_000, 20, 5, 1_000)
FULL = {
    "postgres": Sizes(1_000_000, 200, 40, 100_000),
    "mysql": Sizes(300_000, 150, 30, 100_000),
    "sqlite": Sizes(1_000_000, 200, 40, 100_000),
}
KINDS = ("finished", "scheduled", "ready")

# The cost in the large table divided by that in the nearly empty one.
TARGET, LONG_TARGET = 1.5, 3

MEASURE_SECONDS = 400


def run(bench: Bench) -> None:
    """Measure each database that has a server."""
    part = bench.report.section(
        "flat",
        "milliseconds of a claim, by what else is in the table (medians)",
        databases={},
    )
    for kind, label in DATABASES.items():
        sizes = QUICK if bench.quick else FULL[kind]
        command = [OURS.python, "-m", "claims", *map(str, astuple(sizes))]
        try:
            server = bench.server(kind).version
            measured = measure(bench, kind, command)
        except Missing as missing:
            bench.report.left_out(f"flat on {label}", str(missing))
        except CommandFailed as error:
            bench.report.left_out(f"flat on {label}", str(error), failed=True)
        else:
            measured |= {"server": server, "rows": sizes.rows, "drained": sizes.drained}
            part["databases"][kind] = {**measured, "command": shown(command)}
            show(bench, label, server, measured)


def measure(bench: Bench, kind: str, command: list[str]) -> dict[str, Any]:
    """Return what ``claims`` measured, with medians and ratios."""
    aliases = ["default", *KINDS, "long"]
    databases = {alias: bench.make_database(kind) for alias in aliases}

    told = bench.run(
        command,
        project=OURS.project,
        databases=databases,
        timeout=MEASURE_SECONDS,
        path=OURS.path,
    )
    measured: dict[str, Any] = json.loads(told)
    for claims in (*measured["claims"], *measured.get("long", ())):
        for alias in databases:
            if alias in claims:
                claims[alias] = round(median(claims[alias]), 3)
        claims["ratios"] = {
            alias: round(claims[alias] / claims["default"], 2)
            for alias in aliases[1:]
            if alias in claims
        }
    return measured


def show(bench: Bench, label: str, server: str, measured: dict[str, Any]) -> None:
    rows = measured["rows"]
    bench.report.note(f"\n{server}, {rows:,} rows of a kind more")
    bench.report.table(
        ["claim", "jobs", "empty", "finished", "scheduled", "ready elsewhere"],
        [
            [
                claims["queues"],
                str(claims["want"]),
                f"{claims['default']:.2f}",
                *(f"{claims[kind]:.2f} ({claims['ratios'][kind]:.2f}x)" for kind in KINDS),
            ]
            for claims in measured["claims"]
        ],
    )
    for kind in KINDS:
        worst = max(claims["ratios"][kind] for claims in measured["claims"])
        what = f"{label}: claim cost with {rows:,} {kind} rows, the worst ratio"
        bench.report.target(what, worst, at_most=TARGET, unit=" times")
    for claims in measured.get("long", ()):
        what = (
            f"{label}: claim of {claims['want']} with a long transaction and "
            f"{measured['drained']:,} jobs drained ({claims['long']:.2f} ms)"
        )
        bench.report.target(what, claims["ratios"]["long"], at_most=LONG_TARGET, unit=" times")
