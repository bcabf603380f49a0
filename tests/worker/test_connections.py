"""The connections that tasks use are the project's own, and live as its settings say."""

import json
from contextlib import contextmanager
from importlib.util import find_spec
from unittest import skipUnless

from django.db import connection
from django.test import skipUnlessDBFeature

from ..app import tasks
from ..helpers import WorkerTestCase, ended, held, let_go, running_worker

POSTGRES = connection.vendor == "postgresql"


@skipUnlessDBFeature("has_select_for_update")  # SQLite has no server
class ConnectionTests(WorkerTestCase):
    @contextmanager
    def worker(self, *arguments, **database):
        """Give a worker whose project has these settings of its database."""
        with running_worker(
            *arguments, env={"DURABLE_TASKS_TEST_DATABASE": json.dumps(database)}
        ) as worker:
            yield worker

    def run_task(self, task, *args):
        job = ended(task.enqueue(*args))
        self.assertEqual(job.status, "SUCCESSFUL", job.errors)
        return job.return_value

    def cut(self, id):
        """End a connection from the server's side."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)" if POSTGRES else "KILL %s", [id])

    def test_by_default_each_job_has_a_connection_of_its_own(self):
        with self.worker(CONN_MAX_AGE=0):
            first = self.run_task(tasks.connection_id)
            self.assertNotEqual(self.run_task(tasks.connection_id), first)

    def test_a_connection_that_may_stay_is_used_again(self):
        for age in (None, 600):
            with self.subTest(age=age), self.worker(CONN_MAX_AGE=age):
                first = self.run_task(tasks.connection_id)
                self.assertEqual(self.run_task(tasks.connection_id), first)

    def test_a_broken_connection_is_found_by_a_health_check(self):
        with self.worker(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True):
            first = self.run_task(tasks.connection_id)
            self.cut(first)
            self.assertNotEqual(self.run_task(tasks.connection_id), first)

    def test_without_health_checks_it_fails_one_job_and_no_other(self):
        with self.worker(CONN_MAX_AGE=None):
            self.cut(self.run_task(tasks.connection_id))
            self.assertEqual(ended(tasks.connection_id.enqueue()).status, "FAILED")
            self.run_task(tasks.connection_id)

    def test_coroutines_share_one_connection(self):
        with self.worker(CONN_MAX_AGE=None):
            results = [tasks.async_connection_id.enqueue(5) for _ in range(5)]
            self.assertEqual(len({ended(result).return_value for result in results}), 1)

    def test_the_settings_of_the_engines_connections_do_not_leak(self):
        if not POSTGRES:
            self.skipTest("PostgreSQL's")
        with self.worker(CONN_MAX_AGE=None):
            self.assertEqual(self.run_task(tasks.planner_settings), ["on", "on"])

    @skipUnless(find_spec("psycopg_pool"), "psycopg-pool")
    def test_djangos_pool_gives_tasks_their_connections_and_the_engine_none(self):
        if not POSTGRES:
            self.skipTest("PostgreSQL's")
        with self.worker(
            "--threads", "2", CONN_MAX_AGE=0, OPTIONS={"pool": {"min_size": 1, "max_size": 2}}
        ):
            for _ in range(5):
                self.assertEqual(self.run_task(tasks.planner_settings), ["on", "on"])
            # Both of the pool's are taken: the engine goes on, with its own.
            results = [tasks.hold.enqueue("a"), tasks.hold.enqueue("b")]
            held("a")
            held("b")
            let_go()
            self.assertEqual({ended(result).status for result in results}, {"SUCCESSFUL"})

    def test_a_process_has_as_many_connections_as_documented(self):
        if not POSTGRES:
            self.skipTest("counted by PostgreSQL")
        with self.worker(
            "--threads", "3", CONN_MAX_AGE=None, OPTIONS={"application_name": "counted"}
        ):
            sync = [tasks.hold.enqueue(key) for key in "abc"]
            coroutines = [tasks.async_hold.enqueue("d"), tasks.async_effect.enqueue("e")]
            for key in "abcd":
                held(key)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
                )
                # The loop, the heartbeat, the threads, and one for all coroutines.
                self.assertEqual(cursor.fetchone(), (2 + 3 + 1,))
            let_go()
            for result in (*sync, *coroutines):
                self.assertEqual(ended(result).status, "SUCCESSFUL")
