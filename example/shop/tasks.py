"""What the shop does in the background.

``durable_tasks.task`` is Django's decorator plus our options. A task takes and returns what JSON
can carry: an order's id, not the order.
"""

import asyncio
from pathlib import Path

from django.conf import settings
from django.core.mail import send_mail
from django.utils import timezone

from durable_tasks import exponential, task

from . import images, services
from .models import Order


class PaymentDeclined(Exception):
    """The bank said no."""


@task
def confirm_order(order_id):
    """Write the customer a mail."""
    order = Order.objects.get(pk=order_id)
    send_mail(
        subject=f"Your order {order.pk}",
        message=f"Dear {order.customer},\n\nwe are packing {order.quantity} x {order.item}.\n",
        from_email=None,
        recipient_list=[order.email],
    )
    return f"sent to {order.email}"


@task(queue_name="warehouse", priority=10, takes_context=True)
def pack_order(context, order_id):
    """Mark the order as packed. Packing twice does no harm: a job may run more than once."""
    Order.objects.filter(pk=order_id, packed_at=None).update(packed_at=timezone.now())
    return f"packed, attempt {context.attempt}"


@task(on_worker_lost="fail")
def charge_card(order_id):
    """Charge the customer. If the worker dies meanwhile, a person must look: never charge twice."""
    order = Order.objects.get(pk=order_id)
    if order.total > 500:
        raise PaymentDeclined(f"{order.total} euros are above the card's limit of 500")
    charged = services.charge(order.customer, order.total)
    order.paid_at = timezone.now()
    order.save(update_fields=["paid_at"])
    return charged


@task(queue_name="warehouse", max_attempts=8, backoff=exponential(2))
def book_courier(order_id, city):
    """Have the parcel fetched. The courier is often busy: ask again after 2, 4, 8 ... seconds."""
    return services.book(order_id, city)


@task(queue_name="reports")
def write_invoice(order_id):
    """Print an invoice, which takes a while."""
    return services.render(f"invoice of order {order_id}")


@task
def save_card(customer, *, card_number):
    """Remember a card. The admin shows no value whose name is one of ``OPTIONS["redact"]``."""
    return f"the card of {customer} that ends in {card_number[-4:]}"


@task(queue_name="warehouse")
def count_stock():
    """Count what is packed and what is not."""
    orders = Order.objects
    return {
        "packed": orders.exclude(packed_at=None).count(),
        "to pack": orders.filter(packed_at=None).count(),
    }


@task
def make_thumbnail(photo, width):
    """Write a smaller copy of a photo and return where it is, not the copy itself."""
    source = Path(__file__).parent / "photos" / photo
    target = settings.VAR_DIR / "thumbnails" / photo
    target.parent.mkdir(parents=True, exist_ok=True)
    small = images.resize(images.parse(source.read_text()), width)
    target.write_text(images.format(small))
    return str(target.relative_to(settings.BASE_DIR))


@task
async def ask_suppliers(item):
    """Ask three suppliers at once and return the best offer."""
    offers = await asyncio.gather(
        ask("North", item, answers_in=0.3, price="8.40"),
        ask("South", item, answers_in=0.2, price="7.90"),
        ask("West", item, answers_in=0.1, price="8.10"),
    )
    return min(offers, key=lambda offer: float(offer["price"]))


async def ask(supplier, item, *, answers_in, price):
    await asyncio.sleep(answers_in)  # where a real shop would wait for the network
    return {"supplier": supplier, "item": item, "price": price}
