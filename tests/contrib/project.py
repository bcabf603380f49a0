"""A site for the tests, written into a folder: its code can change while it runs."""

import os
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..helpers import PATIENCE, ROOT, WorkerProcess, environment, eventually, running

FILES = {
    "settings": """
from pathlib import Path

from tests.settings import *

BASE_DIR = Path(__file__).parent.parent
DEBUG = True
INSTALLED_APPS = [*INSTALLED_APPS, "durable_tasks.contrib.serve", "project"]
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
""",
    "wsgi": """
from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
""",
    "asgi": """
from django.core.asgi import get_asgi_application

application = get_asgi_application()
""",
    "urls": """
from django.contrib import admin
from django.http import HttpResponse
from django.urls import path

from tests.app.tasks import minute

from .tasks import WORD, say


def enqueue(request):
    return HttpResponse(say.enqueue().id)


def hang(request):
    minute.call("request")
    return HttpResponse()


def word(request):
    return HttpResponse(WORD)


urlpatterns = [
    path("admin/", admin.site.urls),
    path("enqueue/", enqueue),
    path("hang/", hang),
    path("word/", word),
]
""",
    "tasks": """
from durable_tasks import task

WORD = "one"


@task
def say():
    return WORD
""",
}


def may_expect(found: object) -> bool:
    """Return whether a package is there, or has to be: in CI, but for its other versions."""
    in_ci = bool(os.environ.get("CI")) and not os.environ.get("DURABLE_TASKS_LEG")
    return bool(found) or in_ci


class Site:
    """A site's folder, and where it is served."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        (folder / "project").mkdir()
        (folder / "project" / "__init__.py").touch()
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.folder / "project" / f"{name}.py").write_text(text)

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the text of an answer, once there is one."""
        found = eventually(lambda: self.ask(path), f"the site answers /{path}")
        assert found is not None
        return found

    def ask(self, path: str) -> tuple[int, str] | None:
        """Return the status and the text of the answer, if there is one."""
        try:
            url = f"http://127.0.0.1:{self.port}/{path}"
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return None

    def is_closed(self) -> bool:
        """Return whether nobody listens where it is served."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    @contextmanager
    def running(self, *command: str, **env: str) -> Iterator[WorkerProcess]:
        """Give a process with this site's settings that is gone after the block."""
        variables: dict[str, Any] = environment(
            {
                "DJANGO_SETTINGS_MODULE": "project.settings",
                "PYTHONPATH": f"{self.folder}:{ROOT}:{ROOT / 'src'}",
                # A change within a second of the one before would be taken for the same file.
                "PYTHONDONTWRITEBYTECODE": "1",
                **env,
            }
        )
        with running([sys.executable, *command], variables, self.folder) as process:
            yield process


@contextmanager
def site(port: int) -> Iterator[Site]:
    """Give a site that is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="durable-tasks-site-") as folder:
        yield Site(Path(folder), port)
