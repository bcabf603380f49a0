"""``python -m enqueue KIND COUNT``: fill the queue of the project in the current folder.

Prints how many seconds it took. With BENCH_HEARD set, a receiver listens to ``task_enqueued``.
"""

import os
import sys
import time
from typing import Any

import django


def main(kind: str, count: int) -> None:
    import tasks

    if "BENCH_HEARD" in os.environ:
        from django.tasks.signals import task_enqueued

        task_enqueued.connect(hear)
    tasks.enqueue(kind, 1)  # connects and imports
    began = time.perf_counter()
    tasks.enqueue(kind, count - 1)
    print(time.perf_counter() - began)


def hear(sender: type, task_result: Any, **kwargs: Any) -> None:
    """Do what a receiver does: look at the result."""
    heard.add(task_result.id)


heard: set[str] = set()


if __name__ == "__main__":
    django.setup()
    main(sys.argv[1], int(sys.argv[2]))
