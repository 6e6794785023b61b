"""PgQueuer on PostgreSQL: its queue manager with large batches, over one asyncpg connection."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from datetime import timedelta

import asyncpg

from common import Seen, alone, drained_by, dues, per_second, report, task, tell, wait_for_go
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries


logging.disable()
TASK = task()
BATCH = 100
#: Messages of one call, as many as Pitstop gets.
STORED = 1000
seen = Seen()


async def queue_manager() -> PgQueuer:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(TASK["uri"])))

    @queuer.entrypoint("handle")
    async def handle(job: Job) -> None:
        assert job.payload is not None
        seen.one(json.loads(job.payload).get("due"))

    return queuer


def run(queuer: PgQueuer) -> asyncio.Task[None]:
    return asyncio.create_task(queuer.qm.run(dequeue_timeout=timedelta(seconds=0.1), batch_size=BATCH))


async def store_many(queries: Queries, count: int) -> None:
    for first in range(0, count, STORED):
        some = min(STORED, count - first)
        await queries.enqueue(["handle"] * some, [json.dumps(TASK["body"]).encode() for _ in range(some)], [0] * some)


async def end(worker: asyncio.Task[None]) -> None:
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def consume() -> None:
    """Be one of several consumers."""
    queuer = await queue_manager()
    wait_for_go()
    worker = run(queuer)
    await asyncio.to_thread(report, seen)
    await end(worker)


async def main() -> None:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(TASK["uri"])))
    await queries.install()
    begin = time.perf_counter()
    for _ in range(TASK["store"]):
        await queries.enqueue("handle", json.dumps(TASK["body"]).encode())
    stored = per_second(TASK["store"], begin)
    begin = time.perf_counter()
    await store_many(queries, TASK["drain"])
    stored_many = per_second(TASK["drain"], begin)
    seen.start(TASK["store"] + TASK["drain"])
    worker = run(await queue_manager())
    await asyncio.to_thread(seen.wait)
    drained = seen.rate
    await end(worker)

    await store_many(queries, TASK["drain"])
    drained_by_four = await asyncio.to_thread(drained_by, 4, TASK["drain"])

    worker = run(await queue_manager())
    seen.start(len(TASK["gaps"]))
    for due in dues(TASK["gaps"]):
        payload = json.dumps(TASK["body"] | {"due": due}).encode()
        await queries.enqueue("handle", payload, execute_after=timedelta(seconds=due - time.time()))
    await asyncio.to_thread(seen.wait)
    config = (
        f"PostgreSQL with synchronous_commit=on; asyncpg, one queue manager, batch_size={BATCH}, dequeue_timeout=0.1 s; "
        f"{STORED} messages per call of store_many"
    )
    rates = {"store": stored, "store_many": stored_many, "drain": drained, "drain4": drained_by_four}
    tell("pgqueuer", config, **rates, late=seen.late)
    await end(worker)


asyncio.run(main() if alone() else consume())
