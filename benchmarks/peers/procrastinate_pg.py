"""Procrastinate on PostgreSQL: an async worker with much concurrency, finished jobs deleted."""

from __future__ import annotations

import asyncio
import logging
import time

from datetime import UTC, datetime

from common import Seen, dues, per_second, task, tell
from procrastinate import App, PsycopgConnector


logging.disable()
TASK = task()
seen = Seen()
app = App(connector=PsycopgConnector(conninfo=TASK["uri"], min_size=4, max_size=20))


@app.task(name="handle")
async def handle(body: dict[str, object], due: float | None = None) -> None:  # noqa: ARG001 - a job's arguments have names
    seen.one(due)


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        begin = time.perf_counter()
        for _ in range(TASK["store"]):
            await handle.defer_async(body=TASK["body"])
        stored = per_second(TASK["store"], begin)
        if TASK["drain"] > TASK["store"]:
            await handle.batch_defer_async(*[{"body": TASK["body"]}] * (TASK["drain"] - TASK["store"]))
        seen.start(max(TASK["store"], TASK["drain"]))
        options = {"concurrency": 20, "delete_jobs": "always", "install_signal_handlers": False}
        worker = asyncio.create_task(
            app.run_worker_async(wait=True, fetch_job_polling_interval=0.1, listen_notify=True, **options)
        )
        await asyncio.to_thread(seen.wait)
        drained = seen.rate
        seen.start(len(TASK["gaps"]))
        for due in dues(TASK["gaps"]):
            later = handle.configure(schedule_at=datetime.fromtimestamp(due, UTC))
            await later.defer_async(body=TASK["body"], due=due)
        await asyncio.to_thread(seen.wait)
        config = (
            "PostgreSQL with synchronous_commit=on; PsycopgConnector, one worker, concurrency=20, delete_jobs=always, "
            "listen_notify, fetch_job_polling_interval=0.1"
        )
        tell("procrastinate", config, store=stored, drain=drained, late=seen.late)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


asyncio.run(main())
