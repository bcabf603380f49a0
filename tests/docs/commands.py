"""The commands that the documentation tells its readers to type."""

import re
from importlib.util import find_spec
from io import StringIO

from django.core.management import call_command, get_commands, load_command_class

from durable_tasks.worker.worker import Worker

from ..helpers import ROOT

# Commands of manage.py that are parsed and not run.
NOT_RUN = {
    "createsuperuser": "tests/docs/test_tutorial.py runs it",
    "startapp": "tests/docs/test_tutorial.py runs it",
    "remove_stale_contenttypes": "asks before it deletes",
    "runserver": "serves until it is stopped",
    "serve": "serves until it is stopped; tests/contrib runs it",
    "shell": "reads what is typed",
    "tasks_health": "ends with 1 where no worker is; tests/test_health.py runs it",
    "test": "needs a process of its own; tests/test_example.py runs it",
    "taskrunner": "serves until it is stopped; tests/test_runner.py runs it",
}

MAKEFILE = (ROOT / "Makefile").read_text()
MATRIX = (ROOT / "scripts" / "matrix").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()


def obey(words, *, run=False):
    """Check that such a command exists and takes these arguments.

    ``run``: also run it, if it is one of manage.py that comes to an end. A worker does what is due.
    """
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if re.fullmatch(r"(.*/)?python[\d.]*", words[0]):
        words = words[1:]
    program, *arguments = words
    if program.endswith("manage.py"):
        manage(arguments, run=run)
    elif program == "-m" and arguments[:2] == ["pip", "install"]:
        extras = re.findall(r"\[(\w+)\]", " ".join(arguments))
        assert all(f"\n{extra} = [" in PROJECT for extra in extras), extras
    elif program == "-m":
        assert find_spec(arguments[0]), arguments
    elif program == "make":
        for argument in arguments:
            variable = re.match(r"(\w+)=", argument)
            known = rf"\b{variable[1]}\b" if variable else rf"^{argument}:"
            assert re.search(known, MAKEFILE, re.MULTILINE), argument
    elif program == "scripts/matrix":
        legs = re.findall(r"[\d.]+t?-[\d.]+", MATRIX)
        assert all(leg in legs for leg in arguments), arguments
    else:
        raise AssertionError(f"Nobody knows the command {program!r}.")


def manage(arguments, *, run):
    """Parse, and if ``run`` is set also run, what follows ``manage.py``."""
    name, *arguments = arguments
    command = load_command_class(get_commands()[name], name)
    parser = command.create_parser("manage.py", name)
    options = parser.parse_args(arguments)
    for word in arguments:
        # The parser would take the beginning of a name as well.
        assert not word.startswith("--") or word.partition("=")[0] in parser._option_string_actions
    if not run or name in NOT_RUN or "--deploy" in arguments:
        return  # the project of the tests is not to be deployed
    if name == "db_worker":
        # In this process, whose signals are not the worker's, and until nothing is left.
        once = {"batch": True, "startup_delay": False}
        Worker(command.worker_settings(vars(options) | once)).run()
    else:
        call_command(name, *arguments, stdout=StringIO(), stderr=StringIO())
