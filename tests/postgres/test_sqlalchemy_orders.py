"""The example of an application with SQLAlchemy, in threads and in an event loop, under concurrent orders."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from servers import postgres


sqlalchemy = pytest.importorskip("sqlalchemy")
FOLDER = Path(__file__).parents[2] / "examples" / "sqlalchemy-orders"
ORDERS = 60
NOW = timedelta(0)


@pytest.fixture(scope="module")
def modules():
    """The two programs. They are found beside each other, as if one of them was started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield [importlib.import_module(name) for name in ("orders", "orders_async")]
        for name in ("orders", "orders_async"):
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def url(postgres_uri):
    with postgres.database(postgres_uri) as uri:
        given = psycopg.conninfo.conninfo_to_dict(uri)
        url = sqlalchemy.URL.create(
            "postgresql+psycopg",
            given["user"],
            given.get("password"),
            given["host"],
            int(given["port"]),
            given["dbname"],
        )
        run(url, "orders.py", "migrate")
        yield url


@pytest.fixture
def sql(url):
    with psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
    ) as connection:
        connection.execute("DELETE FROM orders")
        connection.execute("DELETE FROM pitstop_messages")
        yield connection


def run(url, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=FOLDER,
        env={**os.environ, "ORDERS_URL": url.render_as_string(hide_password=False), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers():
    """Return the orders as they come in: half of them twice."""
    return [*range(ORDERS), *range(ORDERS // 2)]


def amount(number):
    return -1 if number % 5 == 0 else 1


def assert_what_is_left(told, gone, sql):
    again = ORDERS // 2
    assert told == {"Refused": again // 5 + ORDERS // 5, "IntegrityError": again * 4 // 5, None: ORDERS * 4 // 5}
    assert gone == {True: ORDERS // 5, False: 1}
    kept = {n for n in range(ORDERS) if n % 5 > 1}
    assert {n for (n,) in sql.execute("SELECT number FROM orders")} == kept
    assert {id for (id,) in sql.execute("SELECT id FROM pitstop_messages")} == {f"order-{n}" for n in kept}


def assert_reminded_once(sql):
    assert sql.execute("SELECT DISTINCT reminded FROM orders").fetchall() == [(1,)]
    assert sql.execute("SELECT count(*) FROM pitstop_messages").fetchone() == (0,)


def test_orders_and_reminders_go_together_in_threads(modules, url, sql):
    (orders, _) = modules
    with orders.Shop(url) as shop:

        def place(number):
            try:
                shop.place(number, amount(number), NOW)
            except (orders.Refused, sqlalchemy.exc.IntegrityError) as error:
                return type(error).__name__
            return None

        with ThreadPoolExecutor(8) as pool:
            told = Counter(pool.map(place, numbers()))
            gone = Counter(pool.map(shop.cancel, [*range(1, ORDERS, 5), ORDERS]))
    assert_what_is_left(told, gone, sql)
    run(url, "orders.py", "remind", "--until-idle")
    assert_reminded_once(sql)


def test_orders_and_reminders_go_together_in_an_event_loop(modules, url, sql):
    orders, orders_async = modules

    async def main():
        async with orders_async.AsyncShop(url) as shop:

            async def place(number):
                try:
                    await shop.place(number, amount(number), NOW)
                except (orders.Refused, sqlalchemy.exc.IntegrityError) as error:
                    return type(error).__name__
                return None

            told = Counter(await asyncio.gather(*map(place, numbers())))
            gone = Counter(await asyncio.gather(*map(shop.cancel, [*range(1, ORDERS, 5), ORDERS])))
        return told, gone

    assert_what_is_left(*asyncio.run(main()), sql)
    run(url, "orders_async.py", "--until-idle")
    assert_reminded_once(sql)


def test_the_commands_of_the_example(url, sql):
    run(url, "orders.py", "place", "7", "100", "0")
    run(url, "orders.py", "place", "8", "100", "3600")
    run(url, "orders.py", "cancel", "8")
    assert run(url, "orders.py", "remind", "--until-idle") == "1 acked, 0 nacked; ended because nothing was due.\n"
    assert sql.execute("SELECT number, reminded FROM orders").fetchall() == [(7, 1)]
