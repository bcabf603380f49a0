"""``python -m probe COUNT SHORTEST LONGEST``: enqueue clock tasks with random pauses (seconds).

Prints JSON: for each, the time before and after the call.
"""

import json
import random
import sys
import time

import django


def main(count: int, shortest: float, longest: float) -> None:
    import tasks

    calls = []
    for number in range(count):
        time.sleep(random.uniform(shortest, longest))
        before = time.time()
        tasks.send("clock", number)
        calls.append((before, time.time()))
    print(json.dumps(calls))


if __name__ == "__main__":
    django.setup()
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
