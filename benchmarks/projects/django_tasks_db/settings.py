"""The defaults but for what must be set."""

import json
import os

DATABASES = json.loads(os.environ["BENCH_DATABASES"])
INSTALLED_APPS = ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": []}}
SECRET_KEY = "only for benchmarks"
