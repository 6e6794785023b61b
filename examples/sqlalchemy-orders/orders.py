"""Orders with reminders in SQLAlchemy: the order and its reminder are stored in one transaction.

If the transaction fails, neither is there. The reminder marks the order and is acknowledged in one transaction, too: once, whatever
fails in between. Run it: ``python orders.py migrate``, ``python orders.py place 7 100 5``, ``python orders.py remind``.
"""

from __future__ import annotations

import os
import sys

from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, create_engine, delete, make_url, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import pitstop


__all__ = ["Base", "Order", "Refused", "Shop", "given_url", "store_of"]


class Base(DeclarativeBase):
    """The tables of the application."""


class Order(Base):
    """An order, and how often its customer was reminded."""

    __tablename__ = "orders"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    amount: Mapped[int]
    reminded: Mapped[int] = mapped_column(default=0)


class Refused(Exception):
    """An order that a rule of the business forbids."""


def given_url() -> URL:
    """Return the address of the database: ``postgresql+psycopg://``, because Pitstop's driver is psycopg."""
    return make_url(os.environ.get("ORDERS_URL", "postgresql+psycopg:///shop"))


def store_of(url: URL) -> dict[str, Any]:
    """Return the configuration of the messages: a table in the same database."""
    uri = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return {"type": "postgres", "uri": uri, "create": False, "lock_time": "1m", "retry": {"delay": "1s"}}


class Shop:
    """The application: a pool of connections, and the store of the messages. All threads share it."""

    def __init__(self, url: URL, **options: Any) -> None:
        """Make it. It connects at its first use.

        :param options: of the store of the messages, as for ``pitstop.init``.
        """
        self.engine = create_engine(url)
        self.session = sessionmaker(self.engine)
        self.pit = pitstop.init(store_of(url) | options)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.pit.close()
        self.engine.dispose()

    def place(self, number: int, amount: int, remind_after: timedelta) -> None:
        """Store an order and its reminder, or neither.

        :raises Refused: if the amount is negative.
        :raises sqlalchemy.exc.IntegrityError: if there is such an order.
        """
        with self.session.begin() as session:
            session.add(Order(number=number, amount=amount))
            self.pit.store({"id": f"order-{number}", "order": number}, remind_after, session=session)
            if amount < 0:
                # Found out in the midst of the transaction, as rules of a business often are.
                raise Refused("The amount is negative.")

    def cancel(self, number: int) -> bool:
        """Remove an order and its reminder. Return whether there was one."""
        with self.session.begin() as session:
            self.pit.remove(f"order-{number}", session=session)
            removed = session.execute(delete(Order).where(Order.number == number).returning(Order.number))
            return removed.first() is not None

    def remind(self, delivery: pitstop.Delivery) -> None:
        """Mark the order, and acknowledge the message."""
        with self.session.begin() as session:
            number = delivery.msg["order"]
            session.execute(update(Order).where(Order.number == number).values(reminded=Order.reminded + 1))
            delivery.ack(session=session)


def main(command: str = "", *arguments: str) -> None:
    """Run a command: migrate, place, cancel or remind."""
    with Shop(given_url()) as shop:
        if command == "migrate":
            # A project of more than one table uses Alembic, and `pitstop migrate --print` for the tables of the messages.
            Base.metadata.create_all(shop.engine)
            with pitstop.init(store_of(given_url()) | {"create": True}) as pit:
                pit.stats()
        elif command == "place":
            number, amount, seconds = map(int, arguments)
            shop.place(number, amount, timedelta(seconds=seconds))
        elif command == "cancel":
            shop.cancel(int(arguments[0]))
        elif command == "remind":
            print(shop.pit.consume(shop.remind, workers=4, until_idle="--until-idle" in arguments))
        else:
            raise SystemExit(
                f"usage: {sys.argv[0]} migrate | place NUMBER AMOUNT SECONDS | cancel NUMBER | remind [--until-idle]"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
