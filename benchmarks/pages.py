"""Whether the admin's pages, health and metrics cost the same with a million jobs as with few."""

import json
from statistics import median
from typing import Any

from benchmarks.bench import ROOT, Bench, CommandFailed, shown
from benchmarks.contenders import OURS
from benchmarks.flat import DATABASES
from tests.servers import Missing

# Jobs in the small and in the large database, and how often each page is asked for.
SIZES = {"quick": (1_000, 5_000, 1), "full": (1_000, 1_000_000, 15)}
# The time in the large database divided by that in the small one.
TARGET = 2
# Milliseconds: what differs by less than this is not told apart.
LEAST = 15
MEASURE_SECONDS = 600


def run(bench: Bench) -> None:
    """Measure each database that has a server; in a quick run SQLite."""
    part = bench.report.section(
        "pages",
        "milliseconds of a page of the admin, by how many jobs there are (medians)",
        databases={},
    )
    small, large, rounds = SIZES["quick" if bench.quick else "full"]
    for kind, label in DATABASES.items():
        if bench.quick and kind != "sqlite":
            continue
        command = [OURS.python, "-m", "pages", *map(str, (small, large, rounds))]
        try:
            server = bench.server(kind).version
            measured = measure(bench, kind, command)
        except Missing as missing:
            bench.report.left_out(f"pages on {label}", str(missing))
        except CommandFailed as error:
            bench.report.left_out(f"pages on {label}", str(error), failed=True)
        else:
            part["databases"][kind] = {"server": server, **measured, "command": shown(command)}
            show(bench, label, server, measured, (small, large))


def measure(bench: Bench, kind: str, command: list[str]) -> dict[str, Any]:
    """Return the median of each page in both databases."""
    told: dict[str, Any] = json.loads(
        bench.run(
            command,
            project=OURS.project,
            databases={alias: bench.make_database(kind) for alias in ("default", "large")},
            timeout=MEASURE_SECONDS,
            path=[*OURS.path, ROOT],
            variables={"DJANGO_SETTINGS_MODULE": "admin_settings"},
        )
    )
    for times in told["pages"].values():
        for alias, samples in times.items():
            times[alias] = round(median(samples), 1)
    return told


def show(
    bench: Bench, label: str, server: str, measured: dict[str, Any], sizes: tuple[int, int]
) -> None:
    small, large = (f"{size:,} jobs" for size in sizes)
    pages = measured["pages"]
    ratios = {name: times["large"] / times["default"] for name, times in pages.items()}
    bench.report.note(f"\n{server}, filled in {measured['seconds_to_fill']:.0f} s")
    bench.report.table(
        ["page", small, large, "ratio"],
        [
            [name, f"{times['default']:.1f}", f"{times['large']:.1f}", f"{ratios[name]:.2f}x"]
            for name, times in pages.items()
        ],
    )
    worst = max(
        (
            name
            for name, times in pages.items()
            if times["large"] - times["default"] > LEAST or name == "jobs"
        ),
        key=ratios.__getitem__,
    )
    bench.report.target(
        f"{label}: {worst} with {large}, against {small}, the worst ratio",
        round(ratios[worst], 2),
        at_most=TARGET,
        unit=" times",
    )
    slowest = max(pages, key=lambda name: pages[name]["large"])
    bench.report.note(f"Slowest with {large}: {slowest}, {pages[slowest]['large']:.0f} ms.")
