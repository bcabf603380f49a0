"""``python -m later COUNT FIRST LAST``: enqueue clock tasks due in so many seconds, at random.

Prints JSON: the due time of each.
"""

import json
import random
import sys
import time
from datetime import UTC, datetime

import django


def main(count: int, first: float, last: float) -> None:
    from tasks import clock_task

    now = time.time()
    dues = [now + random.uniform(first, last) for _ in range(count)]
    for number, due in enumerate(dues):
        clock_task.using(run_after=datetime.fromtimestamp(due, UTC)).enqueue(number)
    print(json.dumps(dues))


if __name__ == "__main__":
    django.setup()
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
