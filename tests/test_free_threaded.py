"""A Python without its interpreter lock: the lock stays off, and threads do not harm each other."""

import sys
import sysconfig
from collections import Counter
from unittest import skipUnless

from durable_tasks.models import Job

from .app import tasks
from .helpers import WorkerTestCase, run_worker


@skipUnless(sysconfig.get_config_var("Py_GIL_DISABLED"), "only without the interpreter lock")
class FreeThreadedTests(WorkerTestCase):
    def test_nothing_that_was_imported_turned_the_lock_on(self):
        self.assertFalse(sys._is_gil_enabled())
        result = tasks.lock_enabled.enqueue()
        run_worker("--threads", "4")
        result.refresh()
        self.assertIs(result.return_value, False)

    def test_four_threads_run_each_job_once_and_mix_nothing_up(self):
        backend = tasks.add.get_backend()
        count = 2000
        results = backend.enqueue_many((tasks.add, [number, 1], {}) for number in range(count))
        backend.enqueue_many((tasks.async_add, [number, 1], {}) for number in range(count))
        run_worker("--threads", "4")
        jobs = Job.objects.all()
        self.assertEqual(set(jobs.values_list("status", "attempts")), {("SUCCESSFUL", 1)})
        self.assertEqual(Counter(job.return_value - job.args[0] for job in jobs), {1: 2 * count})
        self.assertEqual(len({result.id for result in results}), count)
