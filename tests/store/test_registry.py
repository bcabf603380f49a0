import uuid
from dataclasses import replace

from django.db import IntegrityError
from django.utils import timezone

from durable_tasks.models import Worker
from durable_tasks.store.registry import Registry, WorkerRow

from .jobs import StoreTestCase

ROW = WorkerRow("ü", uuid.uuid4(), "default", "here", 12, "then", 1_700_000_000_000_001)


class RegistryTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.registry = Registry(self.store)
        self.add(ROW)

    def add(self, row: WorkerRow) -> None:
        self.registry.add(
            row, queues="all", threads=3, coroutines=0, version="1", now=timezone.now()
        )

    def test_a_row_is_read_as_it_was_added(self) -> None:
        self.assertEqual(self.registry.all(), [ROW])
        self.assertEqual(self.registry.find(ROW.id), ROW)
        self.assertIsNone(self.registry.find("nobody"))
        worker = Worker.objects.get()
        self.assertEqual((worker.queues, worker.capacity, worker.life), ("all", 3, ROW.life))

    def test_a_name_is_taken_once(self) -> None:
        with self.assertRaises(IntegrityError):
            self.add(replace(ROW, life=uuid.uuid4()))
        self.assertEqual(self.registry.all(), [ROW])

    def test_a_beat_counts_for_the_life_it_is_of(self) -> None:
        self.assertTrue(self.registry.beat(ROW.id, ROW.life, ROW.last_seen))
        self.assertTrue(self.registry.beat(ROW.id, ROW.life, 5))
        self.assertFalse(self.registry.beat(ROW.id, uuid.uuid4(), 6))
        self.assertFalse(self.registry.beat("nobody", ROW.life, 6))
        self.assertEqual(self.registry.all(), [replace(ROW, last_seen=5)])

    def test_a_row_that_was_seen_since_is_not_removed(self) -> None:
        self.registry.beat(ROW.id, ROW.life, 5)
        self.assertFalse(self.registry.remove(ROW))
        self.assertFalse(self.registry.remove(replace(ROW, last_seen=5, life=uuid.uuid4())))
        self.assertTrue(self.registry.remove(replace(ROW, last_seen=5)))
        self.assertEqual(self.registry.all(), [])

    def test_a_life_removes_no_other_life(self) -> None:
        self.registry.leave(ROW.id, uuid.uuid4())
        self.assertEqual(self.registry.all(), [ROW])
        self.registry.leave(ROW.id, ROW.life)
        self.assertEqual(self.registry.all(), [])
