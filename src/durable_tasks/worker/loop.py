"""The loop: save what ended, claim what fits, hand it to the pools, wait."""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from threading import Event
from uuid import UUID

from django.db import Error as DatabaseFault

from ..announcements import facts, log_no_count
from ..chores import promote
from ..chores.pause import EVERY, Pausing
from ..exceptions import TaskCancelled
from ..execute import Executor
from ..store import Claim, Finish, Pauses, Queues, Store
from ..store.messages import MAX_BATCH
from .announce import Announcer
from .clock import Clock
from .heartbeat import Heartbeat
from .interrupts import AnyRun
from .lanes import Lane
from .pools import CoroutinePool, ThreadPool

logger = logging.getLogger("durable_tasks")

# Seconds after which work that still waits here goes back for other workers to take.
MAX_WAIT = 1.0
# Seconds in which no slot of a kind has become free, until jobs of the other kind are looked for.
STUCK = 0.1
# Seconds between two looks for jobs that are held and whose cancel was asked for.
CANCELS_EVERY = 0.5
# Seconds between two tries when the database is away: the first and the longest pause.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# Seconds after its last save in which a process with a stuck run is gone: no job of its begins
# again before.
LAST_SECONDS = 2.0


class Loop:
    """One worker process's thread of control; owns its connection and all it knows of claims.

    ``paused``: what the log has told to be paused. ``interval``: seconds between two looks when
    there is nothing to do. ``batch``: stop when nothing is left. ``max_tasks``: stop after so many.
    ``prefetch``: jobs to claim beyond the free slots, or None to let their run times decide.
    ``give_up_after``: seconds to wait for the database at a stop. ``enter``: adds a row for a new
    life of this worker and returns the life. ``may_exit``: whether this process may be ended for a
    run that can't be. ``exit_within``: the seconds that the other runs then have. ``idle``: is set
    while nothing runs and the last look found nothing to run.
    """

    def __init__(
        self,
        *,
        store: Store,
        queues: Queues,
        paused: Pauses,
        executor: Executor,
        clock: Clock,
        heartbeat: Heartbeat,
        announcer: Announcer,
        threads: ThreadPool,
        coroutines: CoroutinePool,
        ended: "SimpleQueue[Finish | None]",
        interval: float,
        batch: bool,
        max_tasks: int | None,
        prefetch: int | None,
        give_up_after: float,
        enter: Callable[[], UUID],
        may_exit: bool,
        exit_within: float,
        idle: Event,
    ) -> None:
        self.store = store
        self.pausing = Pausing(store, queues, paused)
        self.executor = executor
        self.clock = clock
        self.heartbeat = heartbeat
        self.announcer = announcer
        self.ended = ended
        self.interval = max(interval, 0.001)
        self.batch = batch
        self.max_tasks = max_tasks
        self.give_up_after = give_up_after
        self.enter = enter
        self.may_exit = may_exit
        self.exit_within = exit_within
        self.idle = idle
        self.processed = 0  # runs whose ending counted
        self._lanes = (Lane(threads, prefetch, share=1.0), Lane(coroutines, prefetch))
        # Claimed and not yet saved.
        self._held: dict[Claim, Lane] = {}
        self._unsaved: list[Finish] = []
        self._saved: list[Finish] = []  # by the tasks' own transactions
        # Those that fail if they are lost once more, perhaps because of one of them. They run one
        # at a time, so that none fails for another.
        self._suspects: deque[Claim] = deque()
        self._suspect: Claim | None = None  # the one that runs
        self._suspects_since = 0.0  # since when they wait (monotonic)
        self._stuck: list[AnyRun] = []  # they do not end although they were interrupted
        self._exit_at = 0.0
        self._is_over = False
        self._stopping = False
        self._stop_at = 0.0
        self._draining = False
        self._taken = 0
        self._more = True  # there are probably READY jobs: the last claim got all it wanted
        self._rung = False  # a bell rang since the last claim
        self._look_at = 0.0  # the next look at what is READY or due (monotonic, as all these)
        self._idle_since = time.monotonic()
        self._probe_at = 0.0
        self._reconcile_at = 0.0
        # The next look for cancels of what is held (monotonic); 0.0: at once, and of all.
        self._cancels_at = time.monotonic()
        self._seen: set[Claim] = set()  # by the last of these looks
        self._failing_since: float | None = None
        self._pause = FIRST_PAUSE

    def stop(self) -> None:
        """Ask for a graceful end; may be called from any thread and from a signal handler."""
        self._stopping = True
        self._stop_at = time.monotonic()
        self.ended.put(None)

    def drain(self, asked: bool) -> None:
        """Claim nothing more but stay, or go on to claim; may be called from any thread."""
        self._draining = asked
        self.ring()

    def ring(self) -> None:
        """Say that jobs were enqueued; may be called from any thread."""
        self._rung = True
        self.ended.put(None)

    def look_for_cancels(self) -> None:
        """Say that a job's cancel was asked for; may be called from any thread."""
        self._cancels_at = 0.0
        self.ended.put(None)

    def stuck(self, run: AnyRun) -> None:
        """A run does not end although it was interrupted; may be called from any thread."""
        logger.error(
            "Job %s of %s does not end although it was interrupted. %s",
            run.claim.id,
            run.claim.task_path,
            "This process ends, once what else runs has ended."
            if self.may_exit
            else "Its thread is lost until it ends by itself.",
            extra=facts(run.claim, self.worker_id),
        )
        if self.may_exit:
            if not self._stuck:
                self._exit_at = time.monotonic() + self.exit_within
            self._stuck.append(run)
            self.ended.put(None)

    @property
    def has_stuck(self) -> bool:
        """Whether runs go on that can't be ended but with the process."""
        return bool(self._stuck)

    @property
    def holds_more(self) -> bool:
        """Whether there are claims that are not saved."""
        return bool(self._held)

    @property
    def worker_id(self) -> str:
        return self.executor.worker_id

    @property
    def took_maximum(self) -> bool:
        """Whether ``max_tasks`` have been taken."""
        return self.max_tasks is not None and self._taken >= self.max_tasks

    # The turns

    def run(self) -> None:
        """Turn until a stop was asked for and everything is saved.

        Raises ``WorkerIdInUse`` if this worker was declared lost and its id has a new owner.
        """
        while not self._is_done():
            self._drain(self._seconds_to_wait())
            try:
                self._turn()
            except DatabaseFault as error:
                self._back_off(error)
            else:
                self._recovered()

    @property
    def _is_closing(self) -> bool:
        """Whether this ends once what runs has ended."""
        return self._stopping or bool(self._stuck)

    @property
    def _claims(self) -> bool:
        """Whether more may be claimed."""
        return not (self._draining or self._is_closing)

    def _is_done(self) -> bool:
        if self._is_over:
            return True
        if self._held or self._unsaved:
            failing = self._failing_since
            if not self._is_closing or failing is None:
                return False
            if any(lane.held for lane in self._lanes) and not self._stuck:
                return False  # it is waited for anyhow, and the database may be back by then
            since = max(failing, self._stop_at, *(lane.ended_at for lane in self._lanes))
            return time.monotonic() - since > self.give_up_after
        return self._stopping or self.took_maximum

    def _turn(self) -> None:
        if self.heartbeat.lost.is_set():
            self._begin_new_life()
        now = time.monotonic()
        if self._saved:
            saved, self._saved = self._saved, []
            self._settle(saved)
        for lane in self._lanes:
            stuck = lane.waiting_since is not None and now - lane.waiting_since > MAX_WAIT
            if stuck or not self._claims:
                self._give_back(lane)
            if stuck:
                self._probe_at = now + MAX_WAIT  # let others have them first
        if not self._claims:
            self._give_back_suspects()
        elif not self.batch and now - self._suspects_since > MAX_WAIT:
            # Not READY at once: this very worker would claim them again in the same exchange.
            self._give_back_suspects(self.clock.now() + timedelta(seconds=MAX_WAIT))
        if now >= self._reconcile_at:
            self._reconcile(now)
        if self._held and now >= self._cancels_at:
            self._look_for_cancels(now)
        if self._rung:
            self._rung = False
            self._more = True
        if (test := self.heartbeat.test) is not None:
            self.store.notify(test)
            if self.heartbeat.test == test:
                self.heartbeat.test = None
        if now >= self._look_at and self._claims and (self._room(now) or self._probes(now)):
            self._look(now)
        want = self._want(now) if self._claims else 0
        self._follow_pauses(now, want)
        probes = want > 0 and not self._room(now)
        # Paused for too long, others may think us lost: claim only after a heartbeat.
        if want and not self.heartbeat.is_fresh() and not self.heartbeat.beat_now(timeout=1.0):
            want = 0
        if want or self._unsaved:
            self._exchange(want, now, probes=probes)
        if self.pausing.has_work and not self._is_closing and self.pausing.step():
            self._more = True
        if self._stuck:
            self._give_up_stuck(now)
        idle = not (self._more or self._held or self._unsaved or self._rung)
        idle = idle and not self.pausing.has_work
        if idle is not self.idle.is_set():
            (self.idle.set if idle else self.idle.clear)()

    def _exchange(self, want: int, now: float, *, probes: bool) -> None:
        finishes = self._unsaved[:MAX_BATCH]
        exchange = self.store.exchange(
            finishes,
            want,
            queues=self.pausing.queues,
            worker_id=self.worker_id,
            now=self.clock.now(),
        )
        del self._unsaved[: len(finishes)]
        self._settle(finishes)
        if want:
            self._more = len(exchange.claims) == want
            if exchange.claims:
                self._idle_since = now
                self._dispatch(exchange.claims)
            if probes:
                self._end_probe(now)
            if not self._more:
                self._look_at = min(self._look_at, now + self._pause_between_looks(now))
            # PostgreSQL does not claim what the same statement releases.
            released = any(finish.finished_at is None for finish in finishes)
            busy = exchange.claims or self._held or self._unsaved or self._rung or released
            busy = busy or self.pausing.has_work
            if self.batch and not busy:
                if exchange.complete:
                    self._stopping = True
                else:
                    self.store.look_everywhere()
                    self._more = True

    def _settle(self, finishes: list[Finish]) -> None:
        """Announce what counted and log what did not."""
        self._forget(finishes)
        told = []
        for finish in finishes:
            if finish.finished_at is None:
                continue  # released: nobody needs to know
            if finish.counted:
                self.processed += 1
                told.append(finish)
                if finish.run_at is not None:
                    self._look_for_next_run(finish.run_at - finish.finished_at)
            else:
                log_no_count(finish, self.worker_id)
        self.announcer.ended(told)

    def _forget(self, finishes: Iterable[Finish]) -> None:
        for finish in finishes:
            self._held.pop(finish.claim, None)  # type: ignore[arg-type]
        # Not sooner: the next one may end this process before the ending of this one is saved.
        if self._suspect is not None and self._suspect not in self._held:
            self._suspect = None
            self._run_suspect(time.monotonic())

    def _look_for_next_run(self, pause: timedelta) -> None:
        seconds = pause.total_seconds()
        if seconds <= 0:
            self._rung = True
        self._look_at = min(self._look_at, time.monotonic() + seconds)

    def _dispatch(self, claims: list[Claim]) -> None:
        claims, back = self.pausing.sort(claims)
        self._unsaved += back
        for finish in back:
            assert finish.claim is not None
            self._held[finish.claim] = self._lanes[0]  # until that is saved
        parts: tuple[list[Claim], list[Claim]] = ([], [])
        lost = []
        for claim in claims:
            claim.worker_id = self.worker_id
            is_async = self.executor.resolve(claim.task_path).is_async
            parts[is_async].append(claim)
            self._held[claim] = self._lanes[is_async]
            if claim.lost:
                lost.append(claim)
        self._taken += len(claims)
        self.announcer.look()
        now = time.monotonic()
        weight = min(0.5, 0.05 * len(claims))
        last = self.executor.options.max_lost - 1
        suspects = [claim for claim in lost if claim.lost >= last]
        self._suspects += suspects
        for lane, part in zip(self._lanes, parts, strict=True):
            lane.share += weight * (len(part) / max(len(claims), 1) - lane.share)
            if suspects:
                part = [claim for claim in part if claim not in suspects]
            if part:
                lane.submit(part, now)
        self._run_suspect(now)

    def _run_suspect(self, now: float) -> None:
        if self._suspect is None and self._suspects:
            claim = self._suspect = self._suspects.popleft()
            self._held[claim].submit([claim], now)
            self._suspects_since = now

    def _end_probe(self, now: float) -> None:
        """Give a claim back at once whose kind has no free slot, and leave it to others a while."""
        for lane in self._lanes:
            if lane.waits:
                self._give_back(lane)
                self._probe_at = now + MAX_WAIT

    # What ends

    def _drain(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for something to happen, then take all that ended."""
        queue = self.ended
        with suppress(Empty):
            ended = [queue.get(timeout=timeout) if timeout > 0 else queue.get_nowait()]
            ended += [queue.get_nowait() for _ in range(queue.qsize())]
            self._take([finish for finish in ended if finish is not None])

    def _take(self, ended: list[Finish]) -> None:
        times: dict[Lane, list[float | None]] = {lane: [] for lane in self._lanes}
        for finish in ended:
            (self._saved if finish.saved else self._unsaved).append(finish)
            assert finish.claim is not None
            ran, began = finish.finished_at, finish.last_attempted_at
            times[self._held[finish.claim]].append(
                (ran - began).total_seconds() if ran and began else None
            )
        now = time.monotonic()
        for lane, seconds in times.items():
            if seconds:
                lane.end(now, seconds)

    # How much to claim

    def _want(self, now: float) -> int:
        """Return how many jobs to claim now; 0 to leave it."""
        # A batch ends with a claim that found nothing: so one is due once nothing is held.
        if not (self._more or self._unsaved or (self.batch and not self._held)):
            return 0
        return self._room(now) or int(self._more and self._probes(now))

    def _room(self, now: float) -> int:
        """Return how many more jobs of the usual mix fit; 0 while it is not worth a claim."""
        used = [lane for lane in self._lanes if lane.share > 0.02]
        total = sum(lane.share for lane in used)
        room = min(int(lane.room(now) * total / lane.share) for lane in used)
        held = sum(lane.held for lane in self._lanes)
        if room < held // 4 and not any(lane.is_free for lane in used):
            return 0  # every slot has work: a larger claim, a little later, costs less
        return max(0, min(room, MAX_BATCH, self._left()))

    def _left(self) -> int:
        """Return how many tasks may still be taken at once."""
        left = MAX_BATCH - len(self._suspects)
        return left if self.max_tasks is None else min(left, self.max_tasks - self._taken)

    def _probes(self, now: float) -> bool:
        """Return whether to claim one more job although the usual mix does not fit.

        It may be of the kind whose slots are free; otherwise it is given back at once.
        """
        return (
            now >= self._next_probe()
            and any(lane.is_free for lane in self._lanes)
            and not any(lane.waits for lane in self._lanes)
            and self._left() > 0
        )

    def _next_probe(self) -> float:
        """Return when a probe may be due (monotonic): not while slots become free by themselves."""
        busy = [lane.ended_at + STUCK for lane in self._lanes if not lane.is_free]
        return max([self._probe_at, *busy])

    def _give_back(self, lane: Lane) -> None:
        """Take what has not started out of the pool; the next exchange releases it."""
        claims = lane.take_back()
        if self._suspect in claims:
            self._suspect = None
        self._release(claims)

    def _give_back_suspects(self, until: datetime | None = None) -> None:
        self._release(self._suspects, until)
        self._suspects.clear()

    def _release(self, claims: Collection[Claim], until: datetime | None = None) -> None:
        self._taken -= len(claims)
        self._unsaved += [Finish.released(claim, until=until) for claim in claims]

    def _seconds_to_wait(self) -> float:
        now = time.monotonic()
        if self._unsaved or self._saved or self._rung or self.heartbeat.lost.is_set():
            return 0.0
        if self.pausing.has_work and not self._is_closing:
            return 0.0
        until = [self._reconcile_at]
        if self._held:
            until.append(self._cancels_at)
        until += [
            lane.waiting_since + MAX_WAIT for lane in self._lanes if lane.waiting_since is not None
        ]
        if self._suspects and not self.batch:  # a batch keeps them: it ends with what is READY
            until.append(self._suspects_since + MAX_WAIT)
        if self._stuck:
            until.append(self._exit_at)
        if self._claims:
            if self._want(now):
                return 0.0
            if self._room(now) or self._probes(now):
                until.append(self._look_at)
            elif now < self._next_probe():
                until.append(self._next_probe())
        return max(0.0, min(until) - now)

    # Chores

    def _look(self, now: float) -> None:
        """See whether jobs are READY, and make those READY that are due.

        The next look is when the next one is due, or after a pause that grows with idleness.
        """
        peek = self.store.peek(self.pausing.queues)
        self._note_pauses(self.pausing.note(peek.pauses, now), now)
        clock_now = self.clock.now()
        next_due = peek.next_due
        self._more = self._more or peek.ready
        if next_due is not None and next_due <= clock_now:
            next_due = promote.tick(self.store, clock_now).next_due
            self._more = True
        self._look_at = now + (self.interval if self._more else self._pause_between_looks(now))
        if next_due is not None:
            wait = (next_due - clock_now).total_seconds()
            self._look_at = min(self._look_at, now + max(wait, 0.0))

    def _pause_between_looks(self, now: float) -> float:
        pause = self.store.look_again_in(
            now - self._idle_since, self.interval, hears=self.heartbeat.hears
        )
        return min(pause, EVERY) if self.pausing.pauses else pause

    def _reconcile(self, now: float) -> None:
        """Give back jobs that are ours in the database but that we never saw.

        The reply to a claim may have been lost after its commit. No claim is on its way now:
        this is the thread that claims.
        """
        self._reconcile_at = now + self.give_up_after / 4
        if self.pausing.pauses:  # also while there is no room for a claim
            self._note_pauses(self.pausing.look(now), now)
        self.pausing.look_for_forgotten()
        held = {(claim.id, claim.lease) for claim in self._held}
        if held.issuperset(self.store.tokens_of(self.worker_id)):
            return
        rows = self.store.held_by(self.worker_id)
        claims = [claim for claim in rows if (claim.id, claim.lease) not in held]
        if claims:
            finishes = [Finish.unstarted(claim) for claim in claims]
            self.store.finish(finishes, now=self.clock.now())
            self.announcer.ended([finish for finish in finishes if finish.finished_at])
            logger.warning(
                "Gave back %s jobs whose claim was never answered.",
                len(claims),
                extra={"worker_id": self.worker_id},
            )

    # Pauses

    def _follow_pauses(self, now: float, want: int) -> None:
        """Look at the pauses before what is about to be claimed, or waits here, could begin."""
        waits = self._suspects or any(lane.waits for lane in self._lanes)
        if (want or waits) and self.pausing.is_due(now):
            self._note_pauses(self.pausing.look(now), now)

    def _note_pauses(self, changed: bool, now: float) -> None:
        """Give back what has not begun of what is paused, if that has changed."""
        if not changed:
            return
        logger.info(
            "Paused: %s." if self.pausing.pauses else "%s is paused any more.",
            self.pausing.pauses or "Nothing",
            extra={"worker_id": self.worker_id},
        )
        self._more = True
        runs, back = self.pausing.sort(self._suspects)
        self._suspects = deque(runs)
        for lane in self._lanes:
            claims, theirs = self.pausing.sort(lane.take_back())
            back += theirs
            if claims:
                lane.submit(claims, now)
        self._taken -= len(back)
        self._unsaved += back

    # Runs that are to end

    def _look_for_cancels(self, now: float) -> None:
        """Ask for the jobs that were held at the last look, too: most end before it is worth it."""
        told = not self._cancels_at
        ids = [claim.id for claim in self._held if told or claim in self._seen]
        self._seen = set(self._held)
        self._cancels_at = now + CANCELS_EVERY
        if ids and (tokens := self.store.cancels_among(ids)):
            self._interrupt_cancelled(tokens)

    def _interrupt_cancelled(self, tokens: list[tuple[UUID, int]]) -> None:
        """Interrupt those of these jobs, (id, lease), that this worker holds."""
        for claim, lane in list(self._held.items()):
            if (claim.id, claim.lease) in tokens:
                error = TaskCancelled("The job was cancelled.")
                if claim in self._suspects:
                    self._suspects.remove(claim)
                    self._unsaved.append(self.executor.cancelled(claim, error))
                else:
                    lane.pool.interrupt(claim, error)

    def _give_up_stuck(self, now: float) -> None:
        """Save the endings of stuck runs as the last act, once what else runs has ended."""
        for run in [run for run in self._stuck if run.closed]:
            self._stuck.remove(run)  # it has ended after all
        stuck = {run.claim for run in self._stuck}
        # What cannot go on is not waited for: it is rescued.
        blocked = [self._held[run.claim] for run in self._stuck if run.blocks]
        waited_for = [
            claim
            for claim, lane in self._held.items()
            if claim not in stuck and not any(lane is each for each in blocked)
        ]
        if not stuck or self._unsaved or (waited_for and now < self._exit_at):
            return
        last = [self._given_up(run) for run in self._stuck]
        self.store.exchange(
            last, 0, queues=self.pausing.queues, worker_id=self.worker_id, now=self.clock.now()
        )
        self._settle(last)
        self._is_over = True

    def _given_up(self, run: AnyRun) -> Finish:
        assert run.exception is not None
        run.exception.__notes__ = [f"It did not end. It was here:\n{run.where()}"]
        return self.executor.given_up(run.claim, run, pause=LAST_SECONDS)

    # Faults

    def _begin_new_life(self) -> None:
        """We were declared lost and our jobs are others': start none of them, and go on anew."""
        logger.warning(
            "This worker was declared lost; its jobs run elsewhere. It goes on as a new one.",
            extra={"worker_id": self.worker_id},
        )
        for lane in self._lanes:
            self._give_back(lane)
        self._give_back_suspects()
        self._forget(finish for finish in self._unsaved if finish.finished_at is None)
        self._unsaved = [finish for finish in self._unsaved if finish.finished_at is not None]
        self.heartbeat.begin(self.enter())
        self._reconcile_at = 0.0

    def _back_off(self, error: Exception) -> None:
        """Wait for the database; what ended meanwhile is kept."""
        now = time.monotonic()
        self.store.connection.close()
        self._reconcile_at = 0.0  # a reply may have been lost
        if self._failing_since is None:
            self._failing_since = now
            self._pause = FIRST_PAUSE
        logger.warning(
            "The database failed (%s: %s); trying again in %.1f s.",
            type(error).__name__,
            str(error).strip(),
            self._pause,
            extra={"worker_id": self.worker_id},
        )
        until = now + self._pause * random.uniform(0.75, 1.25)
        # A few tries at least before it gives up.
        self._pause = min(self._pause * 2, LONGEST_PAUSE, self.give_up_after / 4)
        while (left := until - time.monotonic()) > 0 and not self._is_done():
            self._drain(left)

    def _recovered(self) -> None:
        if self._failing_since is not None:
            logger.info("The database is back.", extra={"worker_id": self.worker_id})
            self._failing_since = None
