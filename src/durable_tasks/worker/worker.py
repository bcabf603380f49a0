"""A worker: puts the parts of the machine together, and knows its name."""

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, IntegrityError, router

from .. import __version__
from ..chores.rescue import rescue_jobs
from ..chores.schedule import Timetable
from ..exceptions import DurableTasksError, WorkerIdInUse
from ..execute import Executor
from ..ids import new_worker_id
from ..models import Job, Pause, PeriodicTask, Wish
from ..models import Worker as Row
from ..options import Options
from ..results import find_task
from ..retention import Retention
from ..store import Finish, Pauses, Queues, Store, own_connection, store_for
from ..store.registry import Registry, WorkerRow
from .announce import Announcer
from .clock import Clock
from .heartbeat import Heartbeat, log_rescued
from .interrupts import Interrupts
from .loop import LAST_SECONDS, Loop
from .pools import SIGNAL_LOOK, CoroutinePool, ThreadPool, tidy_connections
from .process import is_gone, is_running, process_start, resident_bytes, this_host
from .scheduler import Scheduler
from .statistics import Statistics

logger = logging.getLogger("durable_tasks")

# Seconds between two looks at a worker row that is in the way.
LOOK = 0.5
# Seconds that a batch waits at most for the rescue of lost workers' jobs.
FIRST_LOOK = 5.0
# Scheduled jobs that a batch looks at when it ends, to say how many there are.
COUNTED = 1000
# Seconds that other runs have, without another limit, before a process exits for a stuck one.
EXIT_WITHIN = 60.0


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker works.

    ``sender``: the backend's class, for signals. ``interval``: seconds between two looks for work
    when there is none. ``batch``: stop when nothing is left. ``max_tasks``: stop after so many.
    ``worker_id``: its name, or None to generate one. ``threads``: sync tasks at once.
    ``coroutines``: async tasks at once. ``startup_delay``: the longest pause before the first
    look, in seconds; many workers that start together do not look together.
    ``shutdown_timeout``: seconds that runs have to end when the process has to exit.
    ``periodic``: whether it fires the periodic tasks of its backend. ``prunes``: whether it deletes
    jobs whose time to stay is over; a ``batch`` never does.

    Raises ``ImproperlyConfigured`` if the backend needs no worker.
    """

    sender: type
    options: Options
    queues: Queues
    interval: float = 1.0
    batch: bool = False
    max_tasks: int | None = None
    worker_id: str | None = None
    threads: int = 1
    coroutines: int = 50
    startup_delay: float = 0.0
    shutdown_timeout: float | None = None
    periodic: bool = True
    prunes: bool = True

    def __post_init__(self) -> None:
        if self.options.immediate:
            raise ImproperlyConfigured(
                f'{self.options.where}["immediate"] is on: tasks run where they are enqueued, and '
                "a worker would have nothing to do. Switch it off to have workers run them."
            )


class Worker:
    """Runs jobs in this process until it is stopped.

    ``on_ready``: called once it has its name, right before it works. What that raises ends it.
    ``exit``: ends the process at once, for a run that can't be ended otherwise; None if the process
    is not the worker's own. ``idle``: is set while it has nothing to run.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        on_ready: Callable[[], None] = lambda: None,
        exit: Callable[[], None] | None = None,
        idle: threading.Event | None = None,
    ) -> None:
        self.settings = settings
        self._on_ready = on_ready
        self._exit = exit
        self._idle = idle or threading.Event()
        self.id = settings.worker_id or new_worker_id()
        self.clock = Clock()
        self.retention = Retention(settings.queues.backend_name, settings.options, find_task)
        self._statistics: Statistics | None = None
        self._ended: SimpleQueue[Finish | None] = SimpleQueue()
        self._loop: Loop | None = None
        self._heartbeat: Heartbeat | None = None
        self._stop_asked = False
        # Called, from another thread, when somebody wants this very worker to stop.
        self.on_dismissed: Callable[[], None] = self.stop
        self.dismissed = False
        self._entering: uuid.UUID | None = None  # a life whose row may have been added
        self._error: BaseException | None = None

    def stop(self) -> None:
        """Stop gracefully: claim nothing more, finish what runs, give back the rest.

        Returns at once; may be called from any thread and from a signal handler.
        """
        self._stop_asked = True
        if self._loop is not None:
            self._loop.stop()

    def look_for_lost(self) -> None:
        """Look at once for jobs of lost workers; may be called from any thread."""
        if self._heartbeat is not None:
            self._heartbeat.wake()

    def _heed(self, wish: str | None) -> None:
        """Do what somebody wants of this worker."""
        batch = self.settings.batch
        if wish == Wish.STOP or (wish == Wish.DRAIN and batch):  # a batch has nothing to stay for
            text = "Worker %s was asked to stop: it finishes what runs."
            self.dismissed = True
            self.on_dismissed()
        elif wish == Wish.DRAIN:
            text = "Worker %s was asked to drain: it finishes what runs, and claims nothing more."
        else:
            text = "Worker %s goes on: it claims jobs again."
        logger.info(text, self.id, extra={"worker_id": self.id})
        if self._loop is not None:
            self._loop.drain(wish == Wish.DRAIN)

    def _ring(self) -> None:
        if self._loop is not None:
            self._loop.ring()

    def _look_for_cancels(self) -> None:
        if self._loop is not None:
            self._loop.look_for_cancels()

    def reload(self) -> None:
        """Import the modules of the tasks anew that it has run; what runs goes on as it is.

        May be called from any thread. Raises what the import of a module raises.
        """
        if self._loop is not None:
            self._loop.executor.reload()
            self.retention.clear()

    @property
    def processed(self) -> int:
        """How many runs have ended here, and it counted."""
        return 0 if self._loop is None else self._loop.processed

    @property
    def took_maximum(self) -> bool:
        """Whether it took all of its ``max_tasks``."""
        return self._loop is not None and self._loop.took_maximum

    def run(self) -> None:
        """Work until stopped; with one thread, sync tasks run in the calling thread.

        Raises ``WorkerIdInUse`` if another living worker has the id, ``DurableTasksError`` if the
        tables are missing, and Django's ``DatabaseError`` if the database can't be reached at the
        start. Later on an unreachable database is waited for.
        """
        alias = router.db_for_write(Job)
        connection = own_connection(alias)
        connection.inc_thread_sharing()  # made here, used by the loop's thread
        store = store_for(connection, own=True, retention=self.retention)
        try:
            self._check_tables(store)
            self.clock.measure(store)
            if self.settings.options.statistics:
                queues = self.settings.queues
                self._statistics = Statistics(queues, worker_id=self.id, clock=self.clock)
            if not self._enter(store):
                return
            try:
                paused = self._paused(store)
                self._say_hello(store, paused)
                self._on_ready()
                self._work(store, alias, paused)
                if self.settings.batch and self._error is None:
                    self._say_what_is_due_later(store)
                    self._say_what_is_left(store)
            finally:
                try:
                    Registry(store).leave(self.id, self._life)
                except DatabaseError as error:
                    logger.warning("The worker's row stays behind: %s", str(error).strip())
        finally:
            connection.close()
        if self._error is not None:
            raise self._error

    def _work(self, store: Store, alias: str, paused: Pauses) -> None:
        settings = self.settings
        announcer = Announcer(settings.sender)

        def ended(finishes: list[Finish]) -> None:
            self._count(finishes)
            heartbeat.ended(finishes)

        def rescued(finishes: list[Finish]) -> None:
            self._count([finish for finish in finishes if finish.finished_at is None])
            announcer.ended([finish for finish in finishes if finish.finished_at is not None])

        executor = Executor(
            backend_name=settings.queues.backend_name,
            worker_id=self.id,
            now=self.clock.now,
            options=settings.options,
            database=alias,
            on_start=announcer.started,
            retention=self.retention,
        )
        heartbeat = Heartbeat(
            settings.options.listen_database or alias,
            worker_id=self.id,
            queues=settings.queues,
            clock=self.clock,
            timeout=settings.options.worker_timeout,
            max_lost=settings.options.max_lost,
            retention=self.retention,
            prunes=settings.prunes and not settings.batch,
            statistics=self._statistics,
            on_rescued=rescued,
            listens=settings.options.notify,
            on_ring=self._ring,
            on_cancel=self._look_for_cancels,
            on_wish=self._heed,
        )
        interrupts = Interrupts(lambda run: loop.stuck(run))
        threads = ThreadPool(
            settings.threads,
            executor,
            self._ended,
            interrupts,
            uses_signal=self._exit is not None,
        )
        coroutines = CoroutinePool(settings.coroutines, executor, self._ended, interrupts)
        self._loop = loop = Loop(
            store=store,
            queues=settings.queues,
            paused=paused,
            executor=executor,
            clock=self.clock,
            heartbeat=heartbeat,
            announcer=announcer,
            threads=threads,
            coroutines=coroutines,
            ended=self._ended,
            interval=settings.interval,
            batch=settings.batch,
            max_tasks=settings.max_tasks,
            prefetch=None if settings.options.prefetch == "auto" else settings.options.prefetch,
            give_up_after=settings.options.worker_timeout,
            enter=lambda: self._add_row(Registry(store)),
            may_exit=self._exit is not None,
            exit_within=settings.shutdown_timeout or EXIT_WITHIN,
            idle=self._idle,
        )
        scheduler = Scheduler(
            Timetable.of(settings.queues.backend_name, settings.options),
            worker_id=self.id,
            clock=self.clock,
            look_every=settings.options.worker_timeout / 4,
            on_fired=self._ring,
        )
        if settings.batch and settings.periodic:
            scheduler.look()
            tidy_connections()
        announcer.start(executor, ended)
        heartbeat.start(self._life)
        self._heartbeat = heartbeat
        if settings.batch:  # what lost workers left is part of what there is
            heartbeat.looked.wait(FIRST_LOOK)
        interrupts.start()
        coroutines.start()
        if settings.periodic and not settings.batch:
            scheduler.start()
        if self._stop_asked:  # while it was being made
            loop.stop()
        thread = threading.Thread(
            target=self._run_loop,
            args=[loop, threads, announcer, heartbeat],
            name="loop",
            daemon=True,
        )
        if settings.threads == 1:
            thread.start()
            # In this thread, so that a signal interrupts what a task waits for.
            threads.run()
        else:
            threads.start()  # before the loop, which ends them and may be over at once
            thread.start()
        while thread.is_alive():
            thread.join(SIGNAL_LOOK)
        scheduler.stop()
        coroutines.stop()
        interrupts.stop()
        heartbeat.stop()
        announcer.stop()

    def _count(self, finishes: Sequence[Finish]) -> None:
        if self._statistics is not None:
            self._statistics.count(finishes)

    def _run_loop(
        self, loop: Loop, threads: ThreadPool, announcer: Announcer, heartbeat: Heartbeat
    ) -> None:
        try:
            loop.run()
        except BaseException as error:
            self._error = error
        finally:
            if loop.has_stuck and self._exit is not None:
                self._leave_stuck(loop, announcer, heartbeat)
            threads.stop()

    def _leave_stuck(self, loop: Loop, announcer: Announcer, heartbeat: Heartbeat) -> None:
        """Exit from under runs that can't be ended; what could be saved is saved."""
        assert self._exit is not None
        try:
            announcer.stop(timeout=LAST_SECONDS / 2)
            heartbeat.stop(timeout=LAST_SECONDS / 4)
            logger.error(
                "Worker %s exits from under a run that can't be ended.",
                self.id,
                exc_info=self._error,
                extra={"worker_id": self.id},
            )
            if not loop.holds_more:
                Registry(loop.store).leave(self.id, self._life)
        finally:
            self._exit()

    def _say_hello(self, store: Store, paused: Pauses) -> None:
        settings = self.settings
        extra = {"worker_id": self.id}
        logger.info(
            "Worker %s serves queues: %s. Threads: %s, coroutines: %s.%s",
            *(self.id, settings.queues, settings.threads, settings.coroutines),
            f" Paused: {paused}." if paused else "",
            extra=extra,
        )
        if note := store.own_note():
            logger.info("%s", note, extra=extra)
        waiting = store.queue_names(Queues(settings.queues.backend_name, None))
        others = [name for name in waiting if not settings.queues.serve(name)]
        if others:
            logger.info(
                "Not served by this worker, with jobs waiting: %s.", ", ".join(others), extra=extra
            )

    def _paused(self, store: Store) -> Pauses:
        """Return what is paused of all that this worker would run."""
        queues = self.settings.queues
        return store.pauses(queues.backend_name).of(queues)

    def _say_what_is_left(self, store: Store) -> None:
        """Say what a batch has left although it is due, as its last words."""
        if paused := self._paused(store):
            logger.info(
                "Paused, and not run by this batch: %s.", paused, extra={"worker_id": self.id}
            )

    def _say_what_is_due_later(self, store: Store) -> None:
        count, complete = store.count_scheduled(self.settings.queues, COUNTED)
        if count:
            logger.info(
                "Due later, and not run by this batch: %s%s.",
                *("" if complete else "at least ", f"{count} jobs" if count > 1 else "1 job"),
                extra={"worker_id": self.id},
            )

    # The name

    def _check_tables(self, store: Store) -> None:
        wanted = {model._meta.db_table for model in (Job, PeriodicTask, Row, Pause)}
        if missing := wanted - store.tables():
            raise DurableTasksError(
                f"The database {store.connection.alias!r} has no table {sorted(missing)[0]}: "
                f"run manage.py migrate --database {store.connection.alias}."
            )

    def _enter(self, store: Store) -> bool:
        """Add this worker's row, after a former life of its name has gone.

        Returns False if a stop was asked for meanwhile. Raises ``WorkerIdInUse``.
        """
        registry = Registry(store)
        first = row = registry.find(self.id)
        timeout = self.settings.options.worker_timeout
        while row is not None and not is_gone(row):
            assert first is not None
            expires = row.last_seen + int(timeout * 1_000_000)
            if row.life != first.life or row.last_seen != first.last_seen:
                raise WorkerIdInUse(f"{row} is alive; choose another --worker-id.")
            if expires <= self.clock.micros():
                break
            if is_running(row):
                raise WorkerIdInUse(f"{row} is running; choose another --worker-id.")
            if row is first:
                logger.info(
                    "Waiting up to %.0f s for the former %s, which can't be seen from here.",
                    (expires - self.clock.micros()) / 1e6,
                    row,
                    extra={"worker_id": self.id},
                )
            time.sleep(LOOK)
            if self._stop_asked:
                return False
            row = registry.find(self.id)
        if row is not None:
            registry.remove(row)
        max_lost = self.settings.options.max_lost
        rescued = rescue_jobs(store, self.id, self.clock.now(), max_lost=max_lost)
        if rescued:
            log_rescued(rescued, self.id)
            self._count(rescued)
        self._add_row(registry)
        # The first look: not all at once when many start together.
        until = time.monotonic() + random.uniform(0, self.settings.startup_delay)
        while (left := until - time.monotonic()) > 0 and not self._stop_asked:
            time.sleep(min(left, LOOK))
        return True

    def _add_row(self, registry: Registry) -> uuid.UUID:
        """Add a row for a new life of this worker and return the life."""
        settings = self.settings
        life = self._entering = self._entering or uuid.uuid4()
        row = WorkerRow(
            id=self.id,
            life=life,
            backend_name=settings.queues.backend_name,
            host=this_host(),
            pid=os.getpid(),
            process_started=process_start(os.getpid()),
            last_seen=self.clock.micros(),
            wish=None if self._heartbeat is None else self._heartbeat.wish,
        )
        try:
            registry.add(
                row,
                queues=str(settings.queues),
                threads=settings.threads,
                coroutines=settings.coroutines,
                version=__version__,
                memory=resident_bytes(),
                now=self.clock.now(),
            )
        except IntegrityError as error:
            other = registry.find(self.id)
            if other is None or other.life != life:  # not our own, whose reply was lost
                raise WorkerIdInUse(
                    f"{other or self.id} is alive; choose another --worker-id."
                ) from error
        self._entering = None
        self._life = life
        return life
