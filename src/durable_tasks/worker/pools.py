"""Where claims run: threads for sync tasks, one event loop for coroutines."""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue

from asgiref.sync import sync_to_async
from django.db import connections

from ..compat import TASK_MAX_PRIORITY, task_backends
from ..execute import Executor
from ..store import Claim, Finish
from .interrupts import (
    SIGNAL,
    AnyRun,
    CoroutineRun,
    EventLoop,
    Interrupts,
    MainSlot,
    Slot,
    ThreadRun,
)

# So many coroutines are started before the event loop gets a turn for those that run.
GROUP = 50
# Seconds: how often the connections that coroutines share are looked at.
CONNECTION_CARE = 1.0
# Seconds: how long the main thread waits at a time. A signal that comes right before it begins to
# wait, or that the system hands to another thread, does not interrupt it.
SIGNAL_LOOK = 0.5


def tidy_connections(*, drop: bool = False) -> None:
    """Let no connection of this thread that is too old, broken or inside a transaction go on.

    ``drop``: nor any other; something may have been raised in the midst of what they did.
    Django's ``close_old_connections()`` raises for some that are broken, and what it does to one
    whose transaction was never ended fails every later task of the thread.
    """
    for connection in connections.all(initialized_only=True):
        with suppress(Exception):  # of whatever kind: a slot must not end with it
            if not (drop or connection.in_atomic_block):
                connection.close_if_unusable_or_obsolete()
                continue
        with suppress(Exception):
            connection.close()
        del connections[connection.alias]


class Pool(ABC):
    """Runs claims and puts each one's ``Finish`` on the queue ``ended``."""

    # How many claims can run at once?
    slots: int

    def __init__(
        self,
        slots: int,
        executor: Executor,
        ended: "SimpleQueue[Finish | None]",
        interrupts: Interrupts,
    ) -> None:
        self.slots = slots
        self.executor = executor
        self.ended = ended
        self._last_priority = TASK_MAX_PRIORITY  # of the last that waits
        self.interrupts = interrupts

    @abstractmethod
    def start(self) -> None:
        """Begin to run what is submitted."""

    def submit(self, claims: Sequence[Claim]) -> None:
        """Run these claims, in order, as slots become free.

        Those of a higher priority come before what waits here already.
        """
        if claims[0].priority > self._last_priority and (waiting := self.take_back()):
            claims = sorted([*waiting, *claims], key=lambda claim: -claim.priority)
        self._last_priority = claims[-1].priority
        self._add(claims)

    @abstractmethod
    def _add(self, claims: Sequence[Claim]) -> None:
        """Let these claims wait for slots, after those that do already."""

    @abstractmethod
    def take_back(self) -> list[Claim]:
        """Return the claims that have not started; they will not."""

    @abstractmethod
    def runs(self) -> Collection[AnyRun]:
        """Return the runs that have begun; some may have ended just now."""

    @abstractmethod
    def stop(self) -> None:
        """End, after what was submitted."""

    def interrupt(self, claim: Claim, exception: BaseException) -> None:
        """Raise an exception in a claim's task; nothing happens if it has ended.

        If it has not begun it never does, and ends as cancelled. Call it in the thread that
        submits; returns at once.
        """
        waiting = self.take_back()
        if claim in waiting:
            waiting.remove(claim)
            self.ended.put(self.executor.cancelled(claim, exception))
        else:
            for run in self.runs():
                if run.claim is claim:
                    self.interrupts.ask(run, exception)
        if waiting:
            self._add(waiting)


class ThreadPool(Pool):
    """Runs sync tasks on threads, each with its own database connections.

    ``uses_signal``: whether, in the main thread, a signal interrupts them.
    """

    def __init__(
        self,
        slots: int,
        executor: Executor,
        ended: "SimpleQueue[Finish | None]",
        interrupts: Interrupts,
        *,
        uses_signal: bool = False,
    ) -> None:
        super().__init__(slots, executor, ended, interrupts)
        self._uses_signal = uses_signal and SIGNAL is not None
        self._waiting: SimpleQueue[Claim | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._slots: list[Slot] = []

    def start(self) -> None:
        """Start a thread for each slot. With one slot, call ``run()`` in a thread instead."""
        for number in range(self.slots):
            thread = threading.Thread(target=self.run, name=f"tasks-{number + 1}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def run(self) -> None:
        """Run claims in the calling thread until ``stop()``."""
        task_backends[self.executor.backend_name]  # made once, not in each job's context
        is_main = threading.current_thread() is threading.main_thread()
        slot = (MainSlot if self._uses_signal and is_main else Slot)(self.interrupts)
        self._slots.append(slot)
        try:
            while True:
                try:
                    claim = self._waiting.get_nowait()
                except Empty:
                    claim = self._next()
                    tidy_connections()  # they may have become too old meanwhile
                if claim is None:
                    break
                run = slot.run = ThreadRun(claim, slot)
                # What a job leaves in context variables, such as a language, ends with it.
                finish = copy_context().run(self.executor.execute, claim, run)
                run.end()
                tidy_connections(drop=run.exception is not None)
                self.ended.put(finish)
        finally:
            slot.end()
            connections.close_all()

    def _next(self) -> Claim | None:
        while True:
            try:
                return self._waiting.get(timeout=SIGNAL_LOOK)
            except Empty:
                pass

    def _add(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self._waiting.put(claim)

    def take_back(self) -> list[Claim]:
        taken: list[Claim] = []
        try:
            while (claim := self._waiting.get_nowait()) is not None:
                taken.append(claim)
            self._waiting.put(None)  # not ours to take
        except Empty:
            pass
        return taken

    def runs(self) -> Collection[ThreadRun]:
        return [slot.run for slot in self._slots if slot.run is not None]

    def stop(self) -> None:
        for _ in range(self.slots):
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()


class CoroutinePool(Pool):
    """Runs async tasks on one event loop, on a thread of its own."""

    def __init__(
        self,
        slots: int,
        executor: Executor,
        ended: "SimpleQueue[Finish | None]",
        interrupts: Interrupts,
    ) -> None:
        super().__init__(slots, executor, ended, interrupts)
        self._waiting: deque[Claim] = deque()
        self._starting: CoroutineRun | None = None  # or was the last to start
        self._running: set[CoroutineRun] = set()  # those that wait for something
        self._place = EventLoop(interrupts, self._run)
        self._loop = self._place.loop
        self._cared_at = 0.0
        self._care: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._place.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        task_backends[self.executor.backend_name]
        try:
            self._loop.run_forever()
            if self._care is not None:  # else no coroutine has run, and none has used a connection
                with suppress(RuntimeError):  # the interpreter is exiting and takes no more work
                    self._loop.run_until_complete(sync_to_async(connections.close_all)())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def _add(self, claims: Sequence[Claim]) -> None:
        self._waiting.extend(claims)
        self._loop.call_soon_threadsafe(self._fill)

    def _fill(self) -> None:
        """Start what waits, a group at a time, as long as there are free slots."""
        now = time.monotonic()
        if now - self._cared_at > CONNECTION_CARE:
            # The ORM calls of all coroutines share one thread: drop its broken connections there,
            # before the calls of those that start now.
            self._cared_at = now
            self._care = asyncio.Task(
                sync_to_async(tidy_connections)(), loop=self._loop, eager_start=True
            )
        for _ in range(GROUP):
            if len(self._running) >= self.slots:
                return
            try:
                claim = self._waiting.popleft()
            except IndexError:
                return
            run = self._starting = CoroutineRun(claim, self._place)
            # Runs to its first await at once; a task that never waits is done here.
            task = asyncio.Task(
                self.executor.aexecute(claim, run), loop=self._loop, eager_start=True
            )
            if task.done():
                self._end(run, task.result())
            else:
                run.task = task
                self._running.add(run)
                task.add_done_callback(partial(self._done, run))
        self._loop.call_soon(self._fill)

    def _done(self, run: CoroutineRun, task: "asyncio.Task[Finish]") -> None:
        self._running.discard(run)
        self._end(run, task.result())
        if self._waiting:
            self._fill()

    def _end(self, run: CoroutineRun, finish: Finish) -> None:
        run.end()
        if finish.exception is not None:
            self._cared_at = float("-inf")  # perhaps a connection is broken
        self.ended.put(finish)

    def take_back(self) -> list[Claim]:
        taken: list[Claim] = []
        try:
            while True:
                taken.append(self._waiting.popleft())
        except IndexError:
            return taken

    def runs(self) -> Collection[CoroutineRun]:
        runs = self._running.copy()
        return runs if self._starting is None else {*runs, self._starting}

    def stop(self) -> None:
        if self._place.thread.ident is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._place.thread.join()
