"""Runs the measures, prints their tables and writes a JSON file."""

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType

from benchmarks import drain, flat
from benchmarks.bench import Bench, OutOfTime
from benchmarks.report import Report

MEASURES: dict[str, Callable[[Bench], None]] = {"drain": drain.run, "flat": flat.run}

# Seconds that a whole run may take, the making of the peers' environments not counted.
QUICK_SECONDS, FULL_SECONDS = 50, 570


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, under a minute")
    parser.add_argument("--only", choices=MEASURES, help="run one measure")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, leave)
    report = Report(quick=given.quick)
    report.head()
    with Bench(report, given.quick, QUICK_SECONDS if given.quick else FULL_SECONDS) as bench:
        for name, measure in MEASURES.items():
            if given.only in (None, name):
                try:
                    measure(bench)
                except OutOfTime:
                    report.left_out(f"the rest of {name}", "the run's time is up.")
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
