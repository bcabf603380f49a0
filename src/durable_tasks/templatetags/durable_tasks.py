"""What the overview's template needs."""

from typing import Any

from django import template
from django.contrib.admin import AdminSite, site
from django.contrib.admin.sites import all_sites

from ..admin import overview

register = template.Library()


@register.simple_tag(takes_context=True)
def durable_tasks_overview(context: template.RequestContext) -> dict[str, Any] | None:
    """Return the overview for the admin site that shows the page, None without permission."""
    # Not context["request"], which a context processor puts there.
    request = context.request
    return overview.page(request, _site(request.current_app))


def _site(name: str) -> AdminSite:
    return next((each for each in all_sites if each.name == name), site)
