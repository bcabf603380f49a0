"""The defaults but for what must be set."""

import json
import os

DATABASES = json.loads(os.environ["BENCH_DATABASES"])
INSTALLED_APPS = ["dj_queue"]
DATABASE_ROUTERS = ["dj_queue.routers.DjQueueRouter"]
TASKS = {"default": {"BACKEND": "dj_queue.backend.DjQueueBackend", "QUEUES": []}}
SECRET_KEY = "only for benchmarks"
