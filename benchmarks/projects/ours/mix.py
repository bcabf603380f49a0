"""``python -m mix BACKLOG URGENT``: enqueue a mix, then urgent jobs, one every 50 ms.

One job in ten takes 200 ms; the others nothing. Prints JSON: when each urgent one was enqueued.
"""

import json
import sys
import time

import django

PAUSE = 0.05
SLOW_ONES = 10


def main(backlog: int, urgent: int) -> None:
    from django.tasks import task_backends
    from tasks import clock_task, slow_task, sync_task

    kinds = {
        (slow, priority): (slow_task if slow else sync_task).using(priority=priority)
        for slow in (True, False)
        for priority in (0, -10)
    }
    calls = [
        (kinds[number % SLOW_ONES == 0, (0, -10)[number // SLOW_ONES % 2]], [-1], {})
        for number in range(backlog)
    ]
    task_backends["default"].enqueue_many(calls)
    urgent_ones = [task.using(priority=10) for task in (slow_task, clock_task)]
    times = []
    for number in range(urgent):
        time.sleep(PAUSE)
        times.append(time.time())
        urgent_ones[number % SLOW_ONES > 0].enqueue(number)
    print(json.dumps(times))


if __name__ == "__main__":
    django.setup()
    main(int(sys.argv[1]), int(sys.argv[2]))
