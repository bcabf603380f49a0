"""A worker on a host whose clock is wrong: the database's clock rules."""

import os
import time
from datetime import timedelta
from pathlib import Path
from unittest import SkipTest, skipIf, skipUnless

from django.db import connection
from django.utils import timezone

from durable_tasks.models import Worker

from ..app import tasks
from ..helpers import WorkerTestCase, effects, ended, eventually, held, let_go, running_worker
from .load import LONG

SOON = {"worker_timeout": 2}


def wrong_clock(offset):
    """Return the environment in which a process's clock is wrong by so much."""
    found = sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))
    if not found:
        if os.environ.get("CI"):
            raise AssertionError("libfaketime is not installed. Debian: apt-get install faketime.")
        raise SkipTest("libfaketime is not installed.")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


@skipUnless(LONG, "long")
@skipIf(connection.vendor == "sqlite", "SQLite has no clock of its own")
class ClockTests(WorkerTestCase):
    def test_due_times_and_rescue_are_right_on_a_host_an_hour_off(self):
        for offset in ("+1h", "-1h"):
            with self.subTest(offset):
                env = wrong_clock(offset)
                tasks.Effect.objects.all().delete()
                self.see(env)

    def see(self, env):
        result = tasks.hold.enqueue("x")
        with (
            running_worker("--worker-id=right", options=SOON) as right,
            running_worker("--queue-name=other", "-v2", env=env, options=SOON) as wrong,
        ):
            held("x")
            began = time.time()
            due = timezone.now() + timedelta(seconds=2)
            job = ended(tasks.effect_elsewhere.using(run_after=due).enqueue("y"))
            self.assertEqual(job.worker_id, wrong.row().id)
            self.assertLess(abs((job.started_at - due).total_seconds()), 1.5)
            self.assertLess(abs((job.finished_at - due).total_seconds()), 1.5)
            # Long enough for either to think the other one lost.
            first = right.row().last_seen, wrong.row().last_seen
            eventually(
                lambda: (
                    min(right.row().last_seen - first[0], wrong.row().last_seen - first[1]) > 2.5e6
                )
            )
            self.assertEqual((result.job.lost, result.job.worker_id), (0, "right"))
            for row in Worker.objects.all():
                self.assertLess(abs(row.last_seen / 1e6 - time.time()), 3)
            # A foreign host, so that only the heartbeat tells: it is seen as lost, and not at once.
            Worker.objects.filter(id="right").update(host="elsewhere")
            right.kill()
            killed = time.monotonic()
            eventually(lambda: result.job.lost == 1)
            self.assertGreater(time.monotonic() - killed, 1)
            self.assertLess(time.monotonic() - killed, 2 + 2)
            self.assertLess(began, time.time())
            let_go()
            with running_worker("--worker-id=third", options=SOON):
                self.assertEqual(ended(result).worker_id, "third")
        self.assertEqual(effects("y"), ["y"])
