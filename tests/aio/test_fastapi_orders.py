"""The example of a web application with transactions, under concurrent requests, on a real replica set."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from aio.kit import run, until


ORDERS = 120


@pytest.fixture(scope="module")
def app_module():
    path = Path(__file__).parents[2] / "examples" / "fastapi-orders" / "app.py"
    spec = importlib.util.spec_from_file_location("fastapi_orders_app", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def db(replica_set_database):
    database = replica_set_database
    database.messages.delete_many({})
    database.orders.drop()
    database.create_collection("orders")
    return database


@asynccontextmanager
async def serving(app):
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app", timeout=60) as client,
    ):
        yield client


def test_orders_and_reminders_go_together_under_load(app_module, db, replica_set_uri):
    """Half of the requests are repeated, some are refused in the midst of the transaction, some orders are cancelled."""

    async def main():
        async with serving(app_module.create_app(replica_set_uri, db.name)) as client:

            async def place(number):
                amount = -1 if number % 5 == 0 else 1
                reply = await client.post("/orders", json={"number": number, "amount": amount})
                return reply.status_code

            told = await asyncio.gather(*[place(n) for n in range(ORDERS)], *[place(n) for n in range(ORDERS // 2)])
            refused = len([n for n in range(ORDERS) if n % 5 == 0]) + len([n for n in range(ORDERS // 2) if n % 5 == 0])
            assert Counter(told) == {201: ORDERS * 4 // 5, 422: refused, 409: ORDERS // 2 * 4 // 5}
            gone = await asyncio.gather(*[client.delete(f"/orders/{n}") for n in range(1, ORDERS, 5)])
            assert {each.status_code for each in gone} == {204}

    run(main())
    kept = {n for n in range(ORDERS) if n % 5 > 1}
    assert {each["_id"] for each in db.orders.find()} == kept
    assert {each["_id"] for each in db.messages.find()} == {f"order-{n}" for n in kept}


def test_each_order_is_reminded_once(app_module, db, replica_set_uri):
    async def main():
        async with serving(app_module.create_app(replica_set_uri, db.name)) as client:
            orders = [{"number": n, "amount": 1, "remind_after": 0} for n in range(40)]
            await asyncio.gather(*[client.post("/orders", json=each) for each in orders])
            await until(lambda: db.messages.count_documents({}) == 0)

    run(main())
    assert [each["reminded"] for each in db.orders.find()] == [1] * 40
