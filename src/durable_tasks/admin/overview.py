"""The live overview, which takes the place of Django's page of this app.

The page and its refreshes show the same data: what workers counted and, within limits, what there
is now. It costs the same with a million jobs.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, JsonResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext as _

from .. import history
from ..models import ErrorGroup, Job, Statistic
from ..state import Look, QueueState, durable_backends
from . import overview_tables as tables
from . import overview_tiles as tiles
from .base import AWAY, logger
from .overview_charts import charts
from .overview_links import Links


@dataclass(frozen=True, slots=True)
class Choice:
    """What the page is asked for; "" is all. ``unknown``: what was asked for and is not there."""

    range: str = "1h"
    backend: str = ""
    queue: str = ""
    task: str = ""
    unknown: str = ""

    @classmethod
    def of(cls, request: HttpRequest) -> "Choice":
        """Return what a request asks for, without what can't be."""
        asked = {
            name: request.GET.get(name, "").replace("\0", "")[:255]
            for name in ("range", "backend", "queue", "task")
        }
        unknown = ""
        for name, known in (("range", history.RANGES), ("backend", durable_backends())):
            if asked[name] and asked[name] not in known:
                unknown, asked[name] = asked[name], ""
        return cls(**asked | {"range": asked["range"] or "1h", "unknown": unknown})

    def as_dict(self) -> dict[str, str]:
        """Return it as it stands in an address."""
        return {
            "range": self.range if self.range != "1h" else "",
            "backend": self.backend,
            "queue": self.queue,
            "task": self.task,
        }


def may_view(request: HttpRequest, site: admin.AdminSite) -> bool:
    """May this user see jobs in this site? Nobody else sees anything of the overview."""
    job_admin = site._registry.get(Job)
    return job_admin is not None and job_admin.has_view_permission(request)


class Overview:
    """The page for one request. ``choice``: what it is asked for."""

    def __init__(self, request: HttpRequest, site: admin.AdminSite, choice: Choice) -> None:
        self.choice, self.look = choice, Look(choice.backend or None)
        self.links = Links(request, site, choice.as_dict())

    @cached_property
    def _which(self) -> dict[str, Any]:
        choice = self.choice
        return {
            "backend": choice.backend or None,
            "queue": choice.queue or None,
            "task": choice.task or None,
            "using": self.look.using,
            "now": self.look.seconds,
        }

    @cached_property
    def _series(self) -> history.Series:
        return history.series(self.choice.range, **self._which)

    @cached_property
    def _queues(self) -> list[QueueState]:
        return self.look.queues()

    def data(self) -> dict[str, Any]:
        """Return all that changes, as what JSON can hold. The texts are not escaped."""
        now, choice, found = self.look.seconds, self.choice, self._series
        with self.look.store.pinned_plans():  # once for all
            present = self._now()
        return {
            "at": round(now),
            "zone": str(timezone.get_current_timezone()) if settings.USE_TZ else settings.TIME_ZONE,
            "period": found.begins.step,
            "times": list(found.begins),
            **present,
            "charts": charts(found, by_task=bool(choice.task)),
        }

    def _now(self) -> dict[str, Any]:
        look, links, found, choice = self.look, self.links, self._series, self.choice
        queues = [each for each in self._queues if choice.queue in ("", each.name)]
        workers, late = look.workers(), look.late_schedules()
        sums = found.totals()
        return {
            "tiles": [
                tiles.waiting(queues, links),
                tiles.running(queues, workers, links),
                tiles.throughput(self._recent()),
                tiles.failures(sums, links),
                tiles.wait(sums),
                tiles.run(sums),
                tiles.workers(workers, links),
                tiles.schedules(late, links),
            ],
            "notices": tiles.notices(workers, look.paused(), counted=self._counted, links=links),
            "tables": [
                self._errors(),
                tables.queues(queues, links, several=len(look.backends) > 1),
                tables.failing(found, links),
                tables.slowest(found, links),
                tables.late(late, links),
                tables.silent(workers, links),
            ],
        }

    def _recent(self) -> history.Totals:
        """Return what ended in the last minutes."""
        found, minutes = self._series, tiles.MINUTES
        if found.begins.step == 60:
            return history.Series(found.begins, [], found.points[-minutes:], {}).totals()
        return history.totals(60 * minutes, **self._which)

    def _errors(self) -> tables.Table:
        groups = self._groups()
        failing = self.look.failing_errors() if groups else None
        return tables.errors(groups, failing, self.choice.range, self.look.seconds, self.links)

    def _groups(self) -> list[ErrorGroup]:
        since = datetime.fromtimestamp(self._series.begins.start, UTC)
        which = self._which
        return history.error_groups(
            since if settings.USE_TZ else timezone.make_naive(since),
            which["backend"],
            which["task"],
            which["using"],
        )

    @property
    def _counted(self) -> bool:
        options = [backend.durable_options for backend in self.look.backends.values()]
        return any(getattr(each, "statistics", True) for each in options)

    def ranges(self) -> list[dict[str, Any]]:
        """Return the switch between the ranges."""
        texts = {"1h": _("1 hour"), "24h": _("24 hours"), "7d": _("7 days")}
        return [
            {"text": text, "href": self.links.here(range=name), "on": name == self.choice.range}
            for name, text in texts.items()
        ]

    def filters(self) -> list[dict[str, Any]]:
        """Return what can be chosen; a choice that is not known is kept, for it is looked for."""
        choice, backends = self.choice, list(durable_backends())
        paths = set(self._series.tasks)
        if choice.task:
            which = {name: value for name, value in self._which.items() if name != "task"}
            paths |= history.task_paths(choice.range, **which)
        found = [
            ("queue", _("Queue"), _("All queues"), {each.name for each in self._queues}),
            ("task", _("Task"), _("All tasks"), paths),
        ]
        if len(backends) > 1:
            found.insert(0, ("backend", _("Backend"), _("All backends"), set(backends)))
        return [
            {
                "name": name,
                "label": label,
                "all": every,
                "chosen": getattr(choice, name),
                "values": sorted({*values, getattr(choice, name)} - {""}),
            }
            for name, label, every, values in found
        ]


def page(request: HttpRequest, site: admin.AdminSite) -> dict[str, Any] | None:
    """Return what the template needs, None for those who may not see jobs."""
    if not may_view(request, site):
        return None
    choice = Choice.of(request)
    overview = Overview(request, site, choice)
    try:
        data, filters = overview.data(), overview.filters()
    except AWAY:
        logger.exception("The database of the jobs does not answer.")
        return {"is_away": True}
    texts = _texts()
    return {
        "choice": choice,
        "data": data,
        "text": json.dumps(data),
        "texts": json.dumps(texts),
        "age": texts["updated"] % 0,
        "ranges": overview.ranges(),
        "filters": filters,
        "endpoint": overview.links.overview(),
        "tables": {each["key"]: each for each in data["tables"]},
        "all": overview.links.here(backend="", queue="", task=""),
        "is_filtered": bool(choice.backend or choice.queue or choice.task),
    }


def _texts() -> dict[str, str]:
    """Return what the script says."""
    return {
        "updated": _("updated %s s ago"),
        "paused": _("paused"),
        "pause": _("Pause"),
        "resume": _("Go on"),
        "away": _("The server does not answer. The figures are old; next try in %s s."),
        "denied": _("You are logged out, or may not see jobs any more. Load the page again."),
        "ms": _("%s ms"),
        "s": _("%s s"),
        "min": _("%s min"),
        "h": _("%s h"),
        "no": _("Nothing was counted in this time."),
    }


@admin.register(Statistic)
class StatisticAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What the overview asks for anew; it has no pages and is in no list."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_add_permission = has_view_permission
    has_change_permission = has_view_permission
    has_delete_permission = has_view_permission

    def get_urls(self) -> list[URLPattern]:
        """Return the address of the data alone."""
        view = self.admin_site.admin_view(self.overview)
        return [path("overview/", view, name=f"{Job._meta.app_label}_overview")]

    def overview(self, request: HttpRequest) -> JsonResponse:
        """Answer with ``Overview.data()``; 403 for those who may not see jobs.

        503 if the jobs' database is away.
        """
        if not may_view(request, self.admin_site):
            return JsonResponse({"error": _("You may not see jobs.")}, status=403)
        try:
            return JsonResponse(Overview(request, self.admin_site, Choice.of(request)).data())
        except AWAY:
            return JsonResponse({"error": _("The database does not answer.")}, status=503)
