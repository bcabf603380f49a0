"""What processes use, as Linux tells it: memory, CPU seconds, and how busy the cores are."""

import os
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

# Without it these measures are left out.
KNOWN = (PROC / "self" / "stat").exists()


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for known in found:  # grows while it is read
        found += children.get(known, [])
    return found


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process and its descendants, in MiB."""
    total = 0
    for member in family(pid):
        try:
            lines = (PROC / str(member) / "status").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total / 1024


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its living descendants have used."""
    found = (_stat(member) for member in family(pid))
    return sum(int(fields[11]) + int(fields[12]) for fields in found if fields) / TICKS


class CoreWatch:
    """Notes how busy all cores are while its block runs."""

    EVERY = 0.05

    def __enter__(self) -> "CoreWatch":
        self._samples: list[tuple[float, int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def percent(self, first: float, last: float) -> float | None:
        """Return how busy they were between two times (Unix), or None if that was too short."""
        inside = [sample for sample in self._samples if first <= sample[0] <= last]
        if len(inside) < 3:
            return None
        busy, total = (inside[-1][at] - inside[0][at] for at in (1, 2))
        return round(100 * busy / max(total, 1), 1)

    def _watch(self) -> None:
        while not self._over.wait(self.EVERY):
            fields = [int(word) for word in (PROC / "stat").read_text().split(maxsplit=9)[1:9]]
            idle = fields[3] + fields[4]
            self._samples.append((time.time(), sum(fields) - idle, sum(fields)))


def _stat(pid: int) -> list[str]:
    # After the name, which may have spaces: state, parent, ..., user and system time (11, 12).
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
