"""The same orders with an AsyncSession. Run it: ``python orders_async.py``, which reminds until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import sys

from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from orders import Order, Refused, given_url, store_of
from sqlalchemy import URL, delete, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

import pitstop


__all__ = ["AsyncShop"]


class AsyncShop:
    """The application of one event loop."""

    def __init__(self, url: URL, **options: Any) -> None:
        """Make it. It connects at its first use.

        :param options: of the store of the messages, as for ``pitstop.init_async``.
        """
        # With this name, SQLAlchemy takes the driver psycopg for event loops, too.
        self.engine = create_async_engine(url)
        self.session = async_sessionmaker(self.engine)
        self.pit = pitstop.init_async(store_of(url) | options)

    async def __aenter__(self) -> Self:
        """Return it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.pit.aclose()
        await self.engine.dispose()

    async def place(self, number: int, amount: int, remind_after: timedelta) -> None:
        """Store an order and its reminder, or neither.

        :raises Refused: if the amount is negative.
        :raises sqlalchemy.exc.IntegrityError: if there is such an order.
        """
        async with self.session.begin() as session:
            session.add(Order(number=number, amount=amount))
            await self.pit.store({"id": f"order-{number}", "order": number}, remind_after, session=session)
            if amount < 0:
                raise Refused("The amount is negative.")

    async def cancel(self, number: int) -> bool:
        """Remove an order and its reminder. Return whether there was one."""
        async with self.session.begin() as session:
            await self.pit.remove(f"order-{number}", session=session)
            removed = await session.execute(delete(Order).where(Order.number == number).returning(Order.number))
            return removed.first() is not None

    async def remind(self, delivery: pitstop.AsyncDelivery) -> None:
        """Mark the order, and acknowledge the message."""
        async with self.session.begin() as session:
            number = delivery.msg["order"]
            await session.execute(update(Order).where(Order.number == number).values(reminded=Order.reminded + 1))
            await delivery.ack(session=session)


async def main(*arguments: str) -> None:
    """Remind customers."""
    async with AsyncShop(given_url()) as shop:
        print(await shop.pit.consume(shop.remind, until_idle="--until-idle" in arguments))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
