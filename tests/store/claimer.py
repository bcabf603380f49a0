"""Claims jobs until none is READY; as a program, one of several processes that race for them.

``python -m tests.store.claimer NAME BATCH QUEUE...``: says "ready", waits for a line, and then
prints the id of every job it claimed. No queue means all.
"""

import sys
from collections.abc import Sequence
from uuid import UUID

from django.utils import timezone

BACKEND = "default"


def drain(alias: str, worker_id: str, batch: int, names: Sequence[str] | None) -> list[UUID]:
    """Claim and finish by exchanges, as a worker does; return the ids claimed, in order."""
    from durable_tasks.models import Job
    from durable_tasks.store import Finish, Queues, own_connection, store_for

    connection = own_connection(alias)
    store = store_for(connection, own=True)
    queues = Queues(BACKEND, None if names is None else tuple(names))
    ready = f"SELECT COUNT(*) FROM {Job._meta.db_table} WHERE status = 'READY'"
    claimed: list[UUID] = []
    finishes: list[Finish] = []
    try:
        while finishes or store.row(ready)[0]:
            now = timezone.now()
            exchange = store.exchange(finishes, batch, queues=queues, worker_id=worker_id, now=now)
            assert exchange.counted == {finish.id for finish in finishes}
            claimed += [claim.id for claim in exchange.claims]
            finishes = [
                Finish.succeeded(claim, None, started_at=now, finished_at=now)
                for claim in exchange.claims
            ]
    finally:
        connection.close()
    return claimed


def main(worker_id: str, batch: str, *names: str) -> None:
    import django

    django.setup()
    print("ready", flush=True)
    sys.stdin.readline()
    for id in drain("default", worker_id, int(batch), names or None):
        print(id)


if __name__ == "__main__":
    main(*sys.argv[1:])
