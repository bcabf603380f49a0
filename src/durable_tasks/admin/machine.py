"""What the pages of workers, periodic tasks and queues share."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from .base import ReadOnlyAdmin, jobs_database


class MachineAdmin(ReadOnlyAdmin):
    """Pages of rows that lie beside the jobs, with buttons that act on one row.

    ``acts``: the name of each act and the permission that it needs.
    """

    acts: Mapping[str, str] = {}
    show_full_result_count = True  # these tables are small

    class Media:
        css = {"all": ("durable_tasks/base.css", "durable_tasks/machine.css")}

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if any("\0" in value for values in request.GET.lists() for value in values[1]):
            return HttpResponseRedirect(self.list_url())  # PostgreSQL can't be asked for it
        title = capfirst(self.opts.verbose_name_plural)
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        # Not a copy that may lag behind: who has pressed a button wants to see what it did.
        return super().get_queryset(request).using(jobs_database())

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        if not self._is_key(object_id):
            return None
        return super().get_object(request, object_id, from_field)

    def response_action(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if all(map(self._is_key, request.POST.getlist(ACTION_CHECKBOX_NAME))):
            return super().response_action(request, *args, **kwargs)
        self.message_user(request, _("What was selected is no longer there."), messages.WARNING)
        return HttpResponseRedirect(request.get_full_path())

    def _is_key(self, text: str) -> bool:
        """Return whether a database can look for this row; not all of them take any text."""
        key = self.opts.pk
        try:
            key.run_validators(key.to_python(text))
        except (ValidationError, OverflowError):
            return False
        return "\0" not in text

    def may(self, request: HttpRequest, act: str) -> bool:
        """Return whether the user may do this."""
        return bool(request.user.has_perm(f"durable_tasks.{self.acts[act]}"))

    def act(self, request: HttpRequest, obj: Any, act: str) -> str:
        """Do it to one row, say so, and return the URL to go on to."""
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.act_view)
        name = f"durable_tasks_{self.opts.model_name}_act"
        return [path("<path:object_id>/act/<slug:act>/", view, name=name), *super().get_urls()]

    def act_view(self, request: HttpRequest, object_id: str, act: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if act not in self.acts or not self.may(request, act):
            raise PermissionDenied
        if not self.has_view_permission(request):
            raise PermissionDenied
        obj = self.get_object(request, unquote(object_id))
        if obj is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined,no-any-return]
        return HttpResponseRedirect(self.act(request, obj, act))

    def buttons(self, request: HttpRequest, obj: Any, *acts: str) -> dict[str, str]:
        """Return the URLs of those acts that the user may do."""
        name = f"{self.admin_site.name}:durable_tasks_{self.opts.model_name}_act"
        return {
            act: reverse(name, args=[quote(obj.pk), act]) for act in acts if self.may(request, act)
        }

    def page_of(self, obj: Any) -> str:
        """Return the URL of a row's page."""
        name = f"{self.admin_site.name}:durable_tasks_{self.opts.model_name}_change"
        return reverse(name, args=[quote(obj.pk)])

    def list_url(self) -> str:
        """Return the URL of the list."""
        return reverse(f"{self.admin_site.name}:durable_tasks_{self.opts.model_name}_changelist")


def pill(kind: str, text: Any) -> SafeString:
    """Return a state; ``kind``: the status whose colour it has."""
    return format_html('<span class="dt-status dt-status--{}">{}</span>', kind, capfirst(text))


def dotted(path: str) -> SafeString:
    """Return a path of code that is broken at its dots only."""
    parts = path.split(".")
    lines = format_html_join("", "{}.<wbr>", ((part,) for part in parts[:-1]))
    return format_html('<span class="dt-code dt-path">{}{}</span>', lines, parts[-1])
