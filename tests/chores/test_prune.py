from datetime import timedelta
from unittest import mock

from django.db import OperationalError, connection, models
from django.test.utils import isolate_apps
from django.utils import timezone

from durable_tasks.chores import prune as prune_module
from durable_tasks.chores.prune import Pruned, Pruning, prune
from durable_tasks.models import Job
from tests.store.jobs import StoreTestCase, make_jobs


class PruneTests(StoreTestCase):
    def test_all_that_is_old_goes_in_batches(self) -> None:
        now = timezone.now()
        make_jobs(5001, status="SUCCESSFUL", finished_at=now - timedelta(seconds=1))
        [young] = make_jobs(status="SUCCESSFUL", finished_at=now)
        batches = list(
            prune(
                self.store,
                statuses=["SUCCESSFUL"],
                before=now,
                backend_name="default",
                queue_names=None,
            )
        )
        self.assertEqual(batches, [5000, 1])
        self.assertEqual(Job.objects.get(), young)


class PruningTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.pruning = Pruning()
        self.now = timezone.now()

    def make_due(self, count: int) -> None:
        make_jobs(
            count,
            status="SUCCESSFUL",
            delete_after=lambda n: self.now - timedelta(seconds=n),
        )

    def tick(self) -> Pruned:
        return self.pruning.tick(self.store, self.now)

    def test_what_is_due_goes_in_batches_that_grow_while_they_are_quick(self) -> None:
        self.make_due(500)
        with mock.patch.object(self.store, "prune_for", 3600):
            reports = [self.tick() for _ in range(5)]
        self.assertEqual([report.jobs for report in reports], [50, 100, 200, 150, 0])
        # While there is more it goes on soon.
        for report in reports[:3]:
            self.assertLess(report.pause, prune_module.EVERY / 2)
        for report in reports[3:]:
            self.assertGreaterEqual(report.pause, prune_module.EVERY / 2)

    def test_batches_that_take_long_become_smaller(self) -> None:
        self.make_due(400)
        with mock.patch.object(self.store, "prune_for", 3600):
            self.tick()
        with mock.patch.object(self.store, "prune_for", -1):
            self.assertEqual([self.tick().jobs for _ in range(3)], [100, 50, 50])

    def test_a_batch_begins_where_the_last_one_ended_and_the_next_look_anew(self) -> None:
        self.make_due(149)
        with mock.patch.object(self.store, "prune_for", 3600):
            self.tick()
            make_jobs(status="FAILED", delete_after=self.now - timedelta(days=1))
            self.assertEqual([self.tick().jobs for _ in range(3)], [99, 1, 0])

    def test_a_conflict_is_tried_again_soon_and_then_less_often(self) -> None:
        self.make_due(51)
        self.assertEqual(self.tick().jobs, 50)
        conflict = OperationalError("busy")
        with (
            mock.patch.object(self.store, "prune_due", side_effect=conflict),
            mock.patch.object(self.store, "is_busy", return_value=True),
        ):
            pauses = [self.tick().pause for _ in range(20)]
        self.assertLess(max(pauses), 2)
        self.assertLess(pauses[0], pauses[-1])
        self.assertEqual(self.tick().jobs, 1)

    def refer_to(self, *jobs: Job) -> type[models.Model]:
        """Add a table with a foreign key, which refers to these jobs; return its model."""
        with isolate_apps("tests.app"):

            class Report(models.Model):  # noqa: DJ008
                job = models.ForeignKey(Job, models.DO_NOTHING, related_name="+")

                class Meta:
                    app_label = "tests_app"

        with connection.schema_editor() as editor:
            editor.create_model(Report)

        def drop() -> None:
            with connection.schema_editor() as editor:
                editor.delete_model(Report)

        self.addCleanup(drop)
        for job in jobs:
            Report._default_manager.create(job=job)
        return Report

    def round(self) -> Pruned:
        """Prune until the next look; return the last report."""
        for _ in range(1000):
            report = self.tick()
            if report.pause >= prune_module.EVERY / 2:
                return report
        raise AssertionError("It never ends.")

    def test_what_other_rows_refer_to_stays_and_all_others_go(self) -> None:
        with mock.patch.object(prune_module, "FEWEST", 8):
            self.pruning = Pruning()
        self.make_due(100)
        # Some of them at one time, as those that one statement has cancelled.
        twins = make_jobs(9, status="CANCELLED", delete_after=self.now - timedelta(hours=1))
        oldest, young = Job.objects.earliest("delete_after"), Job.objects.latest("delete_after")
        middle = Job.objects.get(delete_after=self.now - timedelta(seconds=50))
        referred = {job.id for job in (*twins[:4], *twins[6:8], oldest, young, middle)}
        report = self.refer_to(*Job.objects.filter(id__in=referred))
        self.assertEqual(self.round().kept, len(referred))
        self.assertEqual(set(Job.objects.values_list("id", flat=True)), referred)
        # Once nothing refers to them, they go.
        report._default_manager.filter(job=middle).delete()
        self.assertEqual(self.round().kept, len(referred) - 1)
        report._default_manager.all().delete()
        self.assertEqual(self.round().kept, 0)
        self.assertFalse(Job.objects.exists())

    def test_nor_do_many_of_one_moment_keep_others(self) -> None:
        old = make_jobs(5, status="FAILED", delete_after=self.now - timedelta(hours=1))
        self.make_due(100)
        self.refer_to(*old)
        with mock.patch.object(prune_module, "MOST", 3):
            self.assertEqual(self.round().kept, 4)
        self.assertEqual(set(Job.objects.values_list("id", flat=True)), {job.id for job in old})

    def test_another_fault_is_an_error(self) -> None:
        with (
            mock.patch.object(self.store, "prune_due", side_effect=OperationalError("gone")),
            self.assertRaises(OperationalError),
        ):
            self.tick()
