"""Periodic tasks while workers are killed: each time is enqueued once, and none is left out."""

import random
import sys
import time
from contextlib import ExitStack
from datetime import timedelta

from django.utils import timezone
from django.utils.timezone import is_naive, make_aware

from durable_tasks.models import Job, PeriodicTask
from durable_tasks.schedules import parse_schedule
from tests.faults.load import LONG
from tests.helpers import WorkerTestCase, eventually, running_worker

SECONDS, KILL_EVERY = (180, 10) if LONG else (12, 3)
WORKERS = 5
PERIODS = (1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10)
CRONTABS = ("* * * * *", "*/2 * * * *", "~ * * * *", "*/3 * * * *", "1-59/2 * * * *")


def schedules():
    """Return twenty: all catch up with each time but every third, which may leave some out."""
    specs = [*PERIODS, *CRONTABS]
    return {
        f"{'latest' if number % 3 == 2 else 'all'}-{number}": {
            "spec": spec,
            "task": "tests.app.tasks.no_value",
            "catch_up": "latest" if number % 3 == 2 else "all",
        }
        for number, spec in enumerate(specs)
    }


class KilledWorkersTests(WorkerTestCase):
    def test_each_time_is_enqueued_once_while_workers_are_killed(self):
        periodic = schedules()
        options = {"periodic": periodic, "worker_timeout": 5}
        with ExitStack() as stack:
            workers = [stack.enter_context(running_worker(options=options)) for _ in range(WORKERS)]
            began = timezone.now() + timedelta(seconds=1)
            kills, killed_at = 0, time.monotonic()
            while timezone.now() < began + timedelta(seconds=SECONDS):
                if time.monotonic() - killed_at > KILL_EVERY:
                    killed_at = time.monotonic()
                    workers.pop(random.randrange(WORKERS)).kill()
                    kills += 1
                    workers.append(stack.enter_context(running_worker(options=options)))
                time.sleep(0.05)  # the length of the run is what is asked for
            over = timezone.now()
            eventually(
                lambda: not PeriodicTask.objects.filter(next_run_at__lte=over).exists(),
                "what is due is fired",
            )
            eventually(
                lambda: not Job.objects.filter(run_after__lte=over).exclude(status="SUCCESSFUL"),
                "what was fired has run",
            )
        left_out = {
            name: self.check(name, each["spec"], began, over) for name, each in periodic.items()
        }
        self.assertEqual(sum(left_out[name] for name in left_out if name.startswith("all")), 0)
        if LONG:
            sys.stderr.write(
                f"\n{Job.objects.count()} jobs of {len(periodic)} schedules, {kills} kills; left "
                f"out by 'latest': {sum(left_out.values())}\n"
            )

    def check(self, name, spec, began, over):
        """Return how many times of a schedule have no job; none has two."""
        when = parse_schedule(spec, seed=f"default:{name}")
        times = [_aware(job.run_after) for job in Job.objects.filter(schedule=name)]
        self.assertEqual(len(set(times)), len(times), name)
        expected = set(when.dates(_aware(began), _aware(over)))
        if isinstance(spec, int):
            self.assertGreater(len(expected), 0)
        return len(expected - set(times))


def _aware(at):
    return make_aware(at) if is_naive(at) else at
