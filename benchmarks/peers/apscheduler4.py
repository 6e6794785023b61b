"""APScheduler 4 (a pre-release) with its MongoDB data store: jobs added at once, run by its own worker."""

from __future__ import annotations

import asyncio
import logging
import time

from datetime import UTC, datetime

from apscheduler import AsyncScheduler
from apscheduler.datastores.mongodb import MongoDBDataStore
from apscheduler.triggers.date import DateTrigger
from common import Seen, dues, per_second, task, tell
from pymongo import MongoClient


logging.disable()
TASK = task()
seen = Seen()


async def handle(_body: dict[str, object], due: float | None = None) -> None:
    seen.one(due)


async def main() -> None:
    client = MongoClient(TASK["uri"], w="majority", journal=True)
    store = MongoDBDataStore(client, database=TASK["dbname"])
    # One job at a time was the fastest of 1, 3, 10, 100 and 1000. After each job, it looks at all the others.
    async with AsyncScheduler(store, max_concurrent_jobs=1) as scheduler:
        begin = time.perf_counter()
        for _ in range(TASK["store"]):
            await scheduler.add_job(handle, args=(TASK["body"],))
        stored = per_second(TASK["store"], begin)
        for _ in range(TASK["drain"] - TASK["store"]):
            await scheduler.add_job(handle, args=(TASK["body"],))
        seen.start(max(TASK["store"], TASK["drain"]))
        await scheduler.start_in_background()
        await asyncio.to_thread(seen.wait)
        drained = seen.rate
        seen.start(len(TASK["gaps"]))
        for due in dues(TASK["gaps"]):
            trigger = DateTrigger(datetime.fromtimestamp(due, UTC))
            await scheduler.add_schedule(handle, trigger, args=(TASK["body"], due))
        await asyncio.to_thread(seen.wait)
        config = (
            "AsyncScheduler(max_concurrent_jobs=1), MongoDBDataStore with w=majority and journal=True; "
            "slower with 3, 10, 100 (its default) and 1000 concurrent jobs"
        )
        tell("apscheduler", config, store=stored, drain=drained, late=seen.late)
        await scheduler.stop()


if __name__ == "__main__":
    # A job is stored with the name of its function, which has to be importable.
    import apscheduler4

    seen = apscheduler4.seen
    asyncio.run(apscheduler4.main())
