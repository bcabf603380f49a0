"""Signals and log lines of what the worker does, on a thread of its own."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from queue import SimpleQueue
from typing import Any

from django.db import connections

from ..compat import task_finished, task_started
from ..execute import Executor
from ..signals import announce, is_heard
from ..statuses import JobStatus
from ..store import Claim, Finish
from .pools import tidy_connections

logger = logging.getLogger("durable_tasks")

# So many endings may wait to be announced before the worker waits for its receivers.
MAX_BEHIND = 10_000


def facts(claim: Claim | None, worker_id: str) -> dict[str, Any]:
    """Return what every log record about a job carries."""
    if claim is None:
        return {"worker_id": worker_id}
    return {
        "job_id": str(claim.id),
        "task_path": claim.task_path,
        "queue_name": claim.queue_name,
        "worker_id": worker_id,
        "attempt": claim.attempts,
    }


def first_line(exception: BaseException | None) -> str:
    """Return the beginning of an exception's text."""
    try:
        lines = [] if exception is None else str(exception).splitlines()
    except Exception:  # its own method raised
        return "(can't be printed)"
    return lines[0][:200] if lines else ""


class Announcer:
    """Tells receivers and logs: a slow receiver of a signal must not stop claims.

    ``sender``: the backend's class, as Django's signals have it.
    """

    def __init__(self, sender: type) -> None:
        self._sender = sender
        self._executor: Executor
        self._on_ended: Callable[[list[Finish]], None]
        self._queue: SimpleQueue[tuple[Claim, datetime] | list[Finish] | None] = SimpleQueue()
        self._tells_starts = True
        self._behind = 0
        self._room = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self, executor: Executor, on_ended: Callable[[list[Finish]], None]) -> None:
        """Begin to announce what ``executor`` starts.

        ``on_ended``: called at once, whatever waits to be announced, with the jobs that ended.
        """
        self._executor = executor
        self._on_ended = on_ended
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Announce what is left, within ``timeout`` seconds if not None, then end."""
        self._queue.put(None)
        self._thread.join(timeout)

    def look(self) -> None:
        """See whether anybody listens to the starts of what is about to be claimed."""
        self._tells_starts = is_heard(task_started) or logger.isEnabledFor(logging.DEBUG)

    def started(self, claim: Claim, started_at: datetime) -> None:
        """A job is about to run; called by the thread that runs it."""
        if self._tells_starts:
            self._queue.put((claim, started_at))

    def ended(self, finishes: list[Finish]) -> None:
        """Jobs ended and it counted. Waits if the receivers are far behind."""
        if not finishes:
            return
        self._on_ended(finishes)
        with self._room:
            self._room.wait_for(lambda: self._behind < MAX_BEHIND)
            self._behind += len(finishes)
        self._queue.put(finishes)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                tidy_connections()
                if isinstance(item, tuple):
                    self._tell_start(*item)
                else:
                    self._tell_ends(item)
            except Exception:
                logger.exception("An announcement failed; the jobs themselves are saved.")
            finally:
                if isinstance(item, list):
                    with self._room:
                        self._behind -= len(item)
                        self._room.notify_all()
        connections.close_all()

    def _tell_start(self, claim: Claim, started_at: datetime) -> None:
        logger.debug(
            "Job %s of %s starts, attempt %s.",
            claim.id,
            claim.task_path,
            claim.attempts,
            extra=facts(claim, self._executor.worker_id),
        )
        announce(
            task_started,
            self._sender,
            lambda: self._executor.result_at_start(claim, started_at),
        )

    def _tell_ends(self, finishes: Sequence[Finish]) -> None:
        debug = logger.isEnabledFor(logging.DEBUG)
        info = logger.isEnabledFor(logging.INFO)
        heard = {failed: is_heard(task_finished, failed=failed) for failed in (False, True)}
        if not (debug or heard[False]):  # successes, most of them, are nobody's business
            finishes = [each for each in finishes if each.status != JobStatus.SUCCESSFUL]
        for finish in finishes:
            if not finish.is_end:
                if info:
                    self._log_next_run(finish)
                continue
            failed = finish.status != JobStatus.SUCCESSFUL
            if failed:
                if info:
                    self._log_failure(finish)
            elif debug:
                assert finish.claim is not None
                logger.debug(
                    "Job %s of %s ended well.",
                    finish.id,
                    finish.claim.task_path,
                    extra=facts(finish.claim, self._executor.worker_id),
                )
            if not heard[failed]:
                continue
            if not failed or finish.exception is None:
                self._tell_end(finish, failed)
                continue
            # Receivers, Django's own among them, look at sys.exc_info().
            traceback = finish.exception.__traceback__
            try:
                raise finish.exception
            except BaseException as error:
                error.__traceback__ = traceback  # without the frame of this raise
                self._tell_end(finish, failed)

    def _tell_end(self, finish: Finish, failed: bool) -> None:
        announce(
            task_finished,
            self._sender,
            lambda: self._executor.result_at_end(finish),
            failed=failed,
        )

    def _log_next_run(self, finish: Finish) -> None:
        assert finish.claim is not None
        assert finish.run_at is not None
        assert finish.finished_at is not None
        asked = finish.exception is None
        logger.info(
            "Job %s of %s %s; it runs again in %.1f s.",
            finish.id,
            finish.claim.task_path,
            "was snoozed"
            if asked
            else f"failed: {finish.exception_class_path}: {first_line(finish.exception)}",
            (finish.run_at - finish.finished_at).total_seconds(),
            extra=facts(finish.claim, self._executor.worker_id),
        )

    def _log_failure(self, finish: Finish) -> None:
        assert finish.claim is not None
        logger.info(
            "Job %s of %s %s: %s: %s",
            finish.id,
            finish.claim.task_path,
            finish.status.lower(),
            finish.exception_class_path,
            first_line(finish.exception),
            extra=facts(finish.claim, self._executor.worker_id),
        )
