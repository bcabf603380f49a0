"""What is said of a job, in signals and log lines, when it starts and when it has ended."""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from .compat import task_finished, task_started
from .execute import Executor
from .signals import announce, is_heard
from .statuses import JobStatus
from .store import Claim, Finish

logger = logging.getLogger("durable_tasks")


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


def log_no_count(finish: Finish, worker_id: str) -> None:
    """Say that an ending was not written."""
    logger.warning(
        "The ending of job %s (%s) does not count: another worker has the job.",
        finish.id,
        finish.status,
        extra=facts(finish.claim, worker_id),
    )


def first_line(exception: BaseException | None) -> str:
    """Return the beginning of an exception's text."""
    try:
        lines = [] if exception is None else str(exception).splitlines()
    except Exception:  # its own method raised
        return "(can't be printed)"
    return lines[0][:200] if lines else ""


class Announcements:
    """Tells receivers, and logs, what one executor runs.

    ``sender``: the backend's class, as Django's signals have it.
    """

    def __init__(self, sender: type, executor: Executor) -> None:
        self._sender = sender
        self._executor = executor
        self._sends = executor.options.signals

    def start(self, claim: Claim, started_at: datetime) -> None:
        """A job is about to run."""
        logger.debug(
            "Job %s of %s starts, attempt %s.",
            claim.id,
            claim.task_path,
            claim.attempts,
            extra=facts(claim, self._executor.worker_id),
        )
        if self._sends:
            announce(
                task_started,
                self._sender,
                lambda: self._executor.result_at_start(claim, started_at),
            )

    def ends(self, finishes: Sequence[Finish]) -> None:
        """Runs ended, and it counted."""
        debug = logger.isEnabledFor(logging.DEBUG)
        info = logger.isEnabledFor(logging.INFO)
        heard = {
            failed: self._sends and is_heard(task_finished, failed=failed)
            for failed in (False, True)
        }
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
                self._send_end(finish, failed)
                continue
            # Receivers, Django's own among them, look at sys.exc_info().
            traceback = finish.exception.__traceback__
            try:
                raise finish.exception
            except BaseException as error:
                error.__traceback__ = traceback  # without the frame of this raise
                self._send_end(finish, failed)

    def _send_end(self, finish: Finish, failed: bool) -> None:
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
