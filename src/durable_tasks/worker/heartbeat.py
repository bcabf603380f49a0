"""The heartbeat: says that this worker is alive, rescues the jobs of those that are not, prunes."""

import logging
import threading
import time
from collections.abc import Callable
from uuid import UUID, uuid4

from django.db import Error as DatabaseFault

from ..chores import rescue
from ..chores.prune import Pruning
from ..retention import Retention
from ..store import Finish, Queues, Store, own_connection, store_for
from ..store.bells import Bell
from ..store.registry import Registry
from ..store.waits import CANCEL, WAIT, WISH, Awaited
from .clock import Clock
from .process import is_gone, resident_bytes
from .statistics import Statistics

logger = logging.getLogger("durable_tasks")

# Seconds in which a notification to ourselves should have come.
TEST_TIMEOUT = 2.0


class Heartbeat:
    """Beats on a thread and a connection of its own, so that no task and no claim delays it.

    ``timeout``: seconds without a beat after which a worker counts as lost; it beats four times as
    often. ``retention``: how long the jobs stay that end with a rescue. ``prunes``: whether to
    delete what is due to be. ``statistics``: what to write down in between, if anything.
    ``on_rescued``: called with what became of other workers' jobs. ``listens``: whether to listen
    for notifications; ``on_ring``: called when there may be something to claim; ``on_cancel``:
    called when one of this worker's jobs is to be cancelled; ``on_wish``: called with what is
    wanted of this worker, or None, whenever that has changed.
    """

    def __init__(
        self,
        database: str,
        *,
        worker_id: str,
        queues: Queues,
        clock: Clock,
        timeout: float,
        max_lost: int,
        retention: Retention,
        prunes: bool,
        statistics: Statistics | None = None,
        on_rescued: Callable[[list[Finish]], None],
        listens: bool,
        on_ring: Callable[[], None],
        on_cancel: Callable[[], None],
        on_wish: Callable[[str | None], None],
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._queues = queues
        self._clock = clock
        self._timeout = timeout
        self._max_lost = max_lost
        self._retention = retention
        self._pruning = Pruning()
        # When to prune (monotonic).
        self._prune_at = time.monotonic() + self._pruning.pause() if prunes else float("inf")
        self._statistics = statistics
        self._on_rescued = on_rescued
        self._listens = listens
        self._on_ring = on_ring
        self._on_cancel = on_cancel
        self._on_wish = on_wish
        # What was wanted of this worker at the last beat.
        self.wish: str | None = None
        self._bell: Bell
        self._awaited = Awaited()
        # Do notifications arrive? Known once the one that the loop sends has come.
        self.hears = False
        # A notification with this payload is to be sent over another connection, or None.
        self.test: str | None = None
        self._token: str | None = None
        self._testing = False  # it is not known yet whether it arrives
        self._deaf = False  # it is known not to
        self._tested_at: float | None = None
        self.life: UUID | None = None
        # Set when the worker's row was gone: others have taken its jobs.
        self.lost = threading.Event()
        # Set after the first look for jobs of lost workers.
        self.looked = threading.Event()
        self._beaten_at = float("-inf")
        self._beaten = threading.Condition()
        self._called = False  # wake() was called since the last beat began
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self, life: UUID) -> None:
        """Begin to beat for a life whose row was just added."""
        self.begin(life)
        self._bell = Bell(self._rang)
        self._thread.start()

    def begin(self, life: UUID) -> None:
        """Beat for a new life from now on."""
        self.life = life
        self.lost.clear()
        self._beaten_at = time.monotonic()

    def stop(self, timeout: float | None = None) -> None:
        """End, within ``timeout`` seconds if not None, once the last counts are written down."""
        self._stopping = True
        self._bell.wake()
        self._thread.join(timeout)

    def is_fresh(self) -> bool:
        """Return whether other workers surely still believe that this one is alive.

        Not so after this process was paused, or cut off from the database, for too long.
        """
        return not self.lost.is_set() and time.monotonic() - self._beaten_at < self._timeout * 0.7

    def wake(self) -> None:
        """Beat and look for lost workers now; returns at once, from any thread."""
        self._called = True
        self._bell.wake()

    def beat_now(self, timeout: float) -> bool:
        """Ask for a beat and wait up to ``timeout`` seconds for it; return ``is_fresh()``."""
        self.wake()
        with self._beaten:
            self._beaten.wait_for(lambda: self.is_fresh() or self.lost.is_set(), timeout)
        return self.is_fresh()

    def ended(self, finishes: list[Finish]) -> None:
        """Let those know who wait for these jobs; returns at once, from any thread."""
        if self._awaited.note(finishes):
            self._bell.wake()

    def _run(self) -> None:
        connection = own_connection(self._database)
        store = store_for(connection, own=True, retention=self._retention)
        failing = False
        while not self._stopping:
            try:
                if connection.connection is None:
                    store.rows("SELECT 1")
                    self._listen(store)
                pause = self._tick(Registry(store))
                if self._deaf:
                    # Behind a pooler, LISTEN stays on a connection that others are lent next, and
                    # brings them what they never asked for. This may be that one, if not this time.
                    self._bell.ignore(store)
                if failing:
                    logger.info("The heartbeat is back.", extra={"worker_id": self._worker_id})
                    failing = False
            except DatabaseFault as error:
                connection.close()
                if not failing:
                    logger.warning(
                        "The heartbeat can't reach the database and keeps trying: %s",
                        str(error).strip(),
                        extra={"worker_id": self._worker_id},
                    )
                    failing = True
                pause = min(1.0, self._timeout / 10)
            except Exception:
                logger.exception("The heartbeat failed.", extra={"worker_id": self._worker_id})
                connection.close()
                pause = min(1.0, self._timeout / 10)
            self.looked.set()
            self._rest(store, time.monotonic() + pause)
        if self._statistics is not None:
            self._statistics.finish(store)
        connection.close()
        self._bell.close()

    def _rest(self, store: Store, until: float) -> None:
        """Wait for the next beat; meanwhile prune, count, and tell those who wait."""
        while True:
            statistics = self._statistics
            count_at = float("inf") if statistics is None else statistics.due_at
            look_at = min(until, self._prune_at, count_at)
            self._wait(max(0.0, look_at - time.monotonic()))
            told = self._tell(store)
            now = time.monotonic()
            if self._called or self._stopping or now >= until or (now < look_at and not told):
                return
            if now >= self._prune_at:
                self._prune(store)
            if statistics is not None and now >= count_at:
                statistics.tick(store)

    def _prune(self, store: Store) -> None:
        """Delete a batch of what is due to be; say when to go on."""
        pause = self._pruning.pause()
        try:
            if store.connection.connection is not None:  # otherwise a beat connects again
                pruned = self._pruning.tick(store, self._clock.now())
                pause = pruned.pause
                if pruned.kept:
                    logger.warning(
                        "Jobs that are due to be deleted stay, since other rows refer to them: %s.",
                        pruned.kept,
                        extra={"worker_id": self._worker_id},
                    )
        except DatabaseFault as error:
            logger.warning(
                "Pruning has failed and is tried again in %.0f s: %s",
                pause,
                str(error).strip(),
                extra={"worker_id": self._worker_id},
            )
        except Exception:
            logger.exception("Pruning failed.", extra={"worker_id": self._worker_id})
        self._prune_at = time.monotonic() + pause

    # Notifications

    def _listen(self, store: Store) -> None:
        self.hears = self._deaf = False
        self._testing = self._listens and store.notifies
        self._tested_at = None
        if self._testing:
            self._bell.listen(store)
        else:
            self._bell.ignore()

    def _tell(self, store: Store) -> bool:
        """Tell those who wait for what has ended; return whether anybody was told."""
        if store.connection.connection is None:
            return False  # a beat connects again
        try:
            return self._awaited.tell(store)
        except DatabaseFault:
            return False  # they look by themselves, and the next beat says what is wrong

    def _rang(self, payload: str) -> None:
        if payload == f"{WISH}{self._worker_id}":
            self.wake()  # a beat reads it
            return
        if payload.startswith(CANCEL):
            if payload == f"{CANCEL}{self._worker_id}":
                self._on_cancel()
            return
        if payload.startswith(WAIT):
            self._awaited.hear(payload)
            return
        backend_name, _, queue_name = payload.partition("\n")
        if payload == self._token:
            self.hears = True
            self._testing = self._deaf = False
            logger.debug("Notifications arrive.", extra={"worker_id": self._worker_id})
        elif backend_name == self._queues.backend_name and self._queues.serve(queue_name):
            self._on_ring()

    def _wait(self, pause: float) -> None:
        if not self._testing:
            self._bell.wait(pause)
            return
        if self._tested_at is None:
            # Not sooner: a pooler lends a connection for the time of a statement, and one that was
            # just used to LISTEN could bring this one notification and no other.
            self.test = self._token = f"{self._queues.backend_name}\n\n{uuid4()}"
            self._on_ring()
            self._tested_at = time.monotonic()
        self._bell.wait(min(pause, TEST_TIMEOUT))
        if self.test is not None:  # it was not sent yet
            self._tested_at = time.monotonic()
        if self._testing and time.monotonic() - self._tested_at >= TEST_TIMEOUT:
            logger.info(
                "Notifications do not arrive on %r; this worker looks for work at its interval. "
                'OPTIONS["listen_database"] may name a direct connection.',
                self._database,
                extra={"worker_id": self._worker_id},
            )
            self._testing = False
            self._deaf = True

    def _tick(self, registry: Registry) -> float:
        """Beat and rescue once; return the seconds until the next time."""
        started = time.monotonic()
        self._called = False
        self._awaited.forget()
        life = self.life
        assert life is not None
        self._clock.measure(registry.store)
        now = self._clock.micros()
        if registry.beat(self._worker_id, life, now, resident_bytes()):
            with self._beaten:
                self._beaten_at = started
                self._beaten.notify_all()
        elif life is self.life and not self._stopping:
            with self._beaten:
                self.lost.set()
                self._beaten.notify_all()
        pause = self._timeout / 4
        report = rescue.tick(
            registry.store,
            self._clock.now(),
            seen=now,
            backend_name=self._queues.backend_name,
            timeout=self._timeout,
            max_lost=self._max_lost,
            is_gone=is_gone,
        )
        for row in report.living:
            if row.life == life and row.wish != self.wish:
                self.wish = row.wish
                self._on_wish(row.wish)
        for row in report.workers:
            logger.warning("The %s is lost.", row, extra={"worker_id": self._worker_id})
        if report.finishes:
            log_rescued(report.finishes, self._worker_id)
            self._on_rescued(report.finishes)
            self._on_ring()
        if report.next_look is not None:
            # A little later than the very moment: a beat may be on its way.
            pause = min(pause, max((report.next_look - now) / 1e6 + 0.1, 0.1))
        return pause


def log_rescued(finishes: list[Finish], worker_id: str) -> None:
    """Say what became of a lost worker's jobs."""
    ended = sum(finish.finished_at is not None for finish in finishes)
    logger.warning(
        "Rescued %s jobs of lost workers: %s will run again, %s ended.",
        len(finishes),
        len(finishes) - ended,
        ended,
        extra={"worker_id": worker_id},
    )
