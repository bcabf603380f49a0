"""The defaults but for what must be set."""

import json
import os

DATABASES = json.loads(os.environ["BENCH_DATABASES"])
SECRET_KEY = "only for benchmarks"  # it knows nothing of Django
