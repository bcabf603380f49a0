"""What the shop remembers."""

from django.db import models


class Order(models.Model):
    """Some pieces of one item, for one customer."""

    customer = models.CharField(max_length=100)
    email = models.EmailField()
    item = models.CharField(max_length=100)
    quantity = models.PositiveIntegerField(default=1)
    price = models.DecimalField(max_digits=8, decimal_places=2)  # of one piece, in euros
    placed_at = models.DateTimeField(auto_now_add=True)
    packed_at = models.DateTimeField(null=True, blank=True)
    paid_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"Order {self.pk}: {self.quantity} x {self.item}"

    @property
    def total(self):
        return self.quantity * self.price
