"""What a run says: tables on standard output, everything in a JSON file."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

PACKAGES = ("Django", "psycopg", "mysqlclient")


class Report:
    """Collects one run's results and prints them as they come."""

    def __init__(self, *, quick: bool) -> None:
        self.failed = False
        self._part: dict[str, Any] = {}
        self.data: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "quick": quick,
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "servers": {},
            "measures": {},
            "seconds": {},
            "targets": [],
            "left_out": [],
        }

    def head(self) -> None:
        data = self.data
        print(f"Benchmarks{', quick' if data['quick'] else ''}, {data['date']}, {data['commit']}")
        print(", ".join(f"{name} {number}" for name, number in data["versions"].items()))
        about = data["machine"]
        print(f"{about['system']}, {about['processor']}, {about['cores']} cores")
        print(f"load at the start: {about['load']:.1f}", flush=True)

    def section(self, name: str, title: str, **facts: Any) -> dict[str, Any]:
        """Begin a measure; return its part of the JSON, to add to."""
        print(f"\n=== {name}: {title}", flush=True)
        self._part = part = {"title": title, **facts}
        self.data["measures"][name] = part
        return part

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table and keep it for the page: the first column to the left, numbers right."""
        self._part.setdefault("tables", []).append({"heads": list(heads), "rows": list(rows)})
        lines = [list(heads), *map(list, rows)]
        widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
        for line in lines:
            first, *rest = (
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            print("  ".join([first, *rest]).rstrip(), flush=True)

    def note(self, text: str) -> None:
        """Print a line and keep it for the page."""
        if text:
            self._part.setdefault("tables", []).append({"note": text.strip()})
        print(text, flush=True)

    def target(
        self,
        what: str,
        value: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        unit: str = "",
    ) -> None:
        """Compare a figure with what this project wants to reach."""
        met = value >= at_least if at_least is not None else value <= (at_most or 0)
        word, bound = ("at least", at_least) if at_least is not None else ("at most", at_most)
        text = f"{word} {figure(bound)}{unit}"
        self.data["targets"].append(
            {"what": what, "value": round(value, 3), "unit": unit, "target": text, "met": met}
        )
        verdict = "met" if met else "MISSED"
        print(f"{what}: {figure(value)}{unit} (target: {text}: {verdict})", flush=True)

    def took(self, name: str, seconds: float) -> None:
        """Note how long a measure took."""
        self.data["seconds"][name] = round(seconds)

    def left_out(self, what: str, why: str, *, failed: bool = False) -> None:
        """Say what could not be measured. ``failed``: something of ours is broken."""
        word = "FAILED" if failed else "left out"
        self.failed |= failed
        self.data["left_out"].append({"what": what, "why": why, "failed": failed})
        print(f"{what} {word}: {why}", flush=True)

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        kind = "quick" if self.data["quick"] else "full"
        stamp = self.data["date"].replace(":", "").replace("+0000", "")
        file = RESULTS / f"{stamp}-{kind}.json"
        file.write_text(json.dumps(self.data, indent=2) + "\n")
        took = ", ".join(f"{name} {number}" for name, number in self.data["seconds"].items())
        print(f"\nSeconds: {took}")
        print(f"Written to {file.relative_to(ROOT)}")


def figure(value: float | None) -> str:
    """Return a number with as many digits as matter."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.1f}"


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    with suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = named[0]
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def commit() -> str:
    """Return the checkout's commit, with "-dirty" if there are changes, or "unknown"."""
    command = ["git", "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
        return f"commit {done.stdout.strip()}"
    return "commit unknown"
