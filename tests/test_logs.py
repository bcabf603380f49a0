import json
import logging
from typing import Any

from .app import tasks
from .helpers import WorkerTestCase, work

# What every record has, ours or not.
USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in USUAL}


class JSONTests(WorkerTestCase):
    def test_what_records_carry_is_plain_JSON(self) -> None:
        tasks.add.enqueue(1, 2)
        tasks.fail.enqueue()
        with self.assertLogs("durable_tasks", logging.DEBUG) as logs:
            work()
        for record in logs.records:
            with self.subTest(record.getMessage()):
                found = extras(record)
                self.assertEqual(json.loads(json.dumps(found, allow_nan=False)), found)
        of_jobs = [record for record in logs.records if "job_id" in extras(record)]
        self.assertGreaterEqual(len(of_jobs), 4)  # each starts and ends
        names = {"job_id", "task_path", "queue_name", "worker_id", "attempt"}
        self.assertEqual({frozenset(extras(record)) for record in of_jobs}, {frozenset(names)})
