"""Orders with reminders in a web application: the order and its reminder are stored in one MongoDB transaction.

If the request fails, neither is there. The reminder marks the order and is acknowledged in one transaction, too: once, whatever
fails in between.
"""

from __future__ import annotations

import asyncio
import os

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from pymongo import AsyncMongoClient
from pymongo.errors import DuplicateKeyError

import pitstop


__all__ = ["create_app"]


class Order(BaseModel):
    """The request for an order."""

    number: int
    amount: int
    #: Seconds until the customer is reminded.
    remind_after: float = 3 * 24 * 3600


def create_app(uri: str | None = None, dbname: str = "shop", **options: Any) -> FastAPI:
    """Return the application.

    :param uri: a replica set, because a standalone server has no transactions.
    :param options: of the store of the reminders, as for ``pitstop.init_async``.
    """
    uri = uri or os.environ.get("ORDERS_URI", "mongodb://localhost/?replicaSet=rs")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncMongoClient(uri, w="majority") as client:
            where = {"type": "mongo", "client": client, "dbname": dbname, "lock_time": "1m", "retry": {"delay": "1s"}}
            async with pitstop.init_async(where | options) as pit:
                # Makes the collection of the messages: a transaction cannot see one that is newer.
                await pit.stats()
                app.state.client, app.state.orders, app.state.pit = client, client[dbname].orders, pit
                consuming = asyncio.create_task(pit.consume(reminder(app)))
                yield
            await consuming

    app = FastAPI(lifespan=lifespan)
    app.post("/orders", status_code=201)(place)
    app.delete("/orders/{number}", status_code=204)(cancel)
    return app


async def place(order: Order, request: Request) -> dict[str, int]:
    """Store an order and its reminder, or neither."""
    state = request.app.state

    async def work(session: Any) -> None:
        when = timedelta(seconds=order.remind_after)
        await state.pit.store({"id": f"order-{order.number}", "order": order.number}, when, session=session)
        await state.orders.insert_one({"_id": order.number, "amount": order.amount, "reminded": 0}, session=session)
        if order.amount < 0:
            # Found out in the midst of the transaction, as rules of a business often are.
            raise HTTPException(422, "The amount is negative.")

    async with state.client.start_session() as session:
        try:
            await session.with_transaction(work)
        except DuplicateKeyError:
            raise HTTPException(409, "There is such an order.") from None
    return {"number": order.number}


async def cancel(number: int, request: Request) -> None:
    """Remove an order and its reminder."""
    state = request.app.state

    async def work(session: Any) -> int:
        await state.pit.remove(f"order-{number}", session=session)
        return int((await state.orders.delete_one({"_id": number}, session=session)).deleted_count)

    async with state.client.start_session() as session:
        if not await session.with_transaction(work):
            raise HTTPException(404, "There is no such order.")


def reminder(app: FastAPI) -> Any:
    """Return the handler of the reminders."""

    async def remind(delivery: pitstop.AsyncDelivery) -> None:
        async def work(session: Any) -> None:
            order = {"_id": delivery.msg["order"]}
            await app.state.orders.update_one(order, {"$inc": {"reminded": 1}}, session=session)
            await delivery.ack(session=session)

        async with app.state.client.start_session() as session:
            await session.with_transaction(work)

    return remind
