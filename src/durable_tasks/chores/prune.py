"""Ended jobs are deleted when they are old enough."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from ..store import Store


def prune(
    store: Store,
    *,
    statuses: Sequence[str],
    before: datetime,
    backend_name: str,
    queue_names: Sequence[str] | None,
) -> Iterator[int]:
    """Delete jobs that ended in ``statuses`` before ``before``, in batches.

    ``queue_names``: None for all. Yields the number deleted by each batch.
    """
    while deleted := store.prune(
        statuses, before, backend_name=backend_name, queue_names=queue_names
    ):
        yield deleted
