"""Every block of code in the documentation is run, or at least read as what it is."""

import ast
import json
import sys
import tempfile
import tomllib
from configparser import ConfigParser
from contextlib import ExitStack
from pathlib import Path
from shlex import split

from django.core.management import call_command
from django.db import connection
from django.test import TransactionTestCase, override_settings

from ..helpers import ROOT
from . import settings
from .code import Code
from .commands import obey
from .pages import PAGES, blocks

# Languages that nothing at hand can read. The commands in them are parsed all the same.
NOT_READ = {
    "dockerfile": "Python's library has no parser for it",
    "yaml": "Python's library has no parser for it",
    "mermaid": "tests/faults/test_docs.py compares it with the code",
    "text": "what is printed, not what is typed",
}


def run(block, code, until_heading):
    """Run one block, or read it."""
    match block.language:
        case "python before":  # of other packages, which are not here
            ast.parse(block.text)
        case "console before":
            for line in block.text.splitlines():
                assert line.startswith("$ "), line
                split(line[2:], comments=True)
        case "sql":
            with connection.cursor() as cursor:
                for statement in block.text.split(";"):
                    if statement.strip():
                        cursor.execute(statement)
        case "python":
            if block.database in (None, connection.vendor):
                code.run(block, until_heading)
        case "console":
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    obey(split(line[2:], comments=True), run=True)
        case "ini":
            # As systemd reads it: a key may come twice.
            parser = ConfigParser(strict=False, interpolation=None, delimiters="=")
            parser.read_string(block.text)
            if line := parser.get("Service", "ExecStart", fallback=""):
                obey(split(line))
        case "procfile":
            for line in block.text.splitlines():
                if "manage.py" in line:
                    obey(split(line.partition(": ")[2]))
        case "json":
            json.loads(block.text)
        case "toml":
            tomllib.loads(block.text)
        case _:
            assert block.language in NOT_READ, f"Nobody knows how to read {block.language!r}."
            for line in block.text.splitlines():
                if "manage.py" in line:
                    obey(json.loads(line[line.index("[") :]))


class PageTests(TransactionTestCase):
    """One test for each page, with all its blocks in their order."""

    available_apps = settings.INSTALLED_APPS
    databases = {"default", "other"}

    @classmethod
    def setUpClass(cls):
        sys.path.append(str(ROOT / "example"))
        cls.addClassCleanup(sys.path.remove, str(ROOT / "example"))
        names = ("INSTALLED_APPS", "MAILERS", "ROOT_URLCONF")
        project = override_settings(**{name: getattr(settings, name) for name in names})
        project.enable()
        cls.addClassCleanup(project.disable)
        super().setUpClass()
        call_command("migrate", "shop", verbosity=0)
        cls.addClassCleanup(call_command, "migrate", "shop", "zero", verbosity=0)

    def run_page(self, path):
        found = list(blocks(path))
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        code = Code(f"page_{path.stem.replace('-', '_').lower()}", folder)
        self.addCleanup(code.forget)
        with ExitStack() as until_heading:
            section = 0
            for block in found:
                if block.section != section:
                    until_heading.close()
                    section = block.section
                try:
                    run(block, code, until_heading)
                except BaseException as error:
                    error.add_note(f"In the block at {block}")
                    raise


for page in PAGES:
    if page.name == "tutorial.md":
        continue  # done as a whole, by test_tutorial.py
    name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_").lower()
    setattr(PageTests, f"test_{name}", lambda self, page=page: self.run_page(page))
