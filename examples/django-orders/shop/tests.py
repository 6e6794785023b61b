"""The application's own tests: ``manage.py test``. The test database has the tables of the messages from the migration."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

import pitstop

from shop.models import Order
from shop.reminders import remind
from shop.store import pit
from shop.views import Refused, store_order


def place(test: Any, number: int, amount: int = 100, **more: object) -> int:
    body = {"number": number, "amount": amount, **more}
    return int(test.client.post("/orders", body, content_type="application/json").status_code)


class WithoutCommit(TestCase):
    """A TestCase holds one transaction around each test. Its messages are seen on its own connection alone."""

    def test_an_order_comes_with_its_reminder(self) -> None:
        assert place(self, 7) == 201
        entry = pit().get("order-7", session=connection)
        assert entry is not None
        assert entry.message["order"] == 7
        assert pit().get("order-7") is None

    def test_a_refused_order_leaves_no_reminder(self) -> None:
        assert place(self, 8, -1) == 422
        assert not Order.objects.exists()
        assert pit().get("order-8", session=connection) is None


class WithCommit(TransactionTestCase):
    """A TransactionTestCase commits. It empties the tables of the models after each test, and no other tables."""

    def setUp(self) -> None:
        pit().remove_many([each.id for each in pit().entries(limit=1000)])

    def test_each_order_is_reminded_once(self) -> None:
        for number in range(20):
            assert place(self, number, remind_after=0) == 201
        assert pit().consume(remind, until_idle=True).acked == 20
        assert set(Order.objects.values_list("reminded", flat=True)) == {1}

    def test_a_repeated_order_keeps_the_reminder_of_the_first(self) -> None:
        assert place(self, 7) == 201
        before = pit().get("order-7")
        assert place(self, 7, 5) == 409
        assert pit().get("order-7") == before

    def test_a_cancelled_order_has_no_reminder(self) -> None:
        place(self, 7)
        assert self.client.delete("/orders/7").status_code == 200
        assert self.client.delete("/orders/7").status_code == 404
        assert pit().get("order-7") is None

    def test_an_inner_block_that_rolls_back_takes_its_message_along(self) -> None:
        with transaction.atomic():
            pit().store({"id": "outer"}, "1h", session=connection)
            with self.assertRaises(Refused), transaction.atomic():
                store_order(9, -1, timedelta(hours=1))
        assert [each.id for each in pit().entries()] == ["outer"]

    def test_a_store_outside_of_a_transaction_is_refused(self) -> None:
        with self.assertRaisesMessage(pitstop.PitstopError, "in no transaction"):
            pit().store({"id": "a"}, "1h", session=connection)
