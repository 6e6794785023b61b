"""PgQueuer on PostgreSQL: its queue manager with large batches, over one asyncpg connection."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from datetime import timedelta

import asyncpg

from common import Seen, dues, per_second, task, tell
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries


logging.disable()
TASK = task()
BATCH = 100
seen = Seen()


async def main() -> None:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(TASK["uri"])))
    await queries.install()
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(TASK["uri"])))

    @queuer.entrypoint("handle")
    async def handle(job: Job) -> None:
        assert job.payload is not None
        seen.one(json.loads(job.payload).get("due"))

    begin = time.perf_counter()
    for _ in range(TASK["store"]):
        await queries.enqueue("handle", json.dumps(TASK["body"]).encode())
    stored = per_second(TASK["store"], begin)
    rest = TASK["drain"] - TASK["store"]
    if rest > 0:
        await queries.enqueue(["handle"] * rest, [json.dumps(TASK["body"]).encode()] * rest, [0] * rest)
    seen.start(max(TASK["store"], TASK["drain"]))
    worker = asyncio.create_task(queuer.qm.run(dequeue_timeout=timedelta(seconds=0.1), batch_size=BATCH))
    await asyncio.to_thread(seen.wait)
    drained = seen.rate
    seen.start(len(TASK["gaps"]))
    for due in dues(TASK["gaps"]):
        payload = json.dumps(TASK["body"] | {"due": due}).encode()
        await queries.enqueue("handle", payload, execute_after=timedelta(seconds=due - time.time()))
    await asyncio.to_thread(seen.wait)
    config = (
        f"PostgreSQL with synchronous_commit=on; asyncpg, one queue manager, batch_size={BATCH}, dequeue_timeout=0.1 s"
    )
    tell("pgqueuer", config, store=stored, drain=drained, late=seen.late)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


asyncio.run(main())
