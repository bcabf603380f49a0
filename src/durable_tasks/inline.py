"""Running jobs in the caller's thread, on the caller's connection: no worker, no time limits."""

import os
from contextlib import ExitStack, suppress
from contextvars import copy_context
from functools import cache
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import DatabaseError, connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError

from . import clock
from .announcements import Announcements, log_no_count
from .exceptions import CannotWait
from .execute import Executor, Run
from .ids import new_worker_id
from .models import Job
from .options import Options
from .retention import Retention
from .statuses import JobStatus
from .store import Claim, Finish, Queues, Store, store_for
from .transactions import in_transactions


@cache
def this_process() -> str:
    """Return the name that jobs are marked with which this process runs without a worker."""
    return new_worker_id()


os.register_at_fork(after_in_child=this_process.cache_clear)


class Inline:
    """Runs jobs of one backend where it is called.

    A run is part of every transaction that is open in this thread, and is undone alone if the
    database refuses something in it. Runs have no time limit and can't be interrupted.

    ``sender``: the backend's class, as Django's signals have it. ``options``: the backend's.
    ``retention``: how long its jobs stay. ``worker_id``: what jobs are marked with, or None for
    the name of this process.
    """

    def __init__(
        self,
        sender: type,
        options: Options,
        retention: Retention,
        worker_id: str | None = None,
    ) -> None:
        self.database = router.db_for_write(Job)
        self.executor = Executor(
            backend_name=retention.backend_name,
            worker_id=worker_id or this_process(),
            now=clock.now,
            options=options,
            database=self.database,
            on_start=lambda claim, started_at: None,  # said before: a coroutine could not wait
            retention=retention,
            durable=False,
        )
        self._announcements = Announcements(sender, self.executor)

    @property
    def store(self) -> Store:
        return store_for(connections[self.database], retention=self.executor.retention)

    def claim(self, queues: Queues) -> Claim | None:
        """Claim the READY job that a worker would take next, or return None."""
        exchange = self.store.exchange(
            [], 1, queues=queues, worker_id=self.executor.worker_id, now=clock.now()
        )
        return exchange.claims[0] if exchange.claims else None

    def take(self, id: UUID) -> Claim | None:
        """Claim this job if it is READY, or return None."""
        return self.store.take(id, worker_id=self.executor.worker_id, now=clock.now())

    def run(self, claim: Claim, *, at_once: bool = False) -> Finish:
        """Run a claim, save what becomes of it, tell of it, and return it.

        ``at_once``: what would run again later runs again now, or fails if the task asked to wait.
        Raises what the database says if the ending can't be saved, and ``KeyboardInterrupt``, when
        the job has failed with it.
        """
        claim.worker_id = self.executor.worker_id
        finish = self._execute(claim)
        if at_once and not finish.is_end:
            self._hurry(claim, finish)
        if not finish.saved:
            self.store.finish([finish], now=clock.now())
        if not finish.counted:
            log_no_count(finish, self.executor.worker_id)
        elif finish.finished_at is not None:  # otherwise it was released
            self._announcements.ends([finish])
        if isinstance(finish.exception, KeyboardInterrupt):
            raise finish.exception
        return finish

    def run_to_the_end(self, id: UUID) -> Finish | None:
        """Run a READY job as often as it takes; return its end, or None if others have it."""
        while (claim := self.take(id)) is not None:
            finish = self.run(claim, at_once=True)
            if not finish.counted:
                return None
            if finish.is_end:
                return finish
        return None

    def _execute(self, claim: Claim) -> Finish:
        resolved = self.executor.resolve(claim.task_path)
        run = Run()
        run.started_at = clock.now()
        if resolved.func is not None:
            self._announcements.start(claim, run.started_at)
        execute: Any = self.executor.execute
        if resolved.is_async:
            execute = async_to_sync(self.executor.aexecute)
        before = in_transactions()
        finish: Finish | None = None
        try:
            with ExitStack() as stack:
                for connection in before:
                    stack.enter_context(_part_of_transaction(connection))
                depths = [(len(each.savepoint_ids), len(_blocks(each))) for each in before]
                # What a task leaves in context variables, such as a language, ends with it.
                finish = copy_context().run(execute, claim, run)
                if isinstance(finish.exception, DatabaseError):
                    for connection in before:
                        transaction.set_rollback(True, using=connection.alias)
                elif finish.exception is None and any(each.needs_rollback for each in before):
                    raise TransactionManagementError(
                        "The task has caught a database error inside its caller's transaction: "
                        "what it wrote is undone. Catch it around a transaction.atomic() block."
                    )
                for connection, (savepoints, blocks) in zip(before, depths, strict=True):
                    if len(_blocks(connection)) > blocks:  # the task has left one open
                        del connection.savepoint_ids[savepoints:], _blocks(connection)[blocks:]
                        connection.set_rollback(True)
        except DatabaseError as error:
            assert finish is not None
            if finish.exception is None:
                run.exception = error
                finish = self.executor.given_up(claim, run, pause=0.0)
        for connection in in_transactions():
            if connection not in before:  # nor is this one the caller's
                # Else it would stay closed until the block ends, which it never does.
                connection.in_atomic_block = False
                with suppress(Exception):
                    connection.close()
        return finish

    def _hurry(self, claim: Claim, finish: Finish) -> None:
        if finish.exception is not None:
            finish.status = JobStatus.READY.value
            finish.run_at = finish.finished_at
        elif finish.finished_at is not None:
            error = CannotWait(
                f"The task raised Snooze, to run again at {finish.run_at}; with "
                f'{self.executor.options.where}["immediate"] on, nobody runs it later.'
            )
            instead = Finish.failed(
                claim,
                error,
                worker_id=self.executor.worker_id,
                started_at=finish.last_attempted_at,
                finished_at=finish.finished_at,
            )
            finish.become(instead)


def _part_of_transaction(connection: BaseDatabaseWrapper) -> Any:
    """Return a block that is a part of the open transaction, to be kept or undone alone."""
    part: Any = transaction.atomic(using=connection.alias)
    # What Django lets pass right inside a TestCase, such as durable=True, passes in here as well.
    blocks = _blocks(connection)
    part._from_testcase = bool(blocks) and blocks[-1]._from_testcase
    return part


def _blocks(connection: BaseDatabaseWrapper) -> list[Any]:
    """Return the connection's open ``atomic()`` blocks."""
    blocks: list[Any] = connection.atomic_blocks
    return blocks
