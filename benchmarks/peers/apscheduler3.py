"""APScheduler 3 with its MongoDB job store: jobs of a past date, run by ten threads. A job is deleted before it runs."""

from __future__ import annotations

import logging
import time

from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.mongodb import MongoDBJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from common import Seen, dues, per_second, task, tell
from pymongo import MongoClient


logging.disable()
TASK = task()
seen = Seen()


def handle(_body: dict[str, object], due: float | None = None) -> None:
    seen.one(due)


def main() -> None:
    # Its own default, or as durable as the others.
    concern = {"w": 1} if "w=1" in TASK["name"] else {"w": "majority", "journal": True}
    client = MongoClient(TASK["uri"], **concern)
    scheduler = BackgroundScheduler(
        jobstores={"default": MongoDBJobStore(database=TASK["dbname"], client=client)},
        executors={"default": ThreadPoolExecutor(10)},
        # Without these it drops jobs that it reaches a second late.
        job_defaults={"misfire_grace_time": None, "max_instances": 1_000_000},
        timezone=UTC,
    )
    scheduler.start(paused=True)
    past = datetime.now(UTC)
    begin = time.perf_counter()
    for _ in range(TASK["store"]):
        scheduler.add_job(handle, "date", run_date=past, args=(TASK["body"],))
    stored = per_second(TASK["store"], begin)
    for _ in range(TASK["drain"] - TASK["store"]):
        scheduler.add_job(handle, "date", run_date=past, args=(TASK["body"],))
    seen.start(max(TASK["store"], TASK["drain"]))
    scheduler.resume()
    seen.wait()
    drained = seen.rate
    late: list[float] = []
    if TASK["gaps"]:
        seen.start(len(TASK["gaps"]))
        for due in dues(TASK["gaps"]):
            scheduler.add_job(handle, "date", run_date=datetime.fromtimestamp(due, UTC), args=(TASK["body"], due))
        seen.wait()
        late = seen.late
    config = (
        f"BackgroundScheduler, MongoDBJobStore with {concern}, ThreadPoolExecutor(10), "
        "misfire_grace_time=None; a job is deleted before it runs"
    )
    tell("apscheduler", config, store=stored, drain=drained, late=late)
    scheduler.shutdown()


if __name__ == "__main__":
    # A job is stored with the name of its function, which has to be importable.
    import apscheduler3

    seen = apscheduler3.seen
    apscheduler3.main()
