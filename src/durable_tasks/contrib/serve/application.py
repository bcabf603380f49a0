"""The site's application, as the settings name it."""

from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.utils.module_loading import import_string


def path_of(*, asgi: bool) -> str:
    """Return the dotted path of the application, or "" for the one that Django makes itself.

    Raises ``ImproperlyConfigured`` if the settings name no ASGI application and that of WSGI is in
    no module ``wsgi``, beside which it could be.
    """
    wsgi_path: str = settings.WSGI_APPLICATION or ""
    if not asgi:
        return wsgi_path
    path: str | None = getattr(settings, "ASGI_APPLICATION", None)
    if path or not wsgi_path:
        return path or ""
    module, _, name = wsgi_path.rpartition(".")
    package, _, last = module.rpartition(".")
    if last != "wsgi":
        raise ImproperlyConfigured(
            f"Set ASGI_APPLICATION: it can't be told from WSGI_APPLICATION = {wsgi_path!r}."
        )
    return ".".join(filter(None, [package, "asgi", name]))


def load(path: str, *, asgi: bool) -> Any:
    """Return the application. Raises ``ImproperlyConfigured`` if it can't be imported."""
    if not path:
        return get_asgi_application() if asgi else get_wsgi_application()
    try:
        return import_string(path)
    except ImportError as error:
        setting = "ASGI_APPLICATION" if asgi else "WSGI_APPLICATION"
        raise ImproperlyConfigured(f"{setting}: {path!r} can't be loaded: {error}") from error


def load_site(path: str, *, asgi: bool) -> Any:
    """Return the application; with DEBUG, it serves static files as well, as runserver does."""
    application = load(path, asgi=asgi)
    if not (settings.DEBUG and apps.is_installed("django.contrib.staticfiles")):
        return application
    from django.contrib.staticfiles import handlers  # not before Django is set up

    handler = handlers.ASGIStaticFilesHandler if asgi else handlers.StaticFilesHandler
    return handler(application)
