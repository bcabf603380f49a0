"""The defaults but for what must be set."""

import json
import os

DATABASES = json.loads(os.environ["BENCH_DATABASES"])
INSTALLED_APPS = ["dbtasks"]
TASKS = {"default": {"BACKEND": "dbtasks.backend.DatabaseBackend"}}
SECRET_KEY = "only for benchmarks"
