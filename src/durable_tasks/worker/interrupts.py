"""Ending runs from outside: their time is over, or their jobs are cancelled.

What is meant for one run must never reach the next one of its thread. So a run that is to be
interrupted has a lock: who raises something in it holds that lock, and the run itself takes it for
good once its task has returned. What is on its way by then is taken back.
"""

import asyncio
import ctypes
import signal
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from ..exceptions import Cancel, Retry, Snooze, TaskCancelled, TaskTimeout
from ..execute import Run
from ..store import Claim, StoreNotSupported, store_for

# Seconds that a run has to end after something was raised in it; then it counts as stuck.
GRACE = 5.0
# Seconds after which it is raised again: the task may have caught it.
AGAIN = 1.0
NEVER = float("inf")
# Wakes a main thread that sleeps or waits for a socket. By default it does nothing, so one that
# comes late harms nobody.
SIGNAL = getattr(signal, "SIGURG", None)

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc


class Slot:
    """A thread that runs sync tasks, as those see it that interrupt it. Made in that thread.

    ``run``: the run that it is in, or was in last.
    """

    run: "ThreadRun | None" = None

    def __init__(self, interrupts: "Interrupts") -> None:
        self.interrupts = interrupts
        self.ident = threading.get_ident()
        self._cancels: dict[BaseDatabaseWrapper, tuple[Any, Callable[[], None]]] = {}
        for connection in connections.all(initialized_only=True):
            if connection.connection is not None:
                self._connected(connection)
        connection_created.connect(self._connected)

    def _connected(self, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        if threading.get_ident() == self.ident:
            for each in list(self._cancels):
                if each.connection is None:
                    del self._cancels[each]
            with suppress(StoreNotSupported):  # not all databases have to be the jobs'
                cancel = store_for(connection).query_canceller()
                self._cancels[connection] = connection.connection, cancel

    def end(self) -> None:
        """The thread takes no more runs."""
        connection_created.disconnect(self._connected)

    def throw(self, run: "ThreadRun") -> None:
        """Raise the run's exception in the thread, as soon as it runs Python code."""
        exception = run.another()
        # Python wants a class and calls it; so the class is one that gives the very exception.
        kind = type("Interrupt", (BaseException,), {"__new__": lambda cls: exception})
        _set_async_exc(ctypes.c_ulong(self.ident), ctypes.py_object(kind))

    def take_back(self) -> None:
        """Let nothing that was thrown be raised any more."""
        _set_async_exc(ctypes.c_ulong(self.ident), None)

    def cancel_queries(self) -> None:
        """Cancel what the thread's database connections are waiting for."""
        for connection, (driver, cancel) in self._cancels.copy().items():
            if connection.connection is driver:
                with suppress(Exception):  # the query has just ended, or the server is away
                    cancel()


class MainSlot(Slot):
    """The main thread of a process that is ours: a signal ends what it waits for, too."""

    def __init__(self, interrupts: "Interrupts") -> None:
        super().__init__(interrupts)
        self._wanted: ThreadRun | None = None
        assert SIGNAL is not None
        self._before = signal.signal(SIGNAL, self._signalled)

    def _signalled(self, number: int, frame: Any) -> None:
        run, self._wanted = self._wanted, None
        if run is not None and not run.closed:
            raise run.another()

    def end(self) -> None:
        super().end()
        assert SIGNAL is not None
        signal.signal(SIGNAL, self._before or signal.SIG_DFL)

    def throw(self, run: "ThreadRun") -> None:
        assert SIGNAL is not None
        self._wanted = run
        signal.pthread_kill(self.ident, SIGNAL)

    def take_back(self) -> None:
        self._wanted = None


class EventLoop:
    """The thread that runs async tasks, as those see it that interrupt them."""

    def __init__(self, interrupts: "Interrupts", run: Callable[[], None]) -> None:
        self.interrupts = interrupts
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=run, name="coroutines", daemon=True)


class WorkerRun[P: (Slot, EventLoop)](Run, ABC):
    """The run of a claim in a pool. ``place``: where it runs."""

    # Set before ``exception`` is looked at. Whoever interrupts sets that first and looks at these
    # then; so at least one of the two sees the other.
    begun = closed = False
    is_stuck = False
    deadline: float | None = None  # monotonic, as all times here
    asked_at = again_at = 0.0
    lock: threading.Lock  # once there is an exception

    def __init__(self, claim: Claim, place: P) -> None:
        self.claim = claim
        self.place: P = place

    def limit(self, seconds: float) -> None:
        self.timeout = seconds
        self.deadline = time.monotonic() + seconds
        self.place.interrupts.watch(self, self.deadline)

    def begin(self) -> None:
        self.begun = True
        if self.exception is not None:
            raise self.another()

    def end(self) -> None:
        """Nothing is raised in it any more."""
        self.closed = True
        if self.deadline is not None:
            self.place.interrupts.forget(self)

    @abstractmethod
    def interrupt(self) -> None:
        """Raise the exception in the run, if it has begun and not ended; returns at once."""

    @property
    def blocks(self) -> bool:
        """Whether no other run of its pool can go on either."""
        return False

    def another(self) -> BaseException:
        """Return a new exception like the one to raise: each raise adds to a traceback."""
        assert self.exception is not None
        return type(self.exception)(*self.exception.args)

    def told(self, error: BaseException) -> BaseException:
        """Return what ended the run: once it was interrupted, no error that follows from that."""
        asked = self.exception
        if asked is None or isinstance(error, type(asked)):
            return error
        if isinstance(error, (Retry, Snooze, Cancel)) and not isinstance(asked, TaskCancelled):
            return error
        asked.__cause__ = error
        return asked

    @property
    @abstractmethod
    def thread_id(self) -> int | None:
        """The thread that it runs in."""

    def where(self) -> str:
        """Return where its thread is, as a traceback prints it."""
        frame = sys._current_frames().get(self.thread_id or 0)
        return "".join(traceback.format_stack(frame)) if frame else ""


class ThreadRun(WorkerRun[Slot]):
    """A run of a sync task."""

    def call(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            self.begin()
            return function(*args, **kwargs)
        finally:
            # What was thrown is raised at the end of a call at the earliest: this is done before,
            # and the lock is taken. After it one exception can be left, and none follows.
            self.closed = True
            if self.exception is not None:
                try:
                    self.lock.acquire()  # never released
                    self.place.take_back()
                except (TaskTimeout, TaskCancelled):
                    pass

    def interrupt(self) -> None:
        # A thread of its own: to cancel a query takes a connection.
        threading.Thread(target=self._interrupt, name="interrupt", daemon=True).start()

    def _interrupt(self) -> None:
        if not self.lock.acquire(blocking=False):
            return  # it has ended, or is being interrupted
        try:
            if self.begun and not self.closed:
                self.place.throw(self)
                self.place.cancel_queries()
        finally:
            self.lock.release()

    @property
    def thread_id(self) -> int | None:
        return self.place.ident


class CoroutineRun(WorkerRun[EventLoop]):
    """A run of an async task. ``task``: set unless it ends before its first pause."""

    task: asyncio.Task[Any]
    _answered = True

    def interrupt(self) -> None:
        self._answered = False
        with suppress(RuntimeError):  # the loop is closed
            self.place.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._answered = True
        if self.begun and not self.closed:
            self.task.cancel()

    @property
    def thread_id(self) -> int | None:
        return self.place.thread.ident

    @property
    def blocks(self) -> bool:
        return not self._answered


type AnyRun = WorkerRun[Any]


class Interrupts:
    """Keeps the time limits of runs, and sees to it that those end that are to end.

    A thread that sleeps until the next limit. ``on_stuck``: called in it with a run that did not
    end within ``GRACE`` seconds.
    """

    def __init__(self, on_stuck: Callable[[AnyRun], None]) -> None:
        self._on_stuck = on_stuck
        self._watched: set[AnyRun] = set()
        self._wakes_at = NEVER
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="interrupts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def watch(self, run: AnyRun, at: float) -> None:
        """Look after a run from this moment on; may be called from any thread."""
        self._watched.add(run)
        if at < self._wakes_at:
            self._wake.set()

    def forget(self, run: AnyRun) -> None:
        """The run has ended."""
        self._watched.discard(run)

    def ask(self, run: AnyRun, exception: BaseException) -> None:
        """Raise an exception in a run, now or when it begins; returns at once.

        A run that is to end already does so for the first reason, unless it is cancelled.
        """
        if run.exception is None:
            run.asked_at = run.again_at = time.monotonic()
            run.lock = threading.Lock()
        elif not isinstance(exception, TaskCancelled) or isinstance(run.exception, TaskCancelled):
            return
        run.exception = exception
        self.watch(run, run.again_at)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            # Before the look: whoever comes during it wakes this thread again.
            self._wakes_at = NEVER
            now = time.monotonic()
            next_look = min((self._look(run, now) for run in self._watched.copy()), default=NEVER)
            self._wakes_at = next_look
            self._wake.wait(None if next_look == NEVER else max(0.0, next_look - time.monotonic()))

    def _look(self, run: AnyRun, now: float) -> float:
        """Do what is due for a run; return when to look again."""
        if run.closed or run.is_stuck:
            self._watched.discard(run)
            return NEVER
        if run.exception is None:
            assert run.deadline is not None
            if now < run.deadline:
                return run.deadline
            text = f"{run.claim.task_path} ran longer than its timeout of {run.timeout:g} s."
            self.ask(run, TaskTimeout(text))
        if not run.begun:
            run.asked_at = now
        elif now >= run.asked_at + GRACE:
            run.is_stuck = True
            self._on_stuck(run)
            return NEVER
        elif now >= run.again_at:
            run.interrupt()
            run.again_at = now + AGAIN
        return min(max(run.again_at, now + AGAIN / 10), run.asked_at + GRACE)
