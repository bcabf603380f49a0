"""The same project on its way to names of its own: both apps, and a schedule for ``cleanup``."""

import copy

from dbtasks import Periodic
from myproject import settings
from myproject.settings import *  # noqa: F403

INSTALLED_APPS = ["dbtasks", "durable_tasks", "durable_tasks.contrib.serve", *INSTALLED_APPS[1:]]  # noqa: F405

TASKS = copy.deepcopy(settings.TASKS)
TASKS["default"]["OPTIONS"]["periodic"]["dbtasks.runner.cleanup"] = Periodic(
    "~ * * * *", args=[7 * 24 * 3600]
)
