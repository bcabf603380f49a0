"""Runs the measures, prints their tables and writes a JSON file."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import (
    costs,
    counting,
    drain,
    enqueue,
    flat,
    idle,
    latency,
    limit,
    mixed,
    page,
    pages,
)
from benchmarks.bench import Bench, OutOfTime
from benchmarks.report import Report

MEASURES: dict[str, Callable[[Bench], None]] = {
    "drain": drain.run,
    "limit": limit.run,
    "enqueue": enqueue.run,
    "latency": latency.run,
    "mixed": mixed.run,
    "idle": idle.run,
    "costs": costs.run,
    "counting": counting.run,
    "flat": flat.run,
    "pages": pages.run,
}

# Seconds that a whole run may take, the making of the peers' environments not counted.
QUICK_SECONDS, FULL_SECONDS = 80, 3300


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, about a minute")
    parser.add_argument("--peers", action="store_true", help="all peers in a quick run as well")
    parser.add_argument("--only", choices=MEASURES, help="run one measure")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the last full run's figures into a page"
    )
    given = parser.parse_args(arguments)
    if given.page:
        return page.write(given.page)
    signal.signal(signal.SIGTERM, leave)
    report = Report(quick=given.quick)
    report.head()
    seconds = QUICK_SECONDS if given.quick and not given.peers else FULL_SECONDS
    with Bench(report, given.quick, seconds, all_peers=given.peers) as bench:
        for name, measure in MEASURES.items():
            if given.only in (None, name):
                began = time.monotonic()
                try:
                    measure(bench)
                except OutOfTime:
                    report.left_out(f"the rest of {name}", "the run's time is up.")
                report.took(name, time.monotonic() - began)
    report.save()
    return 1 if report.failed else 0


def leave(signum: int, frame: FrameType | None) -> None:
    # As an exception, so that what was started is also stopped and the databases are dropped.
    sys.exit(128 + signum)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
