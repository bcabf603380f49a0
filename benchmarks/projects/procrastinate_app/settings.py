"""The defaults but for what must be set."""

import json
import os

DATABASES = json.loads(os.environ["BENCH_DATABASES"])
INSTALLED_APPS = ["procrastinate.contrib.django"]
PROCRASTINATE_IMPORT_PATHS = ["tasks"]
SECRET_KEY = "only for benchmarks"
