"""``python -m bare COUNT``: enqueue beside a bare INSERT of the same rows.

The rows that ``enqueue()`` sent are sent again, by the driver's own cursor on the same kind of
connection. Both take turns, so that what else the machine does slows both. Prints JSON: the
seconds for COUNT of each, in transactions of their own and inside one.
"""

import json
import sys
import time
from typing import Any

import django

django.setup()

from django.db import connection, transaction  # noqa: E402
from tasks import sync_task  # noqa: E402

from durable_tasks.models import Job  # noqa: E402

TURN = 50

Sent = list[tuple[str, Any]]


def main(count: int) -> dict[str, float]:
    sent = record(count)
    Job.objects.all().delete()
    seconds = dict.fromkeys(["enqueue", "bare", "enqueue_inside", "bare_inside"], 0.0)
    for inside in (False, True):
        end = "_inside" if inside else ""
        for start in range(0, count, TURN):
            turn = sent[start : start + TURN]
            seconds[f"enqueue{end}"] += timed(enqueue, turn, inside)
            seconds[f"bare{end}"] += timed(insert, turn, inside)
        Job.objects.all().delete()
    return seconds


def timed(function: Any, turn: Sent, inside: bool) -> float:
    if not inside:
        began = time.perf_counter()
        function(turn)
        return time.perf_counter() - began
    with transaction.atomic():
        return timed(function, turn, False)


def enqueue(turn: Sent) -> None:
    for number in range(len(turn)):
        sync_task.enqueue(number)


def insert(turn: Sent) -> None:
    for sql, params in turn:
        cursor = connection.connection.cursor()
        cursor.execute(sql, params)
        cursor.close()


def record(count: int) -> Sent:
    """Enqueue and return the statements as the driver gets them."""
    sent: Sent = []

    def keep(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("INSERT"):
            # What Django's wrapper of SQLite makes of it.
            sent.append((sql.replace("%s", "?") if connection.vendor == "sqlite" else sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(keep), transaction.atomic():
        for number in range(count):
            sync_task.enqueue(number)
    assert len(sent) == count, f"{len(sent)} statements for {count} jobs"
    return sent


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
