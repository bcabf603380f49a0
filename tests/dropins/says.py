"""Says some lines on the engine's logger in projects with the apps and the LOGGING it is given.

Run as a program, with a list of both as JSON; prints a line "." after each project.
"""

import json
import logging
import os
import sys

import django
from django.conf import settings

import durable_tasks.backend  # noqa: F401  (makes the engine's logger, before LOGGING is read)

for apps, config in json.loads(sys.argv[1]):
    if os.fork() == 0:  # a project is set up once in a process
        settings.configure(INSTALLED_APPS=apps, LOGGING=config)
        logger = logging.getLogger("durable_tasks")
        django.setup()
        logger.error("an error")
        logger.info("some info")
        logger.debug("details")
        os._exit(0)
    _, status = os.wait()
    if status:
        sys.exit("It failed.")
    print(".", flush=True)
