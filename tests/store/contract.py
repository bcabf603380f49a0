"""Every promise of the store, once; each database's test file runs it."""

import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import UUID

from django.conf import settings
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    connection,
    connections,
    transaction,
)
from django.utils import timezone

from durable_tasks.exceptions import RefusedByDatabase
from durable_tasks.models import Job
from durable_tasks.options import Options
from durable_tasks.results import dumps, find_task
from durable_tasks.retention import Retention, Rule
from durable_tasks.statuses import ENDED, WAITING, JobStatus
from durable_tasks.store import Claim, Finish, NewJob, Queues, store_for
from durable_tasks.store.inserting import INSERT_CHUNK
from durable_tasks.store.messages import (
    FAILED,
    MAX_BATCH,
    MAX_BATCH_BYTES,
    RELEASED,
    RESCUED,
    RETRIED,
    SNOOZED,
    SUCCEEDED,
    LockedJob,
    batches,
)

from .jobs import (
    StoreTestCase,
    failed,
    make_jobs,
    make_running,
    new_job,
    rescued,
    retried,
    snoozed,
    state,
    succeeded,
)
from .pausing import ByHandContract, PauseContract

STATUSES = JobStatus.values
CUTOFF = timezone.now().replace(microsecond=5) - timedelta(days=1)
CANCELLED = "durable_tasks.exceptions.TaskCancelled"
OLD = CUTOFF - timedelta(microseconds=1)

KINDS: dict[str, Callable[[Claim], Finish]] = {
    "succeeded": succeeded,
    "failed": failed,
    "released": Finish.released,
    "paused": Finish.paused,
    "rescued, to run again": rescued,
    "rescued, failed": lambda claim: rescued(claim, again=False),
    "retried": lambda claim: retried(claim, 3600),
    "retried at once": lambda claim: retried(claim, 0),
    "snoozed": lambda claim: snoozed(claim, 3600),
    "succeeded in the task's transaction": lambda claim: succeeded(claim).in_transaction(),
}


class InsertContract(StoreTestCase):
    def test_insert_returns_the_ids_in_order(self) -> None:
        for count in (0, 1, 100, 257, 1500, 5001):
            with self.subTest(count=count):
                rows = [new_job() for _ in range(count)]
                ids = store_for(connection).insert(rows)
                self.assertEqual(ids, [row.id for row in rows])
                stored = set(Job.objects.values_list("id", flat=True))
                self.assertLessEqual(set(ids), stored)

    def test_an_insert_is_part_of_the_callers_transaction(self) -> None:
        for count in (1, 257, 1500):
            with self.subTest(count=count):
                with transaction.atomic():
                    store_for(connection).insert([new_job() for _ in range(count)])
                    self.assertEqual(Job.objects.count(), count)
                    transaction.set_rollback(True)
                self.assertEqual(Job.objects.count(), 0)

    def test_a_large_insert_is_all_or_nothing(self) -> None:
        for count in (151, 1500, 5200):
            rows = [new_job(priority=0 if n < count - 1 else 1000) for n in range(count)]
            with self.subTest(count=count):
                with self.assertRaises(IntegrityError):
                    store_for(connection).insert(rows)
                self.assertEqual(Job.objects.count(), 0)
                # What the caller wrote before stays, and it can go on.
                with transaction.atomic():
                    store_for(connection).insert([new_job()])
                    with self.assertRaises(IntegrityError):
                        store_for(connection).insert(rows)
                    self.assertEqual(Job.objects.count(), 1)
                    transaction.set_rollback(True)

    def test_rows_are_taken_in_chunks_and_may_use_the_connection(self) -> None:
        seen = []

        def rows() -> Iterator[NewJob]:
            for n in range(2 * INSERT_CHUNK + 1):
                if n % INSERT_CHUNK == 0:
                    seen.append(Job.objects.count())
                yield new_job()

        store_for(connection).insert(rows())
        # Each chunk was inserted before more than the next one was asked for.
        self.assertEqual(seen, [0, INSERT_CHUNK, 2 * INSERT_CHUNK])
        self.assertEqual(Job.objects.count(), 2 * INSERT_CHUNK + 1)

    def test_an_error_among_the_rows_inserts_nothing(self) -> None:
        def rows() -> Iterator[NewJob]:
            for _ in range(INSERT_CHUNK + 1):
                yield new_job()
            raise KeyError("the caller's own")

        with self.assertRaises(KeyError):
            store_for(connection).insert(rows())
        self.assertEqual(Job.objects.count(), 0)

    def test_an_insert_on_a_connection_of_its_own(self) -> None:
        """As a worker's chores would: many at once, all or none."""
        for count in (1, 257, 1500):
            with self.subTest(count=count):
                rows = [new_job() for _ in range(count)]
                self.assertEqual(len(self.store.insert(rows)), count)
                bad = [*(new_job() for _ in range(count)), new_job(priority=1000)]
                with self.assertRaises(IntegrityError):
                    self.store.insert(bad)
        self.assertEqual(Job.objects.count(), 1758)

    def test_a_job_is_stored_as_given(self) -> None:
        soon = timezone.now() + timedelta(days=1)
        args = [1, "ü", None, 'a\tb\nc\rd\\e"f\\N', "\x1b\u2028", "\\.", ""]
        kwargs = {"🎈": {"b": [0.5]}}
        for many in (0, 1500):  # alone, and among so many that another way is taken
            row = new_job(
                status="SCHEDULED",
                priority=-100,
                queue_name="Zürich\t⚙\n\\N",
                args=dumps(args, "args"),
                kwargs=dumps(kwargs, "kwargs"),
                run_after=soon,
                run_at=soon,
            )
            store_for(connection).insert([row, *(new_job() for _ in range(many))])
            given = {name: getattr(row, name) for name in type(row).__slots__}
            given |= {"args": args, "kwargs": kwargs}
            with self.subTest(many=many):
                stored = state(row.id)
                self.assertEqual(stored, stored | given)
                others = {name: value for name, value in stored.items() if name not in given}
                zeros = dict.fromkeys(("attempts", "lost", "lease"), 0)
                self.assertEqual(others, dict.fromkeys(others) | zeros)


class ClaimContract(StoreTestCase):
    def test_the_best_job_comes_first(self) -> None:
        """Priority, then due time, then id."""
        now = timezone.now()
        made = make_jobs(
            60,
            priority=lambda n: (n * 7) % 3 - 1,
            run_at=lambda n: now - timedelta(seconds=(n * 5) % 4),
        )
        best = sorted(made, key=lambda job: (-job.priority, job.run_at, job.id))
        for names in (["default"], ["default", "empty"], None):
            with self.subTest(names=names):
                Job.objects.update(status="READY")
                claims = self.claim(25, names)
                self.assertEqual([claim.id for claim in claims], [job.id for job in best[:25]])

    def test_the_best_of_several_queues_come_first(self) -> None:
        now = timezone.now()
        made = make_jobs(
            90,
            queue_name=lambda n: "abc"[(n // 2) % 3],
            priority=lambda n: (n * 7) % 5,
            run_at=lambda n: now - timedelta(seconds=n % 11),
        )
        best = sorted(made, key=lambda job: (-job.priority, job.run_at, job.id))
        key = {job.id: (-job.priority, job.run_at) for job in made}
        for names in (["a", "b", "c"], None):
            with self.subTest(names=names):
                Job.objects.update(status="READY")
                claimed = [claim.id for _ in range(9) for claim in self.claim(10, names)]
                # Jobs of one priority and due time have no order across queues.
                self.assertEqual([key[id] for id in claimed], [key[job.id] for job in best])
                self.assertEqual(set(claimed), set(key))

    def test_only_the_queues_asked_for_are_claimed_from(self) -> None:
        make_jobs(8, queue_name=lambda n: "abcd"[n % 4])
        cases: list[tuple[list[str] | None, list[str], str]] = [
            (["b"], [], "b"),
            (["d", "b", "empty"], [], "bd"),
            (None, [], "abcd"),
            (None, ["a", "empty"], "bcd"),
            (None, ["a", "b", "c", "d"], ""),
            ([], [], ""),
        ]
        for names, excluded, expected in cases:
            with self.subTest(names=names, excluded=excluded):
                Job.objects.update(status="READY")
                claims = self.claim(100, names, excluded=excluded)
                self.assertEqual(sorted(claim.queue_name for claim in claims), sorted(expected * 2))

    def test_no_more_is_claimed_than_wanted(self) -> None:
        make_jobs(12, queue_name=lambda n: "abc"[n % 3])
        for names in (["a"], ["a", "b", "c"], None):
            for want in (0, 1, 3):
                with self.subTest(names=names, want=want):
                    Job.objects.update(status="READY")
                    self.assertEqual(len(self.claim(want, names)), want)
                    self.assertEqual(Job.objects.running().count(), want)

    def test_only_ready_jobs_of_the_backend_are_claimed(self) -> None:
        others = [status for status in STATUSES if status != "READY"]
        make_jobs(len(others), status=lambda n: others[n])
        make_jobs(3, backend_name="other")
        [ready] = make_jobs()
        for names in (["default"], ["default", "b"], None):
            with self.subTest(names=names):
                Job.objects.filter(id=ready.id).update(status="READY")
                self.assertEqual([claim.id for claim in self.claim(10, names)], [ready.id])

    def test_a_claim_says_what_was_before_and_the_new_lease(self) -> None:
        now = timezone.now()
        before = {
            "started_at": now - timedelta(hours=3),
            "last_attempted_at": now - timedelta(hours=2),
            "run_after": now - timedelta(hours=1),
            "run_at": now - timedelta(hours=1),
            "enqueued_at": now - timedelta(hours=4),
            "queue_name": "q",
            "priority": 7,
            "lost": 1,
        }
        for names in (["q"], ["q", "b"], None):
            with self.subTest(names=names):
                [job] = make_jobs(
                    attempts=2, lease=5, args=[1], kwargs={"a": None}, errors=[{"n": 1}], **before
                )
                [claim] = self.claim(1, names, worker_id="me", now=now)
                self.assertEqual((claim.id, claim.lease, claim.attempts), (job.id, 6, 3))
                self.assertEqual({name: getattr(claim, name) for name in before}, before)
                self.assertEqual(json.loads(claim.args), [1])
                self.assertEqual(json.loads(claim.kwargs), {"a": None})
                self.assertEqual(json.loads(claim.errors or ""), [{"n": 1}])
                row = state(job.id)
                self.assertEqual(
                    row,
                    row
                    | {
                        "status": "RUNNING",
                        "worker_id": "me",
                        "lease": 6,
                        "attempts": 3,
                        "started_at": before["started_at"],
                        "last_attempted_at": now,
                    },
                )

    def test_a_first_claim_writes_the_first_start(self) -> None:
        now = timezone.now()
        [job] = make_jobs()
        [claim] = self.claim(1, now=now)
        self.assertEqual((claim.started_at, claim.last_attempted_at), (None, None))
        self.assertEqual((state(job.id)["started_at"], state(job.id)["attempts"]), (now, 1))

    def test_times_come_as_the_project_has_them(self) -> None:
        make_jobs(run_at=timezone.now())
        [claim] = self.claim()
        self.assertEqual(timezone.is_aware(claim.run_at), settings.USE_TZ)


class ExchangeContract(StoreTestCase):
    def test_an_exchange_saves_and_claims(self) -> None:
        make_jobs(6)
        first = self.claim(3)
        exchange = self.exchange([succeeded(first[0]), failed(first[1])], 2)
        self.assertEqual(exchange.counted, {first[0].id, first[1].id})
        self.assertEqual(len(exchange.claims), 2)
        self.assertEqual(Job.objects.running().count(), 3)
        self.assertEqual(Job.objects.ready().count(), 1)

    def test_an_exchange_of_several_batches_claims_once(self) -> None:
        make_jobs(700)
        make_jobs(20, queue_name="b")
        claims = self.claim(700, ["default"])
        exchange = self.exchange([succeeded(claim) for claim in claims], 5, ["b"])
        self.assertEqual((len(exchange.counted), len(exchange.claims)), (700, 5))
        self.assertEqual(Job.objects.successful().count(), 700)

    def test_a_finish_with_an_old_lease_changes_nothing(self) -> None:
        for kind, finish_of in KINDS.items():
            with self.subTest(kind):
                [job] = make_jobs()
                [claim] = self.claim()
                Job.objects.filter(id=job.id).update(lease=claim.lease + 1, worker_id="heir")
                before = state(job.id)
                self.assertEqual(self.finish(finish_of(claim)), set())
                self.assertEqual(state(job.id), before)

    def test_a_finish_of_a_deleted_job_does_not_count_and_inserts_nothing(self) -> None:
        make_jobs()
        [claim] = self.claim()
        Job.objects.all().delete()
        for kind, finish_of in KINDS.items():
            with self.subTest(kind):
                self.assertEqual(self.finish(finish_of(claim)), set())
                self.assertEqual(Job.objects.count(), 0)

    def test_a_finish_writes_the_columns_it_names_and_no_others(self) -> None:
        then = timezone.now() + timedelta(hours=1)
        for writes in (SUCCEEDED, FAILED, RETRIED, SNOOZED, RELEASED, RESCUED):
            with self.subTest(writes=writes):
                [job] = make_running(exception_class_path="old")
                before = state(job.id)
                # Every attribute differs from the row.
                values: dict[str, Any] = {
                    **dict.fromkeys(
                        ("started_at", "last_attempted_at", "finished_at", "run_at"), then
                    ),
                    "return_value": "[1]",
                    "errors": "[2]",
                    "exception_class_path": "new",
                    "error_place": "shop/tasks.py in charge",
                    "worker_id": "w2",
                    "lease": 2,
                    "attempts": 7,
                    "lost": 3,
                    "delete_after": then,
                }
                finish = Finish(job.id, 1, writes, "CANCELLED", **values)
                self.assertEqual(self.finish(finish), {job.id})
                values |= {"status": "CANCELLED", "return_value": [1], "errors": [2]}
                self.assertEqual(state(job.id), before | {name: values[name] for name in writes})

    def test_a_success_keeps_its_worker_and_has_a_value(self) -> None:
        make_jobs()
        [claim] = self.claim(worker_id="me")
        self.finish(succeeded(claim, {"a": ["ü", "🎈"]}))
        row = Job.objects.get()
        self.assertEqual((row.status, row.worker_id), ("SUCCESSFUL", "me"))
        self.assertEqual(row.return_value, {"a": ["ü", "🎈"]})
        self.assertIsNotNone(row.finished_at)

    def test_a_failure_is_added_to_the_errors_and_owned_by_nobody(self) -> None:
        make_jobs(attempts=1, errors=[{"attempt": 1}])
        [claim] = self.claim()
        self.finish(failed(claim, KeyError("k")))
        row = Job.objects.get()
        self.assertEqual((row.status, row.worker_id), ("FAILED", None))
        self.assertEqual(row.exception_class_path, "builtins.KeyError")
        self.assertEqual([error["attempt"] for error in row.errors], [1, 2])
        self.assertEqual(row.errors[1]["exception_class_path"], "builtins.KeyError")

    def test_an_error_says_where_it_was_raised(self) -> None:
        try:
            json.loads("[")
        except ValueError as error:
            raised = error
        test = "ExchangeContract.test_an_error_says_where_it_was_raised"
        place = f"tests/store/contract.py in {test}"
        for error, expected in ((raised, place), (ValueError("never raised"), "")):
            for again in (False, True):
                with self.subTest(expected=expected, again=again):
                    [job] = make_jobs()
                    [claim] = self.claim()
                    self.finish(retried(claim, 3600, error) if again else failed(claim, error))
                    self.assertEqual(state(job.id)["error_place"], expected)

    def test_a_lost_run_was_raised_nowhere(self) -> None:
        for again in (True, False):
            with self.subTest(again=again):
                [job] = make_running(error_place="shop/tasks.py in charge")
                [claim] = self.store.held_by("w")
                self.finish(rescued(claim, again=again))
                self.assertEqual(state(job.id)["error_place"], "")

    def test_a_release_restores_all_but_the_lease(self) -> None:
        long_ago = timezone.now() - timedelta(days=1)
        jobs = make_jobs(
            2,
            attempts=lambda n: n,
            lease=lambda n: n * 3,
            started_at=lambda n: long_ago if n else None,
            last_attempted_at=lambda n: long_ago if n else None,
        )
        before = [state(job.id) for job in jobs]
        claims = self.claim()
        self.assertEqual(len(self.finish(*map(Finish.released, claims))), 2)
        self.assertEqual(
            [state(job.id) for job in jobs],
            [row | {"lease": row["lease"] + 2} for row in before],
        )

    def test_a_lease_never_comes_back(self) -> None:
        make_jobs()
        leases = []
        for finish_of in (Finish.released, rescued, Finish.released, rescued, succeeded):
            [claim] = self.claim()
            leases.append(claim.lease)
            self.finish(finish_of(claim))
        self.assertEqual(leases, [1, 3, 5, 7, 9])

    def test_a_rescue_counts_the_lost_run(self) -> None:
        for again, status in ((True, "READY"), (False, "FAILED")):
            with self.subTest(again=again):
                [job] = make_running(lost=1)
                [claim] = self.store.held_by("w")
                self.finish(rescued(claim, again=again))
                row = Job.objects.get(id=job.id)
                self.assertEqual((row.status, row.lost, row.lease), (status, 2, 2))
                self.assertEqual((row.worker_id, row.attempts), (None, 1))
                self.assertEqual(row.errors[0]["worker_id"], "w")
                self.assertEqual(row.finished_at is None, again)

    def test_saving_an_ending_twice_is_harmless(self) -> None:
        for finish_of in (succeeded, failed):
            with self.subTest(finish_of.__name__):
                [job] = make_jobs()
                [claim] = self.claim()
                finish = finish_of(claim)
                self.assertEqual(self.finish(finish), {job.id})
                once = state(job.id)
                self.assertEqual(self.finish(finish), {job.id})
                self.assertEqual(state(job.id), once)

    def test_a_release_that_is_sent_twice_takes_the_job_from_nobody(self) -> None:
        [job] = make_jobs()
        [claim] = self.claim()
        release = Finish.released(claim)
        self.assertEqual(self.finish(release), {job.id})
        [heir] = self.claim(worker_id="heir")
        self.assertEqual(self.finish(release), set())
        self.assertEqual(self.finish(succeeded(heir)), {job.id})

    def test_endings_of_all_kinds_go_in_one_batch(self) -> None:
        make_jobs(50)
        claims = self.claim()
        kinds = list(KINDS.values())
        late = {claim.id for claim in claims[:10]}
        Job.objects.filter(id__in=late).update(lease=9)
        finishes = [kinds[n % len(kinds)](claim) for n, claim in enumerate(claims)]
        self.assertEqual(self.finish(*finishes), {claim.id for claim in claims} - late)
        expected = {finish.id: finish.status for finish in finishes} | dict.fromkeys(
            late, "RUNNING"
        )
        self.assertEqual(dict(Job.objects.values_list("id", "status")), expected)

    def test_batches_are_bounded_by_count_and_bytes_and_all_are_saved(self) -> None:
        cases = [(1203, 10, [500, 500, 203]), (30, 100_000, [10, 10, 10]), (2, 1_500_000, [1, 1])]
        for count, size, expected in cases:
            with self.subTest(count=count, size=size):
                Job.objects.all().delete()
                make_jobs(count)
                finishes = [succeeded(claim, "x" * size) for claim in self.claim(count)]
                self.assertEqual(
                    [len(batch) for batch in batches(finishes, lambda finish: finish.size)],
                    expected,
                )
                self.assertEqual(len(self.finish(*finishes)), count)
                stored = Job.objects.values_list("status", "return_value")
                self.assertEqual(set(stored), {("SUCCESSFUL", "x" * size)})
        self.assertEqual((MAX_BATCH, MAX_BATCH_BYTES), (500, 1024 * 1024))


class FaultContract(StoreTestCase):
    def refused_changes(self) -> list[dict[str, Any]]:
        """Attributes of a finish that this database refuses as data, each alone."""
        return [
            {"return_value": "{no JSON"},
            {"return_value": "[" * 50_000 + "]" * 50_000},
            {"writes": FAILED, "errors": "[1,"},
        ]

    def test_a_refused_ending_fails_alone_in_a_full_batch(self) -> None:
        for changes in self.refused_changes():
            with self.subTest(changes=str(changes)[:80]):
                Job.objects.all().delete()
                make_jobs(MAX_BATCH + 7)
                claims = self.claim(MAX_BATCH)
                finishes = [succeeded(claim) for claim in claims]
                bad = finishes[345]
                for name, value in changes.items():
                    setattr(bad, name, value)
                exchange = self.exchange(finishes, 3)
                self.assertEqual(exchange.counted, {claim.id for claim in claims})
                self.assertEqual(len(exchange.claims), 3)
                self.assertEqual(Job.objects.successful().count(), MAX_BATCH - 1)
                job = Job.objects.failed().get()
                self.assertEqual(job.id, bad.id)
                self.assert_refused(job, bad)

    def assert_refused(self, job: Job, finish: Finish) -> None:
        path = "durable_tasks.exceptions.RefusedByDatabase"
        self.assertEqual(job.exception_class_path, path)
        self.assertEqual(job.errors[-1]["exception_class_path"], path)
        self.assertIn("The database refused the job's ending", job.errors[-1]["traceback"])
        self.assertEqual((job.return_value, job.worker_id), (None, None))
        self.assertIsNotNone(job.finished_at)
        # The caller's message says what was written.
        self.assertEqual(finish.status, "FAILED")
        self.assertIsInstance(finish.exception, RefusedByDatabase)

    def test_several_refused_endings_fail_and_their_neighbours_do_not(self) -> None:
        make_jobs(20)
        finishes = [succeeded(claim) for claim in self.claim()]
        for number in (0, 7, 8, 19):
            finishes[number].return_value = "{no JSON"
        self.assertEqual(len(self.finish(*finishes)), 20)
        failed_ids = set(Job.objects.failed().values_list("id", flat=True))
        self.assertEqual(failed_ids, {finishes[number].id for number in (0, 7, 8, 19)})

    def test_a_refused_ending_leaves_the_callers_transaction_as_it_is(self) -> None:
        [job] = make_jobs()
        store = store_for(connection)
        with transaction.atomic():
            [other] = make_jobs(status="SCHEDULED")
            [claim] = self.claim(store=store)
            finish = succeeded(claim)
            finish.return_value = "{no JSON"
            self.assertEqual(self.finish(finish, store=store), {job.id})
            self.assertTrue(Job.objects.scheduled().filter(id=other.id).exists())
        self.assert_refused(Job.objects.failed().get(), finish)

    def test_a_refused_ending_with_an_old_lease_changes_nothing(self) -> None:
        [job] = make_jobs()
        [claim] = self.claim()
        Job.objects.update(lease=9)
        before = state(job.id)
        finish = succeeded(claim)
        finish.return_value = "{no JSON"
        self.assertEqual(self.finish(finish), set())
        self.assertEqual(state(job.id), before)

    def make_claims_refused(self) -> dict[str, Any]:
        """Return arguments of an exchange whose claim the database refuses."""
        return {"worker_id": "w" * 201}

    def test_a_refused_claim_is_an_error_and_no_endings_fault(self) -> None:
        make_jobs(10)
        claims = self.claim(5)
        finishes = [succeeded(claim) for claim in claims]
        options = self.make_claims_refused()
        with self.assertRaises((DataError, ValueError)):
            self.exchange(finishes, 1, **options)
        self.assertEqual(Job.objects.failed().count(), 0)
        # The store is as usable as before, and sending it again is safe.
        self.assertEqual(self.finish(*finishes), {claim.id for claim in claims})
        self.assertEqual(Job.objects.successful().count(), 5)

    def test_a_value_with_escaped_looks_is_stored_as_it_is(self) -> None:
        value = ["\\u0000", '"; --', "%s %(x)s {}", "\\", "\n\t\x7f", "\ufeff", "😀"]
        make_jobs()
        [claim] = self.claim()
        finish = Finish.succeeded(
            claim, json.dumps(value), started_at=timezone.now(), finished_at=timezone.now()
        )
        self.finish(finish)
        self.assertEqual(Job.objects.get().return_value, value)


class PromoteContract(StoreTestCase):
    def test_due_jobs_become_ready_and_keep_all_else(self) -> None:
        now = timezone.now()
        hours = timedelta(hours=1)
        jobs = make_jobs(
            4,
            status="SCHEDULED",
            priority=lambda n: n * 10,
            lease=4,
            attempts=1,
            run_at=lambda n: now + (n - 1) * hours,
        )
        before = [state(job.id) for job in jobs]
        self.assertEqual(self.store.promote(now), 2)
        due, rest = before[:2], before[2:]
        self.assertEqual(
            [state(job.id) for job in jobs], [row | {"status": "READY"} for row in due] + rest
        )
        self.assertEqual(self.store.promote(now), 0)

    def test_the_longest_due_are_promoted_first(self) -> None:
        now = timezone.now()
        jobs = make_jobs(
            9, status="SCHEDULED", run_at=lambda n: now - timedelta(seconds=(n * 4) % 9)
        )
        by_age = [job.id for job in sorted(jobs, key=lambda job: job.run_at)]
        self.assertEqual(self.store.promote(now, limit=4), 4)
        self.assertEqual(set(Job.objects.ready().values_list("id", flat=True)), set(by_age[:4]))
        self.assertEqual(self.store.promote(now, limit=10), 5)

    def test_other_statuses_are_not_promoted(self) -> None:
        long_ago = timezone.now() - timedelta(days=9)
        others = [status for status in STATUSES if status != "SCHEDULED"]
        make_jobs(len(others), status=lambda n: others[n], run_at=long_ago)
        self.assertEqual(self.store.promote(timezone.now()), 0)
        self.assertCountEqual(Job.objects.values_list("status", flat=True), others)

    def test_next_due_is_the_earliest_scheduled_time(self) -> None:
        self.assertIsNone(self.store.next_due())
        now = timezone.now()
        make_jobs(run_at=now - timedelta(days=1))
        self.assertIsNone(self.store.next_due())
        make_jobs(3, status="SCHEDULED", run_at=lambda n: now + timedelta(hours=3 - n))
        self.assertEqual(self.store.next_due(), now + timedelta(hours=1))

    def test_those_that_are_due_later_are_counted_up_to_a_limit(self) -> None:
        now = timezone.now()
        make_jobs(run_at=now)
        scheduled = {"status": "SCHEDULED", "run_at": lambda n: now + timedelta(hours=n + 1)}
        make_jobs(3, **scheduled)
        make_jobs(2, queue_name="mail", **scheduled)
        make_jobs(backend_name="other", **scheduled)
        for names, limit, expected in (
            (None, 100, (5, True)),
            (["mail"], 100, (2, True)),
            (["none"], 100, (0, True)),
            (None, 4, (3, False)),  # of those that are due next, one is another backend's
        ):
            with self.subTest(names=names, limit=limit):
                queues = Queues("default", names and tuple(names))
                self.assertEqual(self.store.count_scheduled(queues, limit), expected)


class PruneContract(StoreTestCase):
    def prune(self, *statuses: str, **options: Any) -> int:
        return self.store.prune(statuses, CUTOFF, **{"backend_name": "default", **options})

    def left(self) -> list[Any]:
        return sorted(Job.objects.values_list("task_path", flat=True))

    def test_old_jobs_of_the_statuses_go_and_all_others_stay(self) -> None:
        make_jobs(len(STATUSES), status=lambda n: STATUSES[n], finished_at=OLD, task_path="gone?")
        make_jobs(task_path="young", status="SUCCESSFUL", finished_at=CUTOFF)
        make_jobs(task_path="unfinished", status="SUCCESSFUL", finished_at=None)
        make_jobs(task_path="other", status="SUCCESSFUL", finished_at=OLD, backend_name="other")
        self.assertEqual(self.prune("SUCCESSFUL", "CANCELLED"), 2)
        self.assertEqual(self.left(), ["gone?"] * 5 + ["other", "unfinished", "young"])
        self.assertEqual(
            set(Job.objects.filter(task_path="gone?").values_list("status", flat=True)),
            set(STATUSES) - {"SUCCESSFUL", "CANCELLED"},
        )
        self.assertEqual(self.prune("SUCCESSFUL", "CANCELLED"), 0)

    def test_unended_jobs_are_never_pruned(self) -> None:
        unended = [status for status in STATUSES if status not in ENDED]
        make_jobs(len(unended), status=lambda n: unended[n], finished_at=OLD)
        if connection.features.supports_partial_indexes:
            self.assertEqual(self.prune(*unended), 0)
        self.assertEqual(self.prune("SUCCESSFUL", "FAILED", "CANCELLED"), 0)
        self.assertEqual(Job.objects.count(), len(unended))

    def test_queues_bound_a_prune(self) -> None:
        make_jobs(
            3,
            status="FAILED",
            finished_at=OLD,
            queue_name=lambda n: "abc"[n],
            task_path=lambda n: "abc"[n],
        )
        self.assertEqual(self.prune("FAILED", queue_names=["a", "c", "empty"]), 2)
        self.assertEqual(self.left(), ["b"])

    def test_the_limit_bounds_a_prune_over_all_statuses_oldest_first(self) -> None:
        make_jobs(
            10,
            status=lambda n: ("SUCCESSFUL", "FAILED")[n % 2],
            finished_at=lambda n: OLD - timedelta(seconds=n),
        )
        self.assertEqual(self.prune("SUCCESSFUL", "FAILED", limit=7), 7)
        self.assertEqual(self.prune("SUCCESSFUL", "FAILED", limit=7), 3)
        make_jobs(4, status="FAILED", finished_at=lambda n: OLD - timedelta(seconds=n))
        newest = Job.objects.latest("finished_at")
        self.assertEqual(self.prune("FAILED", limit=3), 3)
        self.assertEqual(Job.objects.get(), newest)


DAY = timedelta(days=1)


class RetentionContract(StoreTestCase):
    """Jobs that end are told when they are to be deleted."""

    def retain(self, backend_name: str = "default", **options: Any) -> None:
        self.store.retention = Retention(backend_name, Options(**options), find_task)

    def stays(self, id: UUID) -> timedelta | None:
        """Return how long a job stays after its end."""
        row = state(id)
        return row["delete_after"] and row["delete_after"] - row["finished_at"]

    def test_every_ending_sets_it_and_nothing_else_does(self) -> None:
        self.retain(retain=DAY, retain_failed=2 * DAY)
        expected = {"SUCCESSFUL": DAY, "FAILED": 2 * DAY, "CANCELLED": 2 * DAY}
        for kind, finish_of in KINDS.items():
            for cancelled in (False, True):
                with self.subTest(kind, cancelled=cancelled):
                    [job] = make_jobs()
                    [claim] = self.claim()
                    if cancelled:
                        Job.objects.update(cancel_requested_at=timezone.now())
                    self.assertEqual(self.finish(finish_of(claim)), {job.id})
                    row = state(job.id)
                    self.assertEqual(row["status"] in ENDED, row["finished_at"] is not None)
                    self.assertEqual(self.stays(job.id), expected.get(row["status"]))
                    Job.objects.all().delete()

    def test_endings_that_differ_go_in_one_batch(self) -> None:
        paths = ["tests.app.tasks.retained", "tests.app.tasks.kept", "tests.app.tasks.add", "a.b"]
        self.retain(retain={"tests.app.tasks.kept": DAY, "a.b": 7 * DAY, "*": 0})
        jobs = make_jobs(80, task_path=lambda n: paths[n // 2 % 4])
        by_id = {claim.id: claim for claim in self.claim()}
        finishes = [(failed if n % 2 else succeeded)(by_id[job.id]) for n, job in enumerate(jobs)]
        self.assertEqual(len(self.finish(*finishes)), 80)
        expected = [DAY, 2 * DAY, None, None, timedelta(), timedelta(), 7 * DAY, 7 * DAY] * 10
        self.assertEqual([self.stays(job.id) for job in jobs], expected)

    def test_a_refused_ending_stays_as_a_failed_one(self) -> None:
        self.retain(retain=DAY, retain_failed=2 * DAY)
        make_jobs(3)
        finishes = [succeeded(claim) for claim in self.claim()]
        finishes[1].return_value = "{no JSON"
        self.finish(*finishes)
        self.assertEqual([self.stays(each.id) for each in finishes], [DAY, 2 * DAY, DAY])
        self.retain(retain=DAY, retain_failed=None)
        make_jobs()
        [claim] = self.claim()
        finish = succeeded(claim)
        finish.return_value = "{no JSON"
        self.finish(finish)
        self.assertIsNone(self.stays(finish.id))

    def test_a_completion_in_the_callers_transaction_sets_it(self) -> None:
        self.retain(retain=DAY)
        [job] = make_jobs()
        [claim] = self.claim()
        store = store_for(connection, retention=self.store.retention)
        with transaction.atomic():
            finish = succeeded(claim).in_transaction()
            self.assertTrue(store.complete(finish, timezone.now()))
        self.assertEqual(self.stays(job.id), DAY)

    def test_a_cancel_by_hand_sets_it_of_what_waits(self) -> None:
        waiting, running = make_jobs()[0], make_running()[0]
        store = store_for(connection)
        asked = []

        def rule_of(job: LockedJob) -> Rule:
            asked.append((job.id, job.task_path))
            return Rule(None, DAY)

        with transaction.atomic():
            store.cancel(store.lock([waiting.id, running.id]), timezone.now(), rule_of)
        self.assertEqual(asked, [(waiting.id, waiting.task_path)])
        self.assertEqual((self.stays(waiting.id), self.stays(running.id)), (DAY, None))

    def test_without_a_rule_nothing_is_set(self) -> None:
        for retention in (None, Options(), Options(retain={"x.y": 0}, retain_failed={"x.y": 0})):
            if retention is None:
                self.store.retention = None
            else:
                self.retain(retain=retention.retain, retain_failed=retention.retain_failed)
            make_jobs(2)
            one, two = self.claim()
            self.finish(succeeded(one), failed(two))
        self.assertFalse(Job.objects.exclude(delete_after=None).exists())

    def test_a_rescued_job_of_another_backend_stays(self) -> None:
        for backend_name, expected in (("default", DAY), ("other", None)):
            with self.subTest(backend_name):
                self.retain(backend_name, retain=DAY)
                [job] = make_running()
                [claim] = self.store.held_by("w")
                self.finish(rescued(claim, again=False))
                self.assertEqual(self.stays(job.id), expected)


class PruneDueContract(StoreTestCase):
    def prune_due(self, limit: int = 100, **options: Any) -> int:
        return self.store.prune_due(CUTOFF, limit, **options)[0]

    def test_ended_jobs_that_are_due_go_and_all_others_stay(self) -> None:
        times = {"due": OLD, "now": CUTOFF, "soon": CUTOFF + timedelta(microseconds=1)}
        for name, time_ in (*times.items(), ("never", None)):
            make_jobs(
                len(STATUSES), status=lambda n: STATUSES[n], delete_after=time_, task_path=name
            )
        make_jobs(task_path="due", status="FAILED", delete_after=OLD, backend_name="other")
        self.assertEqual(self.prune_due(), 7)
        self.assertEqual(self.prune_due(), 0)
        left: dict[str, set[str]] = {}
        for path, status in Job.objects.values_list("task_path", "status"):
            left.setdefault(path, set()).add(status)
        unended = set(STATUSES) - set(ENDED)
        self.assertEqual(
            left,
            {"due": unended, "now": unended, "soon": set(STATUSES), "never": set(STATUSES)},
        )

    def test_the_longest_due_go_first_and_it_goes_on_where_it_was(self) -> None:
        jobs = make_jobs(
            9, status="SUCCESSFUL", delete_after=lambda n: OLD - timedelta(seconds=(n * 4) % 9)
        )
        by_age = sorted(jobs, key=lambda job: job.delete_after or OLD)
        self.assertEqual(self.store.prune_due(CUTOFF, 4), (4, by_age[3].delete_after))
        self.assertEqual(self.left_ids(), {job.id for job in by_age[4:]})
        since = by_age[6].delete_after
        self.assertEqual(self.store.prune_due(CUTOFF, 2, since=since), (2, by_age[7].delete_after))
        self.assertEqual(self.left_ids(), {job.id for job in (*by_age[4:6], by_age[8])})
        self.assertEqual(
            self.store.longest_due(CUTOFF, since=since), (by_age[8].id, by_age[8].delete_after)
        )
        self.assertEqual(self.store.prune_due(CUTOFF, 1, without={by_age[4].id})[0], 1)
        self.assertEqual(self.left_ids(), {by_age[4].id, by_age[8].id})
        self.assertEqual(self.store.prune_due(CUTOFF, 9), (2, by_age[8].delete_after))
        self.assertEqual(self.store.prune_due(CUTOFF, 9), (0, None))
        self.assertIsNone(self.store.longest_due(CUTOFF))

    def left_ids(self) -> set[UUID]:
        return set(Job.objects.values_list("id", flat=True))

    def test_a_retry_by_hand_saves_a_job(self) -> None:
        [job] = make_jobs(status="FAILED", delete_after=OLD)
        store = store_for(connection)
        with transaction.atomic():
            store.retry(store.lock([job.id]), timezone.now())
        self.assertEqual(self.prune_due(), 0)
        self.assertEqual(self.left_ids(), {job.id})

    def test_nothing_is_written_while_nothing_is_due(self) -> None:
        make_jobs(3, status="SUCCESSFUL", delete_after=CUTOFF + DAY)
        with mock.patch.object(type(self.store), "_prune_due") as deletes:
            self.assertEqual(self.prune_due(), 0)
        deletes.assert_not_called()

    def test_it_is_undone_with_the_callers_transaction(self) -> None:
        make_jobs(3, status="SUCCESSFUL", delete_after=OLD)
        with transaction.atomic():
            self.assertEqual(store_for(connection).prune_due(CUTOFF, 9)[0], 3)
            transaction.set_rollback(True)
        self.assertEqual(Job.objects.count(), 3)


class HoldContract(StoreTestCase):
    def make_mine(self) -> list[Job]:
        """Insert five jobs that "me" runs, and others; return the five."""
        make_running(2, "you")
        make_jobs(2, worker_id="me", status="SUCCESSFUL")
        make_jobs(2)
        return make_running(5, "me", lease=3, attempts=2)

    def test_held_by_gives_the_running_jobs_of_one_worker_as_claims(self) -> None:
        mine = self.make_mine()
        claims = self.store.held_by("me")
        self.assertEqual({claim.id for claim in claims}, {job.id for job in mine})
        self.assertEqual(
            {(claim.lease, claim.attempts, claim.worker_id) for claim in claims}, {(3, 2, "me")}
        )
        self.assertEqual(claims[0].last_attempted_at, mine[0].last_attempted_at)
        self.assertEqual(self.finish(*map(succeeded, claims)), {job.id for job in mine})

    def test_held_by_keeps_to_its_limit(self) -> None:
        self.make_mine()
        self.assertEqual(len(self.store.held_by("me", limit=2)), 2)
        self.assertEqual(self.store.held_by("nobody"), [])

    def test_held_by_keeps_to_a_backend(self) -> None:
        mine = self.make_mine()
        make_running(3, "me", backend_name="another")
        claims = self.store.held_by("me", backend_name="default")
        self.assertEqual({claim.id for claim in claims}, {job.id for job in mine})
        self.assertEqual(self.store.held_by("me", backend_name="a third"), [])

    def test_tokens_of_gives_id_and_lease(self) -> None:
        mine = self.make_mine()
        self.assertCountEqual(self.store.tokens_of("me"), [(job.id, 3) for job in mine])
        self.assertEqual(self.store.tokens_of("nobody"), [])

    def test_owners_are_the_workers_with_running_jobs(self) -> None:
        self.make_mine()
        self.assertEqual(self.store.owners(), ["me", "you"])
        Job.objects.running().filter(worker_id="me").update(status="READY")
        self.assertEqual(self.store.owners(), ["you"])


class TakeContract(StoreTestCase):
    """One job that is named, on a connection of its own and on the project's."""

    def test_take_is_a_claim_of_one_job(self) -> None:
        for store in (self.store, store_for(connection)):
            jobs = make_jobs(3, priority=lambda number: number, args=[1], errors=["old"])
            now = timezone.now()
            [same] = [Job.objects.get(id=jobs[0].id)]
            claim = store.take(jobs[0].id, worker_id="me", now=now)
            assert claim is not None
            self.assertEqual((claim.id, claim.lease, claim.attempts), (same.id, 1, 1))
            self.assertEqual((json.loads(claim.args), claim.started_at), ([1], None))
            self.assertEqual(json.loads(claim.errors or ""), ["old"])
            self.assertEqual((claim.run_at, claim.enqueued_at), (same.run_at, same.enqueued_at))
            row = state(jobs[0].id)
            self.assertEqual((row["status"], row["worker_id"]), ("RUNNING", "me"))
            self.assertEqual((row["started_at"], row["last_attempted_at"]), (now, now))
            self.assertEqual(self.finish(succeeded(claim), store=store), {claim.id})
            self.assertEqual(Job.objects.ready().count(), 2)
            Job.objects.all().delete()

    def test_take_leaves_what_is_not_ready(self) -> None:
        for status in set(STATUSES) - {"READY"}:
            [job] = make_jobs(status=status)
            before = state(job.id)
            self.assertIsNone(self.store.take(job.id, worker_id="me", now=timezone.now()))
            self.assertEqual(state(job.id), before)
        self.assertIsNone(self.store.take(new_job().id, worker_id="me", now=timezone.now()))

    def test_take_is_part_of_the_callers_transaction(self) -> None:
        [job] = make_jobs()
        before = state(job.id)
        with transaction.atomic():
            store_for(connection).take(job.id, worker_id="me", now=timezone.now())
            transaction.set_rollback(True)
        self.assertEqual(state(job.id), before)


class CancelContract(StoreTestCase):
    """By hand, on the project's connection, in the caller's transaction."""

    def lock(self, *jobs: Job) -> list[LockedJob]:
        return store_for(connection).lock([job.id for job in jobs])

    def cancel(self, *jobs: Job) -> set[UUID]:
        with transaction.atomic():
            changed = store_for(connection).cancel(self.lock(*jobs), timezone.now())
        return {job.id for job in changed}

    def retry(self, *jobs: Job) -> set[UUID]:
        with transaction.atomic():
            changed = store_for(connection).retry(self.lock(*jobs), timezone.now())
        return {job.id for job in changed}

    def ask(self, *jobs: Job) -> None:
        self.assertEqual(self.cancel(*jobs), {job.id for job in jobs})

    def test_lock_gives_the_jobs_that_are_there_in_order(self) -> None:
        jobs = make_jobs(3, errors=[1])
        gone = Job(id=new_job().id)
        with transaction.atomic():
            locked = self.lock(jobs[2], gone, jobs[0])
        self.assertEqual([job.id for job in locked], [jobs[0].id, jobs[2].id])
        job = locked[0]
        self.assertEqual(
            (job.status, job.backend_name, job.queue_name, job.worker_id, job.lease, job.attempts),
            ("READY", "default", "default", None, 0, 0),
        )
        self.assertEqual(json.loads(job.errors or ""), [1])

    def test_a_waiting_job_is_cancelled_at_once_and_never_claimed(self) -> None:
        now = timezone.now()
        for status in WAITING:
            with self.subTest(status):
                [job] = make_jobs(status=status, lease=4, attempts=2, errors=[{"attempt": 1}])
                before = state(job.id)
                self.assertEqual(self.cancel(job), {job.id})
                after = state(job.id)
                self.assertGreaterEqual(after["finished_at"], now)
                self.assertEqual(len(after["errors"]), 2)
                error = after["errors"][1]
                self.assertEqual((error["attempt"], error["worker_id"]), (2, None))
                self.assertIn("TaskCancelled: Cancelled while it waited.", error["traceback"])
                changes = {name: after[name] for name in ("finished_at", "errors")}
                changes |= {"status": "CANCELLED", "lease": 5, "exception_class_path": CANCELLED}
                changes["error_place"] = ""
                self.assertEqual(after, before | changes)
                self.assertEqual((self.claim(), self.store.promote(now)), ([], 0))

    def test_of_a_running_job_it_is_noted_once(self) -> None:
        [job] = make_running()
        before = state(job.id)
        self.assertEqual(self.cancel(job), {job.id})
        asked = state(job.id)
        self.assertIsNotNone(asked["cancel_requested_at"])
        self.assertEqual(asked, before | {"cancel_requested_at": asked["cancel_requested_at"]})
        self.assertEqual(self.cancel(job), {job.id})
        self.assertEqual(state(job.id), asked)

    def test_an_ended_job_is_not_cancelled(self) -> None:
        jobs = make_jobs(3, status=lambda n: ENDED[n])
        before = [state(job.id) for job in jobs]
        self.assertEqual(self.cancel(*jobs), set())
        self.assertEqual([state(job.id) for job in jobs], before)

    def test_a_cancel_and_a_retry_are_undone_with_the_callers_transaction(self) -> None:
        jobs = [*make_jobs(2), *make_running(), *make_jobs(status="FAILED")]
        before = [state(job.id) for job in jobs]
        with transaction.atomic():
            self.assertEqual(len(self.cancel(*jobs)), 3)
            self.assertEqual(len(self.retry(*jobs)), 3)
            transaction.set_rollback(True)
        self.assertEqual([state(job.id) for job in jobs], before)

    def test_what_would_run_again_is_cancelled_if_that_was_asked_for(self) -> None:
        for kind, finish_of in KINDS.items():
            with self.subTest(kind):
                [job] = make_jobs(attempts=1, lease=2, errors=[{"attempt": 1}])
                [claim] = self.claim()
                self.ask(job)
                finish = finish_of(claim)
                is_end, written = finish.is_end, len(json.loads(finish.errors or "[1]"))
                self.assertEqual(self.finish(finish), {job.id})
                row = state(job.id)
                self.assertEqual(finish.status, row["status"])
                if is_end:
                    self.assertNotEqual(row["status"], "CANCELLED")
                    continue
                self.assertEqual(row["status"], "CANCELLED")
                self.assertEqual(row["exception_class_path"], CANCELLED)
                self.assertEqual(len(row["errors"]), written + 1)
                self.assertIn("Cancelled instead of another run", row["errors"][-1]["traceback"])
                self.assertEqual((row["lease"], row["worker_id"]), (4, None))
                self.assertEqual(finish.finished_at, row["finished_at"])
                self.assertIsNone(finish.run_at)
                counts = kind not in ("released", "paused", "snoozed")
                self.assertEqual((row["attempts"], claim.attempts), (1 + counts, 1 + counts))
                self.assertEqual(row["lost"], int("rescued" in kind))
                self.assertEqual(self.claim(), [])

    def test_a_cancel_of_a_lost_lease_is_nobodys(self) -> None:
        [job] = make_jobs()
        [claim] = self.claim()
        self.ask(job)
        Job.objects.update(lease=9)
        before = state(job.id)
        for finish_of in (Finish.released, lambda claim: retried(claim, 0)):
            finish = finish_of(claim)
            self.assertEqual(self.finish(finish), set())
            self.assertEqual((state(job.id), finish.status), (before, "READY"))

    def test_in_a_batch_only_those_are_cancelled_that_were_asked_for(self) -> None:
        jobs = make_jobs(60)
        claims = self.claim()
        kinds = [Finish.released, succeeded, lambda claim: retried(claim, 3600)]
        asked = {job.id for job in jobs[::2]}
        self.ask(*jobs[::2])
        finishes = [kinds[n % 3](claim) for n, claim in enumerate(claims)]
        expected = {
            finish.id: "CANCELLED" if finish.id in asked and not finish.is_end else finish.status
            for finish in finishes
        }
        exchange = self.exchange(finishes, 5, ["empty"])
        self.assertEqual(len(exchange.counted), 60)
        self.assertEqual(dict(Job.objects.values_list("id", "status")), expected)
        self.assertEqual({finish.id: finish.status for finish in finishes}, expected)

    def test_cancels_among_gives_the_tokens_of_those_that_were_asked_for(self) -> None:
        jobs = make_running(1200, lease=7)
        self.ask(*jobs[::400])
        ids = [job.id for job in jobs[1:]]
        self.assertCountEqual(self.store.cancels_among(ids), [(jobs[400].id, 7), (jobs[800].id, 7)])
        self.assertEqual(self.store.cancels_among([]), [])

    def test_a_retry_begins_anew_but_keeps_errors_and_lease(self) -> None:
        then = timezone.now() - timedelta(days=1)
        for status in ENDED:
            with self.subTest(status):
                [job] = make_jobs(
                    status=status,
                    attempts=5,
                    lost=2,
                    lease=9,
                    started_lease=8,
                    run_at=then,
                    started_at=then,
                    last_attempted_at=then,
                    finished_at=then,
                    worker_id="w",
                    return_value=1,
                    errors=[{"attempt": 1}],
                    exception_class_path="x",
                    error_place="shop/tasks.py in charge",
                    cancel_requested_at=then,
                    delete_after=then,
                )
                before = state(job.id)
                self.assertEqual(self.retry(job), {job.id})
                after = state(job.id)
                self.assertGreater(after["run_at"], then)
                fresh = dict.fromkeys(
                    (
                        *("started_lease", "started_at", "last_attempted_at", "finished_at"),
                        *("worker_id", "return_value", "cancel_requested_at", "delete_after"),
                    )
                )
                fresh |= {"status": "READY", "attempts": 0, "lost": 0, "lease": 10}
                self.assertEqual(after, before | fresh | {"run_at": after["run_at"]})
                [claim] = self.claim()
                self.assertEqual((claim.lease, claim.runs), (11, 1))

    def test_a_job_that_has_not_ended_is_not_retried(self) -> None:
        jobs = [*make_jobs(), *make_jobs(status="SCHEDULED"), *make_running()]
        before = [state(job.id) for job in jobs]
        self.assertEqual(self.retry(*jobs), set())
        self.assertEqual([state(job.id) for job in jobs], before)


class ClockContract(StoreTestCase):
    def test_the_database_time_is_the_time(self) -> None:
        """An hour off would be a time zone at work; a server's clock may be a little off."""
        self.assertAlmostEqual(self.store.database_time(), time.time(), delta=900)
        self.assertGreaterEqual(self.store.database_time(), self.store.database_time() - 0.5)


class ConnectionContract(StoreTestCase):
    def test_the_engines_own_connection_leaves_the_projects_alone(self) -> None:
        ours, theirs = self.store.connection, connections["default"]
        self.assertIsNot(ours, theirs)
        self.assertEqual(theirs.settings_dict, connections.settings["default"])
        self.assertIsNot(ours.settings_dict["OPTIONS"], theirs.settings_dict.get("OPTIONS"))
        self.assertNotEqual(ours.settings_dict["OPTIONS"], theirs.settings_dict.get("OPTIONS"))
        self.assertEqual(ours.settings_dict["NAME"], theirs.settings_dict["NAME"])

    def cut_connection(self) -> None:
        """End the store's connection without its knowledge."""
        raise NotImplementedError

    def test_a_lost_connection_is_an_error_and_sending_again_is_safe(self) -> None:
        [job] = make_jobs()
        [claim] = self.claim()
        finish = succeeded(claim)
        self.cut_connection()
        with self.assertRaises(DatabaseError):
            self.finish(finish)
        self.assertEqual((finish.status, state(job.id)["status"]), ("SUCCESSFUL", "RUNNING"))
        self.store.connection.close()
        self.assertEqual(self.finish(finish), {job.id})


class BorrowedContract(StoreTestCase):
    """A store on the project's connection keeps to the caller's transaction."""

    def test_what_it_does_is_undone_with_the_callers_transaction(self) -> None:
        [job] = make_jobs()
        make_jobs(status="SCHEDULED", run_at=timezone.now() - timedelta(hours=1))
        make_jobs(status="FAILED", finished_at=timezone.now() - timedelta(hours=1))
        before = list(Job.objects.order_by("id").values())
        store = store_for(connection)
        now = timezone.now()
        with transaction.atomic():
            [claim] = self.claim(1, store=store)
            self.assertEqual(self.finish(succeeded(claim), store=store), {job.id})
            self.assertEqual(store.promote(now), 1)
            self.assertEqual(store.prune(["FAILED"], now, backend_name="default"), 1)
            transaction.set_rollback(True)
        self.assertEqual(list(Job.objects.order_by("id").values()), before)


class StoreContract(
    InsertContract,
    ClaimContract,
    ExchangeContract,
    FaultContract,
    PromoteContract,
    PruneContract,
    RetentionContract,
    PruneDueContract,
    HoldContract,
    TakeContract,
    CancelContract,
    PauseContract,
    ByHandContract,
    ClockContract,
    ConnectionContract,
    BorrowedContract,
):
    """What a store promises, on its own connection and on a borrowed one."""


class HeadsContract(StoreTestCase):
    """For databases on which claims may have to start at heads, past what is dead."""

    def test_the_best_jobs_come_first(self) -> None:
        now = timezone.now()
        made = make_jobs(
            60,
            queue_name=lambda n: "ab"[n % 2],
            priority=lambda n: (n * 7) % 3 - 1,
            run_at=lambda n: now - timedelta(seconds=(n * 5) % 4),
        )
        best = sorted(made, key=lambda job: (-job.priority, job.run_at))
        for names in (["a"], ["a", "b", "empty"], None):
            with self.subTest(names=names):
                Job.objects.update(status="READY")
                self.store.look_everywhere()
                self.look_for_heads(names)
                exchanges = [self.exchange((), 7, names) for _ in range(9)]
                self.assertEqual({exchange.complete for exchange in exchanges}, {False})
                claims = [claim for exchange in exchanges for claim in exchange.claims]
                self.assertEqual(
                    [(claim.priority, claim.run_at) for claim in claims],
                    [
                        (job.priority, job.run_at)
                        for job in best
                        if names is None or job.queue_name in names
                    ],
                )
                self.assertEqual(len({claim.id for claim in claims}), len(claims))

    def test_a_job_before_the_heads_is_found_by_the_next_look(self) -> None:
        now = timezone.now()
        for names in (["a", "b"], None):
            for late in (
                {"run_at": now - timedelta(hours=1)},  # such as one that was rescued
                {"priority": 5},
                {"queue_name": "b"},
            ):
                with self.subTest(names=names, late=late):
                    Job.objects.all().delete()
                    self.store.look_everywhere()
                    make_jobs(2, queue_name="a", run_at=now)
                    self.look_for_heads(names)
                    [job] = make_jobs(**{"queue_name": "a", "run_at": now, **late})
                    exchange = self.exchange((), 10, names)
                    self.assertEqual(len(exchange.claims), 2)
                    self.assertFalse(exchange.complete)
                    self.assertFalse(self.store.peek(self.queues(names)).ready)
                    self.pass_time(3601)
                    self.assertTrue(self.store.peek(self.queues(names)).ready)
                    self.assertEqual([claim.id for claim in self.claim(10, names)], [job.id])

    def test_a_job_of_higher_priority_comes_first_after_the_next_look(self) -> None:
        make_jobs(5)
        self.look_for_heads()
        [urgent] = make_jobs(priority=5)
        self.assertNotEqual(self.claim(1)[0].id, urgent.id)
        self.pass_time(3601)
        self.assertEqual(self.claim(1)[0].id, urgent.id)

    def test_what_was_empty_at_a_look_is_known_from_before(self) -> None:
        make_jobs(3)
        self.look_for_heads(often=True)
        self.assertEqual(len(self.claim()), 3)
        self.assertEqual(self.claim(), [])
        self.claims_seem(slow=True, every=3600.0)
        self.assertEqual(self.claim(), [])
        self.assertFalse(self.store.peek(self.queues(None)).ready)
        [job] = make_jobs()
        self.assertTrue(self.store.peek(self.queues(None)).ready)
        self.assertEqual([claim.id for claim in self.claim()], [job.id])

    def test_a_head_far_before_the_next_job_is_dropped(self) -> None:
        make_jobs(2)
        make_jobs(priority=5)
        self.look_for_heads(often=True)
        self.claim(1)  # all of priority 5
        with mock.patch("durable_tasks.store.heads.SLOW_HEAD", -math.inf):
            self.store.peek(self.queues(None))
        self.claims_seem(slow=True, every=3600.0)
        self.store.peek(self.queues(None))
        make_jobs(priority=5)
        self.assertEqual([claim.priority for claim in self.claim()], [0, 0])
        self.pass_time(3601)
        self.assertEqual([claim.priority for claim in self.claim()], [5])

    def test_heads_are_given_up_when_looks_are_fast_again(self) -> None:
        make_jobs(3)
        self.look_for_heads()
        self.assertFalse(self.exchange((), 1).complete)
        self.pass_time(3601)
        self.claims_seem(slow=False)
        self.assertTrue(self.exchange((), 1).complete)
        make_jobs(priority=5)
        self.assertEqual(self.claim(1)[0].priority, 5)

    def test_one_slow_look_may_have_been_an_accident(self) -> None:
        make_jobs(9)
        self.claims_seem(slow=True)
        self.claim(1)
        self.assertTrue(self.exchange((), 1).complete)  # the first look
        self.claims_seem(slow=False)
        self.assertTrue(self.exchange((), 1).complete)
        self.claims_seem(slow=True)
        self.assertTrue(self.exchange((), 1).complete)

    def test_a_claim_of_other_queues_looks_at_all_of_theirs(self) -> None:
        make_jobs(4, queue_name=lambda n: "ab"[n % 2])
        self.look_for_heads(["a"])
        self.assertEqual(len(self.claim(10, ["b"])), 2)

    def test_it_can_be_asked_to_look_everywhere(self) -> None:
        make_jobs()
        self.look_for_heads()
        [urgent] = make_jobs(priority=5)
        self.store.look_everywhere()
        exchange = self.exchange((), 1)
        self.assertTrue(exchange.complete)
        self.assertEqual(exchange.claims[0].id, urgent.id)

    def queues(self, names: list[str] | None) -> Queues:
        return Queues("default", None if names is None else tuple(names))


class ParallelContract(StoreTestCase):
    """For databases that lock rows: what another connection has locked is left to it."""

    # Makes waiting for a lock an error, soon.
    impatience: str

    def setUp(self) -> None:
        super().setUp()
        self.store.changed(self.impatience)

    def lock(self, *ids: Any) -> Any:
        """Return a store that holds locks on these jobs until it commits."""
        other = self.open_store()
        other.connection.set_autocommit(False)
        self.addCleanup(other.connection.rollback)
        for id in ids:
            other.row(
                f"SELECT id FROM {Job._meta.db_table} WHERE id = %s FOR UPDATE", [other.to_id(id)]
            )
        return other

    def test_a_claim_passes_over_locked_jobs(self) -> None:
        now = timezone.now()
        jobs = make_jobs(4, run_at=lambda n: now + timedelta(seconds=n))
        self.lock(jobs[0].id, jobs[2].id)
        self.assertEqual(
            [claim.id for claim in self.claim(2, ["default"])], [jobs[1].id, jobs[3].id]
        )

    def test_a_promote_passes_over_locked_jobs(self) -> None:
        now = timezone.now()
        jobs = make_jobs(3, status="SCHEDULED", run_at=now - timedelta(hours=1))
        other = self.lock(jobs[1].id)
        self.assertEqual(self.store.promote(now), 2)
        other.connection.commit()
        self.assertEqual(self.store.promote(now), 1)

    def test_a_prune_passes_over_locked_jobs(self) -> None:
        now = timezone.now()
        jobs = make_jobs(3, status="FAILED", finished_at=now - timedelta(hours=1))
        self.lock(jobs[1].id)
        self.assertEqual(self.store.prune(["FAILED"], now, backend_name="default"), 2)
        self.assertEqual(Job.objects.get().id, jobs[1].id)

    def test_a_prune_of_what_is_due_passes_over_locked_jobs(self) -> None:
        jobs = make_jobs(3, status="FAILED", delete_after=OLD)
        self.lock(jobs[1].id)
        self.assertEqual(self.store.prune_due(CUTOFF, 9)[0], 2)
        self.assertEqual(Job.objects.get().id, jobs[1].id)

    def test_by_hand_only_the_jobs_themselves_are_locked(self) -> None:
        """In a caller's transaction, of whatever isolation, over a small table."""
        cases = (("READY", "cancel"), ("RUNNING", "cancel"), ("FAILED", "retry"))
        for status, word in cases:
            with self.subTest(status, word=word):
                Job.objects.all().delete()
                jobs = make_jobs(40, status=status, worker_id="w")
                store = store_for(connection)
                if connection.vendor == "mysql":  # where it could lock the most
                    store.changed("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    self.addCleanup(connection.close)
                with transaction.atomic():
                    locked = store.lock([job.id for job in jobs[::2]])
                    self.assertEqual(len(getattr(store, word)(locked, timezone.now())), 20)
                    others = [job.id for job in jobs]
                    found = self.store.lock(others, wait=False)
                    self.assertEqual({job.id for job in found}, {job.id for job in jobs[1::2]})
                    transaction.set_rollback(True)

    def test_claims_of_two_workers_do_not_wait_for_each_other(self) -> None:
        make_jobs(6, queue_name=lambda n: "ab"[n % 2])
        other = self.open_store()
        other.connection.set_autocommit(False)
        other.own = False  # the transaction is ours: it stays open
        first = other._exchange([], 2, Queues("default", ("a",)), "other", timezone.now())
        self.assertEqual((len(first), len(self.claim(10, ["a"]))), (2, 1))
        other.connection.rollback()
        self.assertEqual(len(self.claim(10, ["a"])), 2)
