"""``python -m one_by_one COUNT``: enqueue so many tasks, each in a transaction of its own.

Prints how many seconds it took.
"""

import sys
import time

import django

WARM_UP = 50


def main(count: int) -> None:
    import tasks

    for value in range(WARM_UP):
        tasks.send("sync", value)
    began = time.perf_counter()
    for value in range(count):
        tasks.send("sync", value)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    django.setup()
    main(int(sys.argv[1]))
