from django.contrib import admin

from .models import Order


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("id", "customer", "item", "quantity", "total", "placed_at", "packed_at")
    ordering = ("-id",)
