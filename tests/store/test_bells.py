"""When an idle worker looks, what it sees, and what enqueuing tells it."""

from datetime import timedelta
from unittest import mock

from django.db import connection, transaction
from django.test import TransactionTestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks.models import Job
from durable_tasks.store import Queues, own_connection, store_for
from durable_tasks.store.base import BUSY_FOR, BUSY_LOOK, FIRST_LOOK
from durable_tasks.store.bells import SOON, Bell, _last_rings

from ..app import tasks
from ..helpers import eventually
from .jobs import make_jobs

DEFAULT = Queues("default", ("default",))


class PeekTests(TransactionTestCase):
    def setUp(self):
        own = own_connection("default")
        self.addCleanup(own.close)
        self.store = store_for(own, own=True)

    def sees(self, *names, excluded=()):
        return self.store.peek(Queues("default", names or None, frozenset(excluded))).ready

    def test_an_empty_table_shows_nothing(self):
        peek = self.store.peek(DEFAULT)
        self.assertEqual((peek.ready, peek.next_due), (False, None))

    def test_only_what_the_worker_serves_is_seen(self):
        make_jobs(queue_name="m")
        make_jobs(queue_name="z", backend_name="other")
        self.assertTrue(self.sees("m"))
        self.assertTrue(self.sees("a", "m"))
        self.assertFalse(self.sees("a", "z"))
        self.assertTrue(self.sees())
        for excluded in (("m",), ("a", "m"), ("m", "z"), ("a", "m", "z"), ("l", "m", "n")):
            self.assertFalse(self.sees(excluded=excluded), excluded)
        for excluded in (("a",), ("z",), ("l", "n"), ("a", "l", "n", "z")):
            self.assertTrue(self.sees(excluded=excluded), excluded)

    def test_the_next_due_time_is_the_earliest_of_all(self):
        now = timezone.now().replace(microsecond=0)
        for minutes in (3, 1, 2):
            make_jobs(status="SCHEDULED", run_at=now + timedelta(minutes=minutes))
        peek = self.store.peek(DEFAULT)
        self.assertEqual((peek.ready, peek.next_due), (False, now + timedelta(minutes=1)))

    def test_a_look_is_one_statement_that_writes_nothing(self):
        make_jobs(3)
        self.store.connection.ensure_connection()
        with CaptureQueriesContext(self.store.connection) as queries:
            self.store.peek(Queues("default", None, frozenset({"a", "b"})))
        sql = [query["sql"] for query in queries if not query["sql"].startswith("PRAGMA")]
        self.assertEqual(len(sql), 1)
        self.assertTrue(sql[0].startswith("SELECT"))

    def test_what_others_commit_is_seen_and_so_is_what_we_did_ourselves(self):
        self.assertFalse(self.sees("default"))
        make_jobs(2)
        self.assertTrue(self.sees("default"))
        self.store.exchange([], 2, queues=DEFAULT, worker_id="w", now=timezone.now())
        self.assertFalse(self.sees("default"))
        make_jobs()
        self.assertTrue(self.sees("default"))


class PauseTests(TransactionTestCase):
    """Of PostgreSQL, MySQL and MariaDB; SQLite watches its file instead."""

    def pauses(self, interval, *, hears):
        store = store_for(connection)
        idle, found = 0.0, []
        while idle < 60:
            found.append(store.look_again_in(idle, interval, hears=hears))
            idle += found[-1]
        return found

    def test_looks_become_rarer_up_to_the_interval(self):
        for hears in (True, False):
            pauses = self.pauses(1.0, hears=hears)
            self.assertEqual(pauses, sorted(pauses))
            self.assertLessEqual(max(pauses), 1.0)
            self.assertGreater(min(pauses), 0)

    def test_without_notifications_work_soon_after_work_does_not_wait_long(self):
        if connection.vendor == "sqlite":
            self.assertLessEqual(max(self.pauses(1.0, hears=False)), BUSY_LOOK)
            return
        store = store_for(connection)
        self.assertEqual(store.look_again_in(0, 1.0, hears=True), FIRST_LOOK)
        self.assertEqual(store.look_again_in(BUSY_FOR - 1, 9.0, hears=False), BUSY_LOOK)
        self.assertEqual(store.look_again_in(BUSY_FOR - 1, 9.0, hears=True), BUSY_FOR - 1)
        self.assertEqual(store.look_again_in(BUSY_FOR, 1.0, hears=False), 1.0)


class RingTests(TransactionTestCase):
    def setUp(self):
        _last_rings.clear()
        self.rung = []
        patch = mock.patch.multiple(
            type(store_for(connection)),
            notifies=True,
            notify=lambda store, payload: self.rung.append(payload),
        )
        patch.start()
        self.addCleanup(patch.stop)

    def test_a_ring_follows_the_commit_and_names_backend_and_queue(self):
        with transaction.atomic():
            tasks.add.using(queue_name="mail").enqueue(1, 2)
            self.assertEqual(self.rung, [])
        self.assertEqual(self.rung, ["default\nmail"])

    def test_what_was_rolled_back_does_not_ring(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            tasks.add.enqueue(1, 2)
            raise ZeroDivisionError
        self.assertEqual(self.rung, [])

    def test_many_enqueues_ring_once(self):
        with transaction.atomic():
            for number in range(50):
                tasks.add.enqueue(number, 1)
        self.assertEqual(self.rung, ["default\ndefault"])

    def test_a_job_for_much_later_does_not_ring(self):
        later = timezone.now() + 2 * SOON
        tasks.add.using(run_after=later).enqueue(1, 2)
        self.assertEqual(self.rung, [])
        tasks.add.using(run_after=timezone.now() + SOON / 2).enqueue(1, 2)
        self.assertEqual(self.rung, ["default\ndefault"])

    def test_a_ring_that_fails_disturbs_nobody(self):
        with (
            mock.patch.object(type(store_for(connection)), "notify", side_effect=OSError),
            self.assertLogs("django.db.backends.base", "ERROR"),
        ):
            result = tasks.add.enqueue(1, 2)
        self.assertTrue(Job.objects.filter(id=result.id).exists())


class BellTests(TransactionTestCase):
    def test_a_wake_ends_a_wait_even_if_it_came_before(self):
        bell = Bell(lambda payload: None)
        self.addCleanup(bell.close)
        bell.wake()
        bell.wake()
        bell.wait(3600)

    def test_a_notification_from_another_connection_is_heard(self):
        own = own_connection("default")
        self.addCleanup(own.close)
        store = store_for(own, own=True)
        if not store.notifies:
            self.assertIn(connection.vendor, ("mysql", "sqlite"))
            return
        heard = []
        bell = Bell(heard.append)
        self.addCleanup(bell.close)
        bell.listen(store)
        store_for(connection).notify("one")
        eventually(lambda: bell.wait(0.1) or heard == ["one"], "it rings while it waits")
        store_for(connection).notify("two")
        eventually(lambda: store.rows("SELECT 1") and "two" in heard, "or with another answer")
