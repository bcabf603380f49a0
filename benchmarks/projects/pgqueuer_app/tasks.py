import json
from functools import cache
from typing import Any

import psycopg
from clock import note
from pgqueuer import PgQueuer
from pgqueuer.db import PsycopgDriver, SyncPsycopgDriver
from pgqueuer.models import Job
from pgqueuer.queries import SyncQueries


async def main() -> PgQueuer:
    # Where to connect to is in the environment variables that libpq knows.
    connection = await psycopg.AsyncConnection.connect(autocommit=True)
    worker = PgQueuer(PsycopgDriver(connection))

    @worker.entrypoint("async")
    async def async_task(job: Job) -> int:
        return json.loads(job.payload)

    @worker.entrypoint("clock")
    async def clock_task(job: Job) -> None:
        note(json.loads(job.payload))

    return worker


@cache
def queries() -> SyncQueries:
    return SyncQueries(SyncPsycopgDriver(psycopg.connect(autocommit=True)))


def enqueue(kind: str, count: int) -> None:
    payloads = [json.dumps(value).encode() for value in range(count)]
    queries().enqueue([kind] * count, payloads, [0] * count)


def send(kind: str, value: Any) -> None:
    # It has no sync tasks: what enqueuing costs does not depend on it.
    queries().enqueue("async" if kind == "sync" else kind, json.dumps(value).encode())
