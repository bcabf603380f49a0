"""What a task that tells when it starts does, whoever runs it."""

import os
import time
from functools import cache


def note(mark: object) -> None:
    """Append the mark and the time of this call to the file that BENCH_NOTES names."""
    now = time.time()
    os.write(_file(), f"{mark} {now!r}\n".encode())


@cache
def _file() -> int:
    return os.open(os.environ["BENCH_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
