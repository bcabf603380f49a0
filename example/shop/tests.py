"""The shop's own tests: ``python manage.py test``."""

from datetime import timedelta
from unittest import mock

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
from .services import BankAway, CourierBusy
from .tasks import (
    ask_suppliers,
    book_courier,
    charge_card,
    confirm_order,
    count_stock,
    pack_order,
    save_card,
    write_invoice,
)

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

    def test_a_courier_who_is_busy_is_asked_again(self):
        answers = [CourierBusy("All vans are out")] * 2 + ["van 7"]
        with frozen_time() as clock, mock.patch("shop.services.book", side_effect=answers):
            booking = book_courier.enqueue(1, "Avalon")
            for _ in range(3):
                run_tasks()
                clock.tick(60)
        booking.refresh()
        self.assertEqual((booking.return_value, booking.attempts), ("van 7", 3))

    def test_a_bank_that_is_away_leaves_the_order_unpaid(self):
        order, _ = place_order(**MUGS)
        with mock.patch("shop.services.charge", side_effect=BankAway("The bank does not answer")):
            payment = run_task(charge_card.enqueue(order.pk))
        self.assertEqual(payment.status, "FAILED")
        order.refresh_from_db()
        self.assertIsNone(order.paid_at)

    def test_what_else_a_shop_does(self):
        place_order(**MUGS)
        for result, value in (
            (count_stock.enqueue(), {"packed": 0, "to pack": 1}),
            (write_invoice.enqueue(7), "invoice of order 7, 1 page"),
            (
                save_card.enqueue("Ada", card_number="4111 1111"),
                "the card of Ada that ends in 1111",
            ),
        ):
            self.assertEqual(run_task(result).return_value, value)


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
