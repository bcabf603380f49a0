"""The Python code of a page, run block by block."""

import ast
import logging.config
import os
import re
import subprocess
import sys
import unittest
import warnings
from contextlib import contextmanager, suppress
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from inspect import CO_COROUTINE
from types import ModuleType

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.management import call_command
from django.db.utils import ConnectionHandler
from django.test import override_settings

from durable_tasks.compat import TaskResultStatus, task_backends

from ..helpers import ROOT

BACKPORT = find_spec("django.tasks") is None

SETTING = re.compile("[A-Z][A-Z_]+")
# The first line of a block that is a file of its own.
FILE = re.compile(r"# ([\w/]+)\.py")
# What an expression is said to be, such as `result.attempts  # 1`.
COMMENT = re.compile(r"\s*# (?P<says>(raises (?P<error>\w+)(: (?P<text>.*))?)?.*)")


class Code:
    """The modules that a page's code makes; ``names``: what is known to its next block."""

    def __init__(self, name, folder):
        self.modules = []
        self.names = self._module(name).__dict__
        self.names["BASE_DIR"] = folder

    def run(self, block, until_heading):
        """Run a block. Settings go back when ``until_heading``, an ``ExitStack``, is closed."""
        text = block.text
        if BACKPORT:
            text = text.replace("django.tasks", "django_tasks")
        tree = ast.parse(text, str(block.path))
        if changed := settings_of(tree):
            self.names |= {name: deepcopy(getattr(settings, name)) for name in changed}
            self._run(tree, text, block, self.names)
            for name in changed:
                value = self.names.pop(name)
                until_heading.enter_context(APPLY.get(name, override)(name, value))
        elif file := FILE.match(text):
            module = self._module(file[1].replace("/", "."))
            self._run(tree, text, block, module.__dict__)
            self.names |= {
                name: value for name, value in vars(module).items() if not name.startswith("__")
            }
        elif any(getattr(each, "name", "").startswith("test_") for each in tree.body):
            run_pytest(text, self.names["BASE_DIR"])
        else:
            self._run(tree, text, block, self.names)
            made = [each.name for each in tree.body if isinstance(each, ast.ClassDef)]
            run_tests(self.names[name] for name in made)

    def forget(self):
        """Let nothing import the page's modules any more."""
        for name in self.modules:
            sys.modules.pop(name, None)

    def _module(self, name):
        """Return a module to add code to: the shop's, or a new one."""
        self.modules.append(name)
        with suppress(ModuleNotFoundError):
            return import_module(name)
        parent, _, child = name.rpartition(".")
        module = sys.modules[name] = ModuleType(name)
        if parent:
            package = self._module(parent)
            package.__path__ = getattr(package, "__path__", [])
            setattr(package, child, module)
        return module

    def _run(self, tree, text, block, names):
        lines = text.splitlines()
        for statement in tree.body:
            rest = lines[statement.end_lineno - 1][statement.end_col_offset :]
            ast.increment_lineno(statement, block.line - 1)
            if isinstance(statement, ast.Expr):
                code = compile_(ast.Expression(statement.value), block.path, "eval")
                check(code, names, COMMENT.fullmatch(rest))
            else:
                code = compile_(ast.Module([statement], []), block.path, "exec")
                if isinstance(statement, ast.Raise):
                    raises(Exception, code, names)
                else:
                    evaluate(code, names)


def settings_of(tree):
    """Return the names of the settings that the code sets, wholly or in part."""
    found = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
            while isinstance(target, ast.Subscript):
                target = target.value
            if isinstance(target, ast.Name) and SETTING.fullmatch(target.id):
                found.add(target.id)
    return sorted(name for name in found if hasattr(settings, name))


# Statements -----------------------------------------------------------------------------------


def compile_(tree, path, mode):
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(tree, str(path), mode, flags=flags, dont_inherit=True)


def evaluate(code, names):
    if not code.co_flags & CO_COROUTINE:
        return eval(code, names)

    async def run():
        return await eval(code, names)

    return async_to_sync(run)()


def check(code, names, comment):
    """Evaluate an expression. If its comment says what it gives or raises, that has to be so."""
    if comment and comment["error"]:
        error = raises(Exception, code, names)
        said = (type(error).__name__, str(error) if comment["text"] else None)
        assert said == (comment["error"], comment["text"]), error
        return
    value = evaluate(code, names)
    try:
        with warnings.catch_warnings(action="ignore"):
            said = compile(comment["says"], "a comment", "eval") if comment else None
    except SyntaxError:
        said = None  # no value, but words
    if said:
        expected = eval(said, names | {"TaskResultStatus": TaskResultStatus})
        assert value == expected, f"It is {value!r}, not {expected!r}."


def raises(kind, code, names):
    """Run what has to raise such an exception, and return it."""
    try:
        evaluate(code, names)
    except kind as error:
        return error
    raise AssertionError("It raised nothing.")


def run_tests(classes):
    """Run those of the classes that are test cases, on an empty database."""
    suite = unittest.TestSuite()
    for each in classes:
        if issubclass(each, unittest.TestCase):
            # Else what is flushed after a test leaves out tables that refer to others.
            each.available_apps = settings.INSTALLED_APPS
            suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(each))
    if suite.countTestCases():
        call_command("flush", verbosity=0, interactive=False, allow_cascade=True)
    result = suite.run(unittest.TestResult())
    for _, text in result.errors + result.failures:
        raise AssertionError(text)


def run_pytest(text, folder):
    """Run tests that are functions as a project does, in a process of its own."""
    path = folder / "test_page.py"
    path.write_text(text)
    plugins = ("-p", "pytest_django.plugin", "-p", "durable_tasks.pytest_plugin")
    path_of_modules = os.pathsep.join(filter(None, sys.path))  # the example's among them
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", *plugins, path],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.docs.settings",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": path_of_modules,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# Settings -------------------------------------------------------------------------------------


@contextmanager
def override(name, value):
    with override_settings(**{name: value}):
        yield


@contextmanager
def installed_apps(name, value):
    """What a page leaves out of the list is there already."""
    more = [app for app in value if app not in settings.INSTALLED_APPS]
    with override("INSTALLED_APPS", [*settings.INSTALLED_APPS, *more]):
        yield


@contextmanager
def tasks(name, value):
    with override("TASKS", value):
        for alias in value:
            errors = [each for each in task_backends[alias].check() if each.is_serious()]
            assert not errors, errors
        yield


@contextmanager
def databases(name, value):
    """Connect to them as the page says, but to the server of the tests."""
    here = settings.DATABASES["default"]
    handler = ConnectionHandler(deepcopy(value))
    for alias in handler:
        entry = handler.settings[alias]
        if not entry["ENGINE"].endswith("sqlite3"):
            assert entry["ENGINE"] == here["ENGINE"], entry["ENGINE"]
            entry |= {key: here[key] for key in ("HOST", "PORT", "NAME")}
        handler[alias].ensure_connection()
        handler[alias].close()
    with warnings.catch_warnings():
        # Nothing is sent to them: only their names are looked at.
        warnings.filterwarnings("ignore", "Overriding setting DATABASES")
        override = override_settings(DATABASES=value)
        override.enable()
    try:
        yield
    finally:
        override.disable()


@contextmanager
def logging_(name, value):
    loggers = [logging.getLogger(each) for each in value.get("loggers", ())]
    before = [(each, each.level, each.propagate, each.handlers[:]) for each in loggers]
    logging.config.dictConfig(value)
    try:
        yield
    finally:
        for logger, level, propagate, handlers in before:
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers


APPLY = {
    "DATABASES": databases,
    "INSTALLED_APPS": installed_apps,
    "LOGGING": logging_,
    "TASKS": tasks,
}
