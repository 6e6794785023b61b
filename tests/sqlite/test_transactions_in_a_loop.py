"""Calls of an AsyncPitstop in a transaction of the application, while other calls wait for its end."""

from __future__ import annotations

import asyncio
import sqlite3

from contextlib import closing
from datetime import timedelta

import pitstop

from pitstop.testing import ManualClock


NOW = timedelta(0)
HOUR = timedelta(hours=1)


def test_an_ack_in_the_transaction_does_not_wait_for_stores_that_wait_for_its_end(tmp_path):
    path = str(tmp_path / "shop.db")

    async def main():
        where = {"type": "sqlite", "path": path, "busy_timeout": "20s"}
        async with pitstop.init_async(where) as pit, pit.listen() as listener:
            await pit.store({"id": "a"}, NOW)
            delivery = await listener.get()
            with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                # More than the pool has threads.
                stores = [asyncio.create_task(pit.store({"id": f"b{n}"}, HOUR)) for n in range(12)]
                await asyncio.sleep(0)
                await delivery.ack(session=connection)
                await pit.store({"id": "c"}, HOUR, session=connection)
                assert not any(each.done() for each in stores)
                connection.execute("COMMIT")
                await asyncio.gather(*stores)
            assert len(await pit.entries()) == 13

    asyncio.run(main())


def test_a_committed_ack_is_not_lost_when_the_lease_runs_out(tmp_path):
    path = str(tmp_path / "shop.db")

    async def main():
        clock = ManualClock()
        async with pitstop.init_async({"type": "sqlite", "path": path, "clock": clock}) as pit:
            await pit.store({"id": "a"}, NOW)
            async with pit.listen() as listener, await listener.get() as delivery:
                with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    await delivery.ack(session=connection)
                    connection.execute("COMMIT")
                clock.advance(3600)
                assert not delivery.lost
            assert await pit.entries() == []

    asyncio.run(main())
