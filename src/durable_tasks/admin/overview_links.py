"""Where the overview leads to."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.apps import apps
from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _

from ..models import Job


class Links:
    """The addresses of one page, in the admin site that shows it.

    ``choice``: what the page itself is asked for.
    """

    def __init__(self, request: HttpRequest, site: AdminSite, choice: Mapping[str, str]) -> None:
        self._request, self._site, self._choice = request, site, choice
        self._visible: dict[str, bool] = {}
        # Asks before it does anything.
        self._act_page = self._reverse("job_act")
        texts = {"retry": _("Retry all"), "delete": _("Delete all")}
        self._acts = [
            (name, text)
            for name, text in texts.items()
            if self._act_page and request.user.has_perm(f"{Job._meta.app_label}.{name}_job")
        ]

    @property
    def may_act(self) -> bool:
        """May this user do anything to jobs from here?"""
        return bool(self._acts)

    def here(self, **changes: str) -> str:
        """Return this page's address with changes to what it is asked for; "" leaves one out."""
        asked = {**self._choice, **changes}
        query = urlencode({name: value for name, value in asked.items() if value})
        return f"?{query}"

    def jobs(self, **search: str) -> str:
        """Return the list of the jobs that match; "" if this site has none."""
        address = self.page("job")
        return f"{address}?{urlencode(search)}" if address else ""

    def acts(self, search: Mapping[str, str]) -> list[dict[str, str]]:
        """Return what this user may do to all jobs that match."""
        return [
            {
                "text": label,
                "href": f"{self._act_page}?{urlencode({'action': name, **search})}",
                "name": name,
            }
            for name, label in self._acts
        ]

    def overview(self) -> str:
        """Return where this page's data come from; "" if this site does not give them."""
        address = self._reverse("overview")
        return address and address + self.here()

    def page(self, model: str) -> str:
        """Return the list of a model, "" if this user may not see it or this site has none."""
        return self._seen(model, "changelist")

    def change(self, model: str, pk: Any) -> str:
        """Return the page of one object, "" as above."""
        return self._seen(model, "change", pk)

    def _seen(self, model: str, name: str, *args: Any) -> str:
        if model not in self._visible:
            found = self._site._registry.get(apps.get_model(Job._meta.app_label, model))
            self._visible[model] = found is not None and found.has_view_permission(self._request)
        return self._reverse(f"{model}_{name}", *args) if self._visible[model] else ""

    def _reverse(self, name: str, *args: Any) -> str:
        name = f"admin:{Job._meta.app_label}_{name}"
        try:
            return reverse(name, args=args, current_app=self._site.name)
        except NoReverseMatch:
            return ""
