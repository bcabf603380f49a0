"""What the admin's pages share."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db import InterfaceError, OperationalError, router
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import clock
from ..models import Job
from ..redaction import SECRETS
from ..state import durable_backends
from .figures import NONE, rough

# A database that can't be reached, or is overloaded; what it refuses is another matter.
AWAY = (OperationalError, InterfaceError)

logger = logging.getLogger("durable_tasks")


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What the engine writes is not for editing."""

    empty_value_display = NONE
    show_full_result_count = False  # counting a million rows helps nobody

    class Media:
        css = {"all": ["durable_tasks/base.css"]}

    @property
    def urls(self) -> list[URLPattern]:
        """The addresses of the pages, which say so if the jobs' database does not answer."""
        patterns: list[URLPattern] = self.get_urls()
        for pattern in patterns:
            pattern.callback = _answering(pattern.callback, self.admin_site)
        return patterns

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _answering(view: Callable[..., Any], site: admin.AdminSite) -> Callable[..., Any]:
    """Return the view with a page of its own for a database that is away."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return view(request, *args, **kwargs)
        except AWAY:
            logger.exception("The database of the jobs does not answer.")
        # Without what the site shows on each page: that may need the same database.
        context = {
            "title": _("The database of the jobs does not answer"),
            "site_title": site.site_title,
            "site_header": site.site_header,
            "site_url": site.site_url,
            "has_permission": False,
        }
        return TemplateResponse(request, "admin/durable_tasks/away.html", context, status=503)

    return answer


def jobs_database() -> str:
    """Return the alias of the database that pages about jobs read: that which workers write to."""
    return router.db_for_write(Job)


def secrets_of(backend_name: str) -> tuple[str, ...]:
    """Return the patterns of the names whose values are not shown of a backend's jobs."""
    backend = durable_backends().get(backend_name)
    return backend.durable_options.redact if backend else SECRETS


def as_json(value: Any) -> SafeString:
    """Return a value as readable JSON, escaped."""
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as pages show it: ``admin/durable_tasks/moment.html``."""

    at: datetime
    now: datetime

    @classmethod
    def of(cls, at: datetime | None, now: datetime | None = None) -> "Moment | None":
        """Return a moment; None of None."""
        return None if at is None else cls(at, now or clock.now())

    @property
    def local(self) -> datetime:
        return timezone.localtime(self.at) if settings.USE_TZ else self.at

    @property
    def iso(self) -> str:
        return self.local.isoformat(timespec="milliseconds")

    @property
    def full(self) -> str:
        """To the millisecond, with the zone."""
        zone = f" {self.local:%Z}" if settings.USE_TZ else ""
        day = formats.date_format(self.local, "DATE_FORMAT")
        return f"{day}, {self.local:%H:%M:%S}.{self.local.microsecond // 1000:03}{zone}"

    @property
    def clock(self) -> str:
        """The time of its day, to the second."""
        return f"{self.local:%H:%M:%S}"

    @property
    def day(self) -> str:
        """Its day; nothing if that is today."""
        now = timezone.localtime(self.now) if settings.USE_TZ else self.now
        if self.local.date() == now.date():
            return ""
        return formats.date_format(self.local, "j M" if self.local.year == now.year else "j M Y")

    @property
    def short(self) -> str:
        """To the second; with the day unless it is today's."""
        return f"{self.day}, {self.clock}" if self.day else self.clock

    @property
    def ago(self) -> str:
        """How far it is from now: "3 min ago", "in 2 h"."""
        seconds = (self.now - self.at).total_seconds()
        if abs(seconds) < 1:
            return _("now")
        text = {"time": rough(abs(seconds))}
        return (_("%(time)s ago") if seconds > 0 else _("in %(time)s")) % text


def in_full(at: datetime | None) -> str:
    """Return a time to the millisecond; "" of None."""
    return "" if at is None else Moment(at, at).full


def when(at: datetime | None, now: datetime) -> SafeString:
    """Return a time of a list: when, and how far that is from now."""
    moment = Moment.of(at, now)
    return render_to_string("admin/durable_tasks/moment.html", {"moment": moment})


def ago(at: datetime | None, now: datetime) -> SafeString:
    """Return how far a time is from now; the time itself shows as a hint."""
    moment = Moment.of(at, now)
    if moment is None:
        return format_html('<span class="dt-quiet">{}</span>', NONE)
    return format_html('<span class="dt-nowrap" title="{}">{}</span>', moment.full, moment.ago)


def n_jobs(count: Any, number: int) -> str:
    """Return "1 job", "10,000+ jobs". ``count``: as it is shown."""
    return ngettext("%(count)s job", "%(count)s jobs", number) % {"count": count}
