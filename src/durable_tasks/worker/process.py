"""This process and others: who is who, and who is provably gone."""

import os
import resource
import socket
import sys
import uuid
from functools import cache
from pathlib import Path

from ..store.registry import WorkerRow


@cache
def this_host() -> str:
    """Return a name for the place in which process ids can be compared.

    On Linux the boot and the pid namespace are part of it: two containers may share a host name.
    """
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:13])
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    except OSError:
        parts.append(f"{uuid.getnode():x}")
    return ":".join(parts)[-255:]


def resident_bytes() -> int:
    """Return the memory that this process takes, in bytes; where there is no /proc, its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


def resident_mib() -> float:
    """Return the same in MiB."""
    return resident_bytes() / (1024 * 1024)


def process_start(pid: int) -> str:
    """Return when a process started, in the system's own terms, or "" if that can't be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # proc(5): field 22, counted behind the name, which is in parentheses and may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state == "Z" else fields[18]


def is_gone(row: WorkerRow) -> bool:
    """Return whether the worker's process is known to have ended."""
    if row.host != this_host():
        return False
    if row.process_started:  # Linux
        return process_start(row.pid) != row.process_started
    try:
        os.kill(row.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def is_running(row: WorkerRow) -> bool:
    """Return whether the worker's process is known to be there still."""
    return (
        row.host == this_host()
        and bool(row.process_started)
        and process_start(row.pid) == row.process_started
    )
