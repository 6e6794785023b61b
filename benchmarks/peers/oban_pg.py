"""Oban for Python on PostgreSQL: one queue with many jobs at once, and frequent looks. A finished job stays in the table."""

from __future__ import annotations

import asyncio
import logging
import time

from datetime import UTC, datetime

from common import Seen, alone, drained_by, dues, per_second, report, task, tell, wait_for_go
from oban import Job, Oban, worker
from oban.schema import install_sql
from psycopg_pool import AsyncConnectionPool


logging.disable()
TASK = task()
LIMIT = 100
#: Seconds between two searches for scheduled jobs.
STAGER = 0.1
#: Messages of one call, as many as Pitstop gets.
STORED = 1000
seen = Seen()


@worker(queue="default")
class Handle:
    async def process(self, job: Job) -> None:
        seen.one(job.args.get("due"))


def server(pool: AsyncConnectionPool) -> Oban:
    return Oban(pool=pool, queues={"default": LIMIT}, stager={"interval": STAGER})


async def store_many(oban: Oban, count: int) -> None:
    for first in range(0, count, STORED):
        await oban.enqueue_many([Handle.new(TASK["body"]) for _ in range(min(STORED, count - first))])


async def consume() -> None:
    """Be one of several consumers."""
    pool = await Oban.create_pool(TASK["uri"])
    wait_for_go()
    async with server(pool):
        await asyncio.to_thread(report, seen)
    await pool.close()


async def main() -> None:
    pool = await Oban.create_pool(TASK["uri"])
    async with pool.connection() as connection:
        await connection.execute(install_sql())
    client = Oban(pool=pool, name="client")
    begin = time.perf_counter()
    for _ in range(TASK["store"]):
        await client.enqueue(Handle.new(TASK["body"]))
    stored = per_second(TASK["store"], begin)
    begin = time.perf_counter()
    await store_many(client, TASK["drain"])
    stored_many = per_second(TASK["drain"], begin)
    seen.start(TASK["store"] + TASK["drain"])
    async with server(pool):
        await asyncio.to_thread(seen.wait)
        drained = seen.rate

    await store_many(client, TASK["drain"])
    drained_by_four = await asyncio.to_thread(drained_by, 4, TASK["drain"])

    async with server(pool):
        seen.start(len(TASK["gaps"]))
        for due in dues(TASK["gaps"]):
            await client.enqueue(Handle.new(TASK["body"] | {"due": due}, scheduled_at=datetime.fromtimestamp(due, UTC)))
        await asyncio.to_thread(seen.wait)
    await pool.close()
    config = (
        f"PostgreSQL with synchronous_commit=on; one queue, limit={LIMIT}, stager interval={STAGER} s; a finished job stays in "
        f"the table; {STORED} messages per call of store_many"
    )
    rates = {"store": stored, "store_many": stored_many, "drain": drained, "drain4": drained_by_four}
    tell("oban", config, **rates, late=seen.late)


asyncio.run(main() if alone() else consume())
