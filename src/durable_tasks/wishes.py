"""What somebody wants of workers: written beside them, and obeyed at their next heartbeat."""

from collections.abc import Iterable
from functools import partial

from django.db import connections, transaction
from django.db.models import Q

from .models import Wish, Worker
from .store import store_for
from .store.waits import WISH


def ask(worker_ids: Iterable[str], wish: Wish | None, using: str) -> list[str]:
    """Ask workers to drain or to stop, or, with None, to go on; return the ids of those asked.

    ``using``: the alias of the jobs' database. Those that are to stop can't be asked for something
    else. A worker obeys within a quarter of ``worker_timeout``, and at once where notifications
    arrive.
    """
    workers = Worker.objects.using(using).all()
    if wish != Wish.STOP:
        workers = workers.filter(Q(wish__isnull=True) | ~Q(wish=Wish.STOP))
    asked = []
    with transaction.atomic(using=using):
        for id in sorted(worker_ids):
            if workers.filter(id=id).update(wish=wish):
                asked.append(id)
                transaction.on_commit(partial(_notify, id, using), using=using, robust=True)
    return asked


def _notify(worker_id: str, using: str) -> None:
    store = store_for(connections[using])
    if store.notifies:
        store.notify(f"{WISH}{worker_id}")
