"""The defaults but for what must be set."""

import json
import os

DATABASES = json.loads(os.environ["BENCH_DATABASES"])
INSTALLED_APPS = ["durable_tasks"]
TASKS = {
    "default": {
        "BACKEND": "durable_tasks.DatabaseBackend",
        "QUEUES": [],
        "OPTIONS": json.loads(os.environ.get("BENCH_OPTIONS", "{}")),
    }
}
SECRET_KEY = "only for benchmarks"

if "BENCH_LOG_LEVEL" in os.environ:
    LOGGING = {
        "version": 1,
        "disable_existing_loggers": False,
        "loggers": {"django.tasks": {"level": os.environ["BENCH_LOG_LEVEL"]}},
    }
