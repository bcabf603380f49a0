"""A task made with Django's own decorator: it needs nothing of ours."""

from django.db.models import Count, F, Sum

try:
    from django.tasks import task
except ImportError:  # Django 5.2
    from django_tasks import task

from .models import Order


@task(queue_name="reports")
def sales_report():
    """Add up all orders, by item."""
    items = (
        Order.objects.values("item")
        .annotate(orders=Count("id"), euros=Sum(F("quantity") * F("price")))
        .order_by("-euros")
    )
    return {
        "orders": sum(item["orders"] for item in items),
        # JSON has no Decimal.
        "euros": f"{sum(item['euros'] for item in items):.2f}",
        "best": items[0]["item"] if items else None,
    }
