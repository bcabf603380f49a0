"""The admin of jobs: the list, the page of a job, and what can be done to jobs."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _

from ..models import Job
from ..state import durable_backends
from ..statuses import ENDED
from . import actions, job_list, job_page
from .base import ReadOnlyAdmin, jobs_database


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Jobs are looked at, and acted on by words; no field of one is edited."""

    def has_job_permission(self, request: HttpRequest, codename: str) -> bool:
        """Return whether the user has one of the permissions on jobs, such as ``retry_job``."""
        return self.has_view_permission(request) and request.user.has_perm(
            f"{self.opts.app_label}.{codename}"
        )

    def get_urls(self) -> list[URLPattern]:
        act = path("act/", self.admin_site.admin_view(self.act_view), name="durable_tasks_job_act")
        return [act, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET"])
        url = reverse("admin:durable_tasks_job_changelist", current_app=self.admin_site.name)
        return self._response(
            request,
            "change_list",
            {
                **job_list.context(request, url),
                "title": _("Jobs"),
                "many_backends": len(durable_backends()) > 1,
                **(extra_context or {}),
            },
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        if not self.has_view_permission(request):
            raise PermissionDenied
        job = self._job(object_id)
        if job is None:
            return self._missing(request, object_id)
        return self._response(
            request,
            "change_form",
            {
                **job_page.context(request, job, self.admin_site.name),
                "title": str(job),
                "original": job,
                "actions": actions.allowed(self, request, job),
                "ended": ENDED,
                "has_view_permission": True,
                **(extra_context or {}),
            },
        )

    def _missing(self, request: HttpRequest, object_id: str) -> HttpResponse:
        text = _("There is no job %s: it may have been deleted.") % unquote(object_id)[:100]
        self.message_user(request, text, messages.WARNING)
        url = reverse("admin:durable_tasks_job_changelist", current_app=self.admin_site.name)
        return HttpResponseRedirect(url)

    def _job(self, object_id: str) -> Job | None:
        try:
            id = Job._meta.pk.to_python(unquote(object_id))
        except Exception:  # what is no id has no job
            return None
        return Job.objects.using(jobs_database()).filter(id=id).first()

    def act_view(self, request: HttpRequest) -> HttpResponse:
        """Do one of ``bulk.ACTIONS`` to jobs."""
        return actions.view(self, request)

    def _response(
        self, request: HttpRequest, template: str, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"admin/durable_tasks/job/{template}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "media": self.media,
                "is_popup": IS_POPUP_VAR in request.GET,
                "actions": actions.allowed(self, request),
                "act_url": reverse("admin:durable_tasks_job_act", current_app=self.admin_site.name),
                **context,
            },
        )
