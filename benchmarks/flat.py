"""Whether a claim costs the same with a large table as with a nearly empty one."""

import json
import sys
from statistics import median
from typing import Any

from benchmarks.bench import Bench, CommandFailed, shown
from benchmarks.contenders import OURS
from tests.servers import Missing

DATABASES = {"postgres": "PostgreSQL", "mysql": "MariaDB or MySQL", "sqlite": "SQLite"}

# Rows of each kind that make the table large; then how often 1 and how often 100 jobs are claimed.
FULL, QUICK = (200_000, 300, 60), (20_000, 60, 15)
# The cost in the large table divided by that in the nearly empty one.
TARGET = 2

MIGRATE_SECONDS = 60
MEASURE_SECONDS = 180


def run(bench: Bench) -> None:
    """Measure each database that has a server."""
    sizes = QUICK if bench.quick else FULL
    command = [OURS.python, "-m", "claims", *map(str, sizes)]
    part = bench.report.section(
        "flat",
        "what a claim costs in a nearly empty and in a large table",
        rows_of_each_kind=sizes[0],
        rounds={"1": sizes[1], "100": sizes[2]},
        command=shown(command),
        databases={},
    )
    bench.report.note(
        f"large: {sizes[0]:,} finished, {sizes[0]:,} scheduled and {sizes[0]:,} ready jobs of"
        f" another queue more; medians of {sizes[1]} claims of 1 and {sizes[2]} claims of 100"
    )
    for kind, label in DATABASES.items():
        try:
            server = bench.server(kind).version
            measured = measure(bench, kind, command)
        except Missing as missing:
            bench.report.left_out(f"flat on {label}", str(missing))
        except CommandFailed as error:
            bench.report.left_out(f"flat on {label}", str(error), failed=True)
        else:
            part["databases"][kind] = {"server": server, **measured}
            show(bench, server, measured)


def measure(bench: Bench, kind: str, command: list[str]) -> dict[str, Any]:
    """Return what ``claims`` measured, with medians and ratios."""
    databases = {alias: bench.make_database(kind) for alias in ("default", "full")}

    def python(words: list[str], timeout: float) -> str:
        return bench.run(
            words, project=OURS.project, databases=databases, timeout=timeout, path=OURS.path
        )

    for alias in databases:
        migrate = [sys.executable, "-m", "django", "migrate", "-v0", "--database", alias]
        python(migrate, MIGRATE_SECONDS)
    measured: dict[str, Any] = json.loads(python(command, MEASURE_SECONDS))
    for claims in measured["claims"]:
        claims["empty_ms"] = round(median(claims.pop("default")), 3)
        claims["large_ms"] = round(median(claims.pop("full")), 3)
        claims["ratio"] = round(claims["large_ms"] / claims["empty_ms"], 2)
    return measured


def show(bench: Bench, server: str, measured: dict[str, Any]) -> None:
    bench.report.note(f"\n{server}")
    bench.report.table(
        ["claim", "jobs", "empty, ms", "large, ms", "ratio"],
        [
            [
                claims["queues"],
                str(claims["want"]),
                f"{claims['empty_ms']:.2f}",
                f"{claims['large_ms']:.2f}",
                f"{claims['ratio']:.2f}",
            ]
            for claims in measured["claims"]
        ],
    )
    worst = max(claims["ratio"] for claims in measured["claims"])
    measured["verdict"] = "met" if worst <= TARGET else "MISSED"
    bench.report.note(f"at most {worst:.2f} times (target {TARGET}: {measured['verdict']})")
