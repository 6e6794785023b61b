"""Procrastinate on PostgreSQL: an async worker with much concurrency, finished jobs deleted."""

from __future__ import annotations

import asyncio
import logging
import time

from datetime import UTC, datetime

from common import Seen, alone, drained_by, dues, per_second, report, task, tell, wait_for_go
from procrastinate import App, PsycopgConnector


logging.disable()
TASK = task()
#: Messages of one call, as many as Pitstop gets.
STORED = 1000
seen = Seen()
app = App(connector=PsycopgConnector(conninfo=TASK["uri"], min_size=4, max_size=20))


@app.task(name="handle")
async def handle(body: dict[str, object], due: float | None = None) -> None:  # noqa: ARG001 - a job's arguments have names
    seen.one(due)


def run() -> asyncio.Task[None]:
    options = {"concurrency": 20, "delete_jobs": "always", "install_signal_handlers": False}
    return asyncio.create_task(
        app.run_worker_async(wait=True, fetch_job_polling_interval=0.1, listen_notify=True, **options)
    )


async def store_many(count: int) -> None:
    for first in range(0, count, STORED):
        await handle.batch_defer_async(*[{"body": TASK["body"]}] * min(STORED, count - first))


async def end(worker: asyncio.Task[None]) -> None:
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def consume() -> None:
    """Be one of several consumers."""
    async with app.open_async():
        wait_for_go()
        worker = run()
        await asyncio.to_thread(report, seen)
        await end(worker)


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        begin = time.perf_counter()
        for _ in range(TASK["store"]):
            await handle.defer_async(body=TASK["body"])
        stored = per_second(TASK["store"], begin)
        begin = time.perf_counter()
        await store_many(TASK["drain"])
        stored_many = per_second(TASK["drain"], begin)
        seen.start(TASK["store"] + TASK["drain"])
        worker = run()
        await asyncio.to_thread(seen.wait)
        drained = seen.rate
        await end(worker)

        await store_many(TASK["drain"])
        drained_by_four = await asyncio.to_thread(drained_by, 4, TASK["drain"])

        worker = run()
        seen.start(len(TASK["gaps"]))
        for due in dues(TASK["gaps"]):
            later = handle.configure(schedule_at=datetime.fromtimestamp(due, UTC))
            await later.defer_async(body=TASK["body"], due=due)
        await asyncio.to_thread(seen.wait)
        config = (
            "PostgreSQL with synchronous_commit=on; PsycopgConnector, one worker, concurrency=20, delete_jobs=always, "
            f"listen_notify, fetch_job_polling_interval=0.1; {STORED} messages per call of store_many"
        )
        rates = {"store": stored, "store_many": stored_many, "drain": drained, "drain4": drained_by_four}
        tell("procrastinate", config, **rates, late=seen.late)
        await end(worker)


asyncio.run(main() if alone() else consume())
