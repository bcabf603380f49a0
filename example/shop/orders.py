"""Placing an order: the one thing a visitor of the shop does."""

from django.db import transaction

from .models import Order
from .tasks import confirm_order, pack_order


def place_order(**fields):
    """Save an order and enqueue what follows from it; return the order and the results.

    One transaction: no mail for an order that was rolled back, no order without its mail.
    """
    with transaction.atomic():
        order = Order.objects.create(**fields)
        results = [confirm_order.enqueue(order.pk), pack_order.enqueue(order.pk)]
    return order, results
