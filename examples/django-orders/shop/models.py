"""The tables of the application."""

from django.db import models


class Order(models.Model):
    """An order, and how often its customer was reminded."""

    number = models.IntegerField(unique=True)
    amount = models.IntegerField()
    reminded = models.IntegerField(default=0)

    def __str__(self) -> str:
        """Return the number."""
        return f"order {self.number}"
