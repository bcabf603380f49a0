"""Jobs that harm the process they run in, and those that run beside them."""

from collections import Counter

from durable_tasks.compat import task_backends
from durable_tasks.models import Job
from durable_tasks.statuses import ENDED

from ..app import tasks
from ..helpers import (
    QUICK,
    WorkerTestCase,
    effects,
    run_command,
    run_worker,
)
from .load import WORKER_LOST

OPTIONS = {"worker_timeout": 3600}


class PoisonTests(WorkerTestCase):
    def others_ran(self, results):
        """Check that all of these are SUCCESSFUL."""
        jobs = Job.objects.filter(id__in=[result.id for result in results])
        found = jobs.exclude(status="SUCCESSFUL").values_list("args", "status", "lost", "errors")
        self.assertEqual((jobs.count(), list(found)), (len(results), []))

    def until_done(self, kills):
        """Start a worker again whenever its process died, ``kills`` times."""
        for _ in range(kills):
            done = run_command("db_worker", *QUICK, "--batch", "--threads=4", options=OPTIONS)
            self.assertNotIn(done.returncode, (0, 1, 2), done.stderr)
        run_worker("--threads=4", options=OPTIONS)
        self.assertFalse(Job.objects.exclude(status__in=ENDED).exists())

    def test_a_job_that_ends_its_process_fails_after_three_and_its_neighbours_succeed(self):
        for poison in (tasks.exit_process, tasks.crash_process, tasks.take_all_memory):
            with self.subTest(poison.name):
                Job.objects.all().delete()
                before = [tasks.mark.enqueue(f"{poison.name} {n}") for n in range(20)]
                bad = poison.enqueue()
                after = [tasks.async_mark.enqueue(f"{poison.name} {n}") for n in range(20, 40)]
                self.until_done(kills=3)
                job = bad.job
                self.assertEqual(
                    (job.status, job.lost, job.exception_class_path), ("FAILED", 3, WORKER_LOST)
                )
                self.assertIn("the job may be what ends its workers", job.errors[-1]["traceback"])
                self.others_ran(before + after)
                found = Counter(effects(f"{poison.name} "))
                self.assertEqual(len(found), 40)
                for result in before + after:
                    self.assertLessEqual(found[result.args[0]], result.job.attempts)

    def test_in_a_batch_of_500_one_refused_value_and_one_that_kills_harm_no_other(self):
        entries = [(tasks.mark, [f"mark {n}"], {}) for n in range(498)]
        entries.insert(100, (tasks.not_a_number, [], {}))
        entries.insert(300, (tasks.exit_process, [], {}))
        results = task_backends["default"].enqueue_many(entries)
        self.until_done(kills=3)
        bad = [results[100].job, results[300].job]
        self.assertEqual([job.status for job in bad], ["FAILED"] * 2)
        self.assertIn("which JSON can't carry", bad[0].errors[-1]["traceback"])
        self.assertEqual(bad[1].exception_class_path, WORKER_LOST)
        good = results[:100] + results[101:300] + results[301:]
        self.others_ran(good)
        found = Counter(effects("mark"))
        self.assertEqual(len(found), 498)
        # Those that ran when the process was killed ran again, and no others.
        lost = dict(Job.objects.values_list("args__0", "lost"))
        self.assertEqual([key for key in found if found[key] > 1 + lost[key]], [])
        self.assertEqual(bad[1].lost, 3)

    def test_endings_of_any_size_and_shape_are_kept_or_told(self):
        options = {"max_result_size": 100_000_000}
        bad = [
            tasks.huge.enqueue(50_000_000),
            tasks.fail_without_text.enqueue(),
            tasks.fail_with_long_traceback.enqueue(),
        ]
        good = [tasks.add.enqueue(n, 1) for n in range(50)]
        run_worker(options=options)
        large, unprintable, long = (result.job for result in bad)
        if large.status == "SUCCESSFUL":
            self.assertEqual(len(large.return_value), 50_000_000)
        else:
            self.assertEqual(
                large.exception_class_path, "durable_tasks.exceptions.RefusedByDatabase"
            )
        self.assertEqual(unprintable.status, "FAILED")
        self.assertTrue(unprintable.exception_class_path.endswith("Unprintable"))
        self.assertEqual(long.status, "FAILED")
        text = long.errors[0]["traceback"]
        self.assertLess(len(text), 100_000)
        self.assertIn("characters left out", text)
        self.others_ran(good)
        self.assertEqual(Job.objects.running().count(), 0)
