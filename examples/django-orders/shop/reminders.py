"""The handler of the reminders."""

from __future__ import annotations

from django.db import close_old_connections, connection, transaction
from django.db.models import F

from pitstop import Delivery
from shop.models import Order


__all__ = ["remind"]


def remind(delivery: Delivery) -> None:
    """Mark the order and acknowledge the message in one transaction: once, whatever fails in between."""
    # As Django does before and after each request: a connection that broke is opened again, and none is left open.
    close_old_connections()
    try:
        with transaction.atomic():
            Order.objects.filter(number=delivery.msg["order"]).update(reminded=F("reminded") + 1)
            delivery.ack(session=connection)
    finally:
        close_old_connections()
