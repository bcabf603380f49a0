"""The store's part in pauses, and what is done by hand to jobs that wait, on every database."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from durable_tasks.models import Job, Pause
from durable_tasks.statuses import ENDED, WAITING
from durable_tasks.store import Finish, Pauses, Queues, Store, store_for
from durable_tasks.store.messages import MAX_BATCH, LockedJob
from durable_tasks.store.queues import Resumed, Stamp

from .jobs import StoreTestCase, make_jobs, make_running, state

ALL = Queues("default", None)


def make_pauses(*names: str, backend_name: str = "default") -> None:
    """Pause queues, and tasks: these have a dot in their names."""
    for name in names:
        kind = "task_path" if "." in name else "queue_name"
        Pause.objects.create(backend_name=backend_name, paused_at=timezone.now(), **{kind: name})


class PauseContract(StoreTestCase):
    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path, status in Job.objects.values_list("task_path", "status"):
            found[f"{path} {status}"] = found.get(f"{path} {status}", 0) + 1
        return found

    def test_what_is_paused_is_a_backends_own(self) -> None:
        self.assertEqual(self.store.pauses("default"), Pauses())
        make_pauses("mail", "a.b")
        make_pauses("other", "c.d", backend_name="other")
        expected = Pauses(frozenset(["mail"]), frozenset(["a.b"]))
        self.assertEqual(self.store.pauses("default"), expected)
        self.assertEqual(str(expected), "queue mail, task a.b")

    def test_the_stamp_tells_of_every_change(self) -> None:
        stamps = [self.store.stamp("default")]
        self.assertEqual(stamps[0], Stamp(0, 0, False))
        make_pauses("mail")
        stamps.append(self.store.stamp("default"))
        make_pauses("a.b")
        stamps.append(self.store.stamp("default"))
        Pause.objects.filter(queue_name="mail").delete()
        stamps.append(self.store.stamp("default"))
        Pause.objects.all().delete()
        make_pauses("a.b")
        stamps.append(self.store.stamp("default"))
        # One that got its id before another, and was committed after it.
        [last] = Pause.objects.values_list("id", flat=True)
        Pause.objects.create(
            id=last + 2, backend_name="default", paused_at=timezone.now(), queue_name="x"
        )
        stamps.append(self.store.stamp("default"))
        Pause.objects.filter(id=last).delete()
        Pause.objects.create(
            id=last + 1, backend_name="default", paused_at=timezone.now(), queue_name="y"
        )
        stamps.append(self.store.stamp("default"))
        self.assertEqual(len(set(stamps)), len(stamps))
        Pause.objects.create(
            id=last + 9, backend_name="other", paused_at=timezone.now(), queue_name="x"
        )
        self.assertEqual(self.store.stamp("default"), stamps[-1])
        make_jobs(status="PAUSED", backend_name="other")
        self.assertTrue(self.store.stamp("default").parked)

    def test_a_peek_brings_the_stamp(self) -> None:
        for queues in (ALL, Queues("default", ("a", "b")), Queues("default", ())):
            self.assertEqual(self.store.peek(queues).pauses, self.store.stamp("default"))
        make_pauses("mail", "a.b")
        make_jobs(status="PAUSED")
        for queues in (ALL, Queues("default", ("a", "b")), Queues("default", ())):
            peek = self.store.peek(queues)
            self.assertEqual(peek.pauses, self.store.stamp("default"))
            self.assertEqual((peek.pauses.count, peek.pauses.parked), (2, True))

    def test_queues_without_some(self) -> None:
        self.assertIs(ALL.without([]), ALL)
        self.assertEqual(str(ALL.without(["b", "a"]).without(["c"])), "all but a, b, c")
        self.assertEqual(Queues("default", ("a", "b")).without(["b", "c"]).names, ("a",))

    def test_without_a_queue_nothing_is_claimed_or_seen(self) -> None:
        make_jobs(3)
        none = Queues("default", ("default",)).without(["default"])
        self.assertFalse(self.store.peek(none).ready)
        exchange = self.store.exchange([], 5, queues=none, worker_id="w", now=timezone.now())
        self.assertEqual(exchange.claims, [])

    def test_a_pause_parks_the_best_jobs_of_its_tasks(self) -> None:
        make_jobs(6, task_path=lambda n: "ab"[n % 2] + ".c", queue_name=lambda n: "xyz"[n // 2])
        make_jobs(task_path="a.c", backend_name="other")
        for status in ("SCHEDULED", "SUCCESSFUL"):
            make_jobs(status=status, task_path="a.c")
        make_running(task_path="a.c")
        before = {job.id: state(job.id) for job in Job.objects.filter(queue_name="x")}
        self.assertEqual(self.store.pause(Queues("default", ("x", "y")), ["a.c", "no.ne"]), 2)
        self.assertEqual(self.store.pause(ALL, ["a.c"]), 1)
        self.assertEqual(self.store.pause(ALL, ["a.c"]), 0)
        self.assertEqual(
            self.counts(),
            {"a.c PAUSED": 3, "b.c READY": 3, "a.c READY": 1, "a.c RUNNING": 1}
            | {"a.c SCHEDULED": 1, "a.c SUCCESSFUL": 1},
        )
        for id, row in before.items():
            paused = row["task_path"] == "a.c"
            self.assertEqual(state(id), row | {"status": "PAUSED" if paused else "READY"})

    def test_a_pause_looks_at_no_more_than_its_limit(self) -> None:
        now = timezone.now()
        make_jobs(
            9,
            task_path=lambda n: "a.c" if n > 4 else "b.c",
            run_at=lambda n: now + timedelta(seconds=n),
        )
        self.assertEqual(self.store.pause(ALL, ["a.c"], limit=5), 0)
        self.assertEqual(self.store.pause(ALL, ["a.c"], limit=7), 2)

    def resume(self, *task_paths: str, limit: int = MAX_BATCH) -> list[int]:
        """Resume step by step to the end; return how many jobs each step made READY."""
        jobs, resumed = [], Resumed(0)
        while True:
            resumed = self.store.resume("default", task_paths, resumed.after, limit)
            jobs.append(resumed.jobs)
            if resumed.after is None:
                return jobs

    def test_a_resume_leaves_what_is_still_paused(self) -> None:
        make_jobs(25, status="PAUSED", task_path=lambda n: f"{'abcde'[n % 5]}.c", lease=3)
        make_jobs(2, status="PAUSED", task_path="a.c", backend_name="other")
        self.assertEqual(sum(self.resume("b.c", "e.c", limit=4)), 15)
        paused = {"b.c PAUSED": 5, "e.c PAUSED": 5, "a.c PAUSED": 2}
        self.assertEqual(self.counts(), paused | {f"{path}.c READY": 5 for path in "acd"})
        self.assertEqual(set(Job.objects.values_list("lease", flat=True)), {0, 3})
        self.assertEqual(self.resume("b.c", "e.c"), [0])
        self.assertEqual(sum(self.resume()), 10)
        self.assertEqual(self.counts()["a.c PAUSED"], 2)

    def test_jobs_of_one_due_time_are_all_resumed(self) -> None:
        now = timezone.now()
        make_jobs(30, status="PAUSED", run_at=now, task_path=lambda n: "ab"[n % 2] + ".c")
        steps = self.resume("b.c", limit=7)
        self.assertEqual((sum(steps), max(steps) <= 7), (15, True))

    def test_the_order_is_as_before(self) -> None:
        now = timezone.now()
        made = make_jobs(
            40,
            task_path="a.c",
            priority=lambda n: (n * 7) % 3,
            run_at=lambda n: now - timedelta(seconds=(n * 5) % 11),
        )
        best = sorted(made, key=lambda job: (-job.priority, job.run_at, job.id))
        claims = self.claim(10)
        self.finish(*map(Finish.paused, claims))
        self.assertEqual(self.store.pause(ALL, ["a.c"]), 30)
        self.assertEqual(self.claim(), [])
        self.assertEqual(sum(self.resume()), 40)
        claims = self.claim()
        self.assertEqual([claim.id for claim in claims], [job.id for job in best])
        self.assertEqual({claim.attempts for claim in claims}, {1})

    def test_what_others_have_locked_is_passed_over(self) -> None:
        if not connection.features.has_select_for_update_skip_locked:
            self.skipTest("one writer at a time")
        paused = make_jobs(4, status="PAUSED", task_path="a.c")
        ready = make_jobs(4, task_path="a.c")
        with transaction.atomic():
            store_for(connection).lock([job.id for job in (*paused[:2], *ready[:2])])
            self.assertEqual(self.store.resume("default", []).jobs, 2)
            self.assertEqual(self.store.pause(Queues("default", ("default",)), ["a.c"]), 4)
        self.assertEqual(self.counts(), {"a.c PAUSED": 6, "a.c READY": 2})


class ByHandContract(StoreTestCase):
    """In the caller's transaction, on the project's connection."""

    def do(self, word: Callable[[Store, list[LockedJob]], list[LockedJob]]) -> set[UUID]:
        """Do it to all jobs; return the ids of those that it says it has changed."""
        store = store_for(connection)
        with transaction.atomic():
            changed = word(store, store.lock(list(Job.objects.values_list("id", flat=True))))
        return {job.id for job in changed}

    def everything(self) -> dict[str, Job]:
        made = {status: make_jobs(status=status)[0] for status in (*WAITING, *ENDED)}
        return made | {"RUNNING": make_running()[0]}

    def test_each_word_changes_what_it_makes_sense_for_and_nothing_else(self) -> None:
        now = timezone.now() + timedelta(hours=1)
        ready = {"status": "READY", "run_at": now}
        for word, statuses, changes in (
            (lambda store, jobs: store.run_now(jobs, now), ["SCHEDULED"], ready),
            (lambda store, jobs: store.move(jobs, "new"), WAITING, {"queue_name": "new"}),
            (lambda store, jobs: store.prioritize(jobs, -7), WAITING, {"priority": -7}),
            (lambda store, jobs: store.mark(jobs, now), ENDED, {"delete_after": now}),
        ):
            with self.subTest(changes=changes):
                Job.objects.all().delete()
                jobs = self.everything()
                before = {job.id: state(job.id) for job in jobs.values()}
                changed: dict[str, Any] = changes
                self.assertEqual(self.do(word), {jobs[status].id for status in statuses})
                for status, job in jobs.items():
                    expected = before[job.id] | (changed if status in statuses else {})
                    self.assertEqual(state(job.id), expected, status)

    def test_what_is_so_already_is_not_changed(self) -> None:
        make_jobs(priority=5)
        self.assertEqual(self.do(lambda store, jobs: store.prioritize(jobs, 5)), set())
        self.assertEqual(self.do(lambda store, jobs: store.move(jobs, "default")), set())

    def test_what_runs_is_not_discarded(self) -> None:
        jobs = self.everything()
        running = jobs.pop("RUNNING")
        discarded = self.do(lambda store, jobs: store.discard(jobs))
        self.assertEqual(discarded, {job.id for job in jobs.values()})
        self.assertEqual(Job.objects.get(), running)

    def test_a_worker_claims_before_or_after(self) -> None:
        """Of what is locked by hand, a claim takes nothing; afterwards it finds it as it is now."""
        if not connection.features.has_select_for_update_skip_locked:
            self.skipTest("one writer at a time")
        make_jobs(4, queue_name=lambda n: "ab"[n % 2])
        store = store_for(connection)
        for names in (["a"], ["a", "b"], None):
            with self.subTest(names=names), transaction.atomic():
                locked = store.lock(list(Job.objects.values_list("id", flat=True)))
                store.move(locked, "c")
                self.assertEqual(self.claim(10, names), [])
                transaction.set_rollback(True)
        with transaction.atomic():
            locked = store.lock(list(Job.objects.values_list("id", flat=True)))
            store.move(locked, "c")
        self.assertEqual(self.claim(10, ["a", "b"]), [])
        self.assertEqual({claim.queue_name for claim in self.claim(10, ["c"])}, {"c"})
