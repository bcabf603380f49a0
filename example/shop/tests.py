"""The shop's own tests: ``python manage.py test``."""

from datetime import timedelta

from django.core import mail
from django.test import TestCase

from durable_tasks.testing import (
    RunnerTestCase,
    assert_enqueued,
    enqueued_tasks,
    frozen_time,
    refute_enqueued,
    run_task,
    run_tasks,
)

from .models import Order
from .orders import place_order
from .reports import sales_report
from .tasks import ask_suppliers, charge_card, confirm_order, pack_order

MUGS = {
    "customer": "Ada",
    "email": "ada@example.com",
    "item": "mug",
    "quantity": 2,
    "price": "9.50",
}


class OrderTests(TestCase):
    """In the test's own transaction: fast, and in a fixed order."""

    def test_an_order_is_confirmed_and_packed(self):
        order, results = place_order(**MUGS)
        self.assertEqual(mail.outbox, [])
        ran = run_tasks()
        # The warehouse goes first: its priority is higher.
        self.assertEqual([result.id for result in ran], [results[1].id, results[0].id])
        self.assertEqual(mail.outbox[0].to, ["ada@example.com"])
        order.refresh_from_db()
        self.assertIsNotNone(order.packed_at)

    def test_an_order_enqueues_what_follows_from_it(self):
        order, _ = place_order(**MUGS)
        assert_enqueued(confirm_order, args=[order.pk])
        assert_enqueued(pack_order, args=[order.pk], queue_name="warehouse", priority=10)
        refute_enqueued(charge_card)

    def test_an_order_that_cannot_be_saved_enqueues_nothing(self):
        with self.assertRaises(ValueError):
            place_order(**MUGS | {"quantity": "two"})
        self.assertEqual(enqueued_tasks(), [])

    def test_a_payment_is_due_later(self):
        order, _ = place_order(**MUGS)
        with frozen_time() as clock:
            due = clock.now + timedelta(days=14)
            payment = charge_card.using(run_after=due).enqueue(order.pk)
            run_tasks()
            self.assertFalse(payment.is_finished)
            clock.move_to(due)
            run_task(payment)
        self.assertEqual(payment.return_value, "charged 19.00 euros")

    def test_a_payment_above_the_limit_fails(self):
        order, _ = place_order(**MUGS | {"quantity": 100})
        payment = run_task(charge_card.enqueue(order.pk))
        self.assertEqual(payment.errors[0].exception_class.__name__, "PaymentDeclined")
        order.refresh_from_db()
        self.assertIsNone(order.paid_at)

    def test_a_report_adds_up_all_orders(self):
        for _ in range(2):
            place_order(**MUGS)
        report = run_task(sales_report.enqueue())
        self.assertEqual(report.return_value, {"orders": 2, "euros": "38.00", "best": "mug"})


class WorkerTests(RunnerTestCase):
    """Beside a worker on threads of its own, as in production."""

    def test_an_order_is_confirmed_and_packed(self):
        order, results = place_order(**MUGS)
        for result in results:
            self.runner.wait_for(result)
            self.assertEqual(result.status, "SUCCESSFUL")
        self.assertEqual(len(mail.outbox), 1)
        self.assertIsNotNone(Order.objects.get(pk=order.pk).packed_at)

    def test_suppliers_are_asked(self):
        result = self.runner.submit(ask_suppliers, "mug")
        self.runner.wait_for(result)
        self.assertEqual(result.return_value["supplier"], "South")
