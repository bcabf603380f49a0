"""The same project on its way to names of its own: both apps, and a schedule for ``cleanup``."""

import copy

from dbtasks import Periodic
from myproject.settings import *  # noqa: F403
from myproject.settings import INSTALLED_APPS, TASKS

INSTALLED_APPS = [*INSTALLED_APPS, "durable_tasks", "durable_tasks.contrib.serve"]

TASKS = copy.deepcopy(TASKS)
TASKS["default"]["OPTIONS"]["periodic"]["dbtasks.runner.cleanup"] = Periodic(
    "~ * * * *", args=[7 * 24 * 3600]
)
