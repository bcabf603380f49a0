"""Where claims run: threads for sync tasks, one event loop for coroutines."""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue

from asgiref.sync import sync_to_async
from django.db import connections

from ..compat import TASK_MAX_PRIORITY, task_backends
from ..execute import Executor
from ..store import Claim, Finish

# So many coroutines are started before the event loop gets a turn for those that run.
GROUP = 50
# Seconds: how often the connections that coroutines share are looked at.
CONNECTION_CARE = 1.0
# Seconds: how long the main thread waits at a time. A signal that comes right before it begins to
# wait, or that the system hands to another thread, does not interrupt it.
SIGNAL_LOOK = 0.5


def tidy_connections() -> None:
    """Let no connection of this thread that is too old, broken or inside a transaction go on.

    Django's ``close_old_connections()`` raises for some that are broken, and what it does to one
    whose transaction was never ended fails every later task of the thread.
    """
    for connection in connections.all(initialized_only=True):
        with suppress(Exception):  # of whatever kind: a slot must not end with it
            if not connection.in_atomic_block:
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
    ) -> None:
        self.slots = slots
        self.executor = executor
        self.ended = ended
        self._last_priority = TASK_MAX_PRIORITY  # of the last that waits

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
    def stop(self) -> None:
        """End, after what was submitted."""


class ThreadPool(Pool):
    """Runs sync tasks on threads, each with its own database connections."""

    def __init__(
        self,
        slots: int,
        executor: Executor,
        ended: "SimpleQueue[Finish | None]",
    ) -> None:
        super().__init__(slots, executor, ended)
        self._claims: SimpleQueue[Claim | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start a thread for each slot. With one slot, call ``run()`` in a thread instead."""
        for number in range(self.slots):
            thread = threading.Thread(target=self.run, name=f"tasks-{number + 1}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def run(self) -> None:
        """Run claims in the calling thread until ``stop()``."""
        task_backends[self.executor.backend_name]  # made once, not in each job's context
        try:
            while True:
                waits = self._claims.empty()
                if (claim := self._next()) is None:
                    break
                if waits:  # connections may have become too old meanwhile
                    tidy_connections()
                # What a job leaves in context variables, such as a language, ends with it.
                finish = copy_context().run(self.executor.execute, claim)
                tidy_connections()
                self.ended.put(finish)
        finally:
            connections.close_all()

    def _next(self) -> Claim | None:
        while True:
            try:
                return self._claims.get(timeout=SIGNAL_LOOK)
            except Empty:
                pass

    def _add(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self._claims.put(claim)

    def take_back(self) -> list[Claim]:
        taken: list[Claim] = []
        try:
            while (claim := self._claims.get_nowait()) is not None:
                taken.append(claim)
            self._claims.put(None)  # not ours to take
        except Empty:
            pass
        return taken

    def stop(self) -> None:
        for _ in range(self.slots):
            self._claims.put(None)
        for thread in self._threads:
            thread.join()


class CoroutinePool(Pool):
    """Runs async tasks on one event loop, on a thread of its own."""

    def __init__(
        self,
        slots: int,
        executor: Executor,
        ended: "SimpleQueue[Finish | None]",
    ) -> None:
        super().__init__(slots, executor, ended)
        self._waiting: deque[Claim] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="coroutines", daemon=True)
        self._cared_at = 0.0
        self._care: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._thread.start()

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
            # Runs to its first await at once; a task that never waits is done here.
            task = asyncio.Task(self._run_one(claim), loop=self._loop, eager_start=True)
            if not task.done():
                self._running.add(task)
                task.add_done_callback(self._done)
        self._loop.call_soon(self._fill)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if self._waiting:
            self._fill()

    async def _run_one(self, claim: Claim) -> None:
        finish = await self.executor.aexecute(claim)
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

    def stop(self) -> None:
        if self._thread.ident is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
