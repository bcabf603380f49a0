"""The project that the documentation is about: the tests', with the example's shop in it."""

from importlib.util import find_spec

from tests.settings import *  # noqa: F403

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "durable_tasks",
    "shop",
    *(["django_tasks"] if find_spec("django.tasks") is None else []),
]
# Pages are run on the database of the tests; what has a process of its own, on this one.
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
ROOT_URLCONF = __name__
urlpatterns: list[object] = []
