"""How soon an idle worker starts what was enqueued, whatever its interval."""

import threading
from datetime import timedelta
from unittest import mock

from django.db import connection
from django.utils import timezone

from durable_tasks import Runner
from durable_tasks.store import store_for

from ..app import tasks
from ..helpers import WorkerTestCase, ended, eventually, running_worker

# Seconds: longer than any test waits.
NEVER = "--interval=3600"


class IdleWorkerTests(WorkerTestCase):
    def test_an_idle_worker_hears_what_is_enqueued(self):
        if connection.vendor == "mysql":
            self.skipTest("MySQL and MariaDB have no notifications")
        with running_worker(NEVER, "-v2") as worker:
            if connection.vendor == "postgresql":
                worker.says("Notifications arrive.")
            for number in range(3):
                self.assertEqual(ended(tasks.add.enqueue(number, 1)).return_value, number + 1)

    def test_work_that_follows_work_is_found_without_notifications(self):
        with running_worker(NEVER, options={"notify": False}):
            # There when the worker starts, or within its first seconds.
            for number in range(5):
                self.assertEqual(ended(tasks.add.enqueue(number, 1)).return_value, number + 1)

    def test_a_job_that_is_due_later_starts_when_it_is_due(self):
        result = tasks.add.using(run_after=timezone.now() + timedelta(seconds=1)).enqueue(1, 2)
        with running_worker(NEVER, "-v2"):
            job = ended(result)
        self.assertGreaterEqual(job.started_at, job.run_at)

    def test_notifications_that_never_arrive_are_noticed_and_missed_by_nobody(self):
        if connection.vendor != "postgresql":
            self.skipTest("PostgreSQL only")
        runner = Runner(interval=0.05)
        thread = threading.Thread(target=runner.run)
        # As if a pool in between swallowed them.
        with (
            mock.patch.object(type(store_for(connection)), "notify"),
            self.assertLogs("durable_tasks", "INFO") as logs,
        ):
            thread.start()
            try:
                eventually(lambda: "Notifications do not arrive" in "".join(logs.output))
                self.assertEqual(ended(tasks.add.enqueue(1, 2)).return_value, 3)
            finally:
                runner.stop()
                thread.join()

    def test_listening_goes_on_after_the_connection_was_cut(self):
        if connection.vendor != "postgresql":
            self.skipTest("PostgreSQL only")
        with running_worker(NEVER, "-v2") as worker:
            worker.says("Notifications arrive.")
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            eventually(lambda: worker.output().count("Notifications arrive.") == 2, worker.output)
            self.assertEqual(ended(tasks.add.enqueue(1, 2)).return_value, 3)
