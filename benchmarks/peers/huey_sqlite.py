"""huey on SQLite: its consumer with one worker thread and the shortest delays, results off.

The drained tasks are in the queue and not in the schedule, which is faster. A task is deleted before it runs.
"""

from __future__ import annotations

import logging
import threading
import time

from datetime import UTC, datetime

from common import Seen, dues, per_second, task, tell
from huey import SqliteHuey


logging.disable()
TASK = task()
DURABLE = "fsync" in TASK["name"]
seen = Seen()
huey = SqliteHuey(filename=f"{TASK['folder']}/huey.db", results=False, fsync=DURABLE)


@huey.task()
def handle(_body: dict[str, object], due: float | None = None) -> None:
    seen.one(due)


begin = time.perf_counter()
for _ in range(TASK["store"]):
    handle(TASK["body"])
stored = per_second(TASK["store"], begin)
for _ in range(TASK["drain"] - TASK["store"]):
    handle(TASK["body"])
consumer = huey.create_consumer(
    workers=1, worker_type="thread", initial_delay=0.001, max_delay=0.01, scheduler_interval=1, periodic=False
)
seen.start(max(TASK["store"], TASK["drain"]))
# The usual start of huey needs its own process.
consumer.start()
seen.wait()
drained = seen.rate
late: list[float] = []
if TASK["gaps"]:
    seen.start(len(TASK["gaps"]))
    for due in dues(TASK["gaps"]):
        handle.schedule((TASK["body"], due), eta=datetime.fromtimestamp(due, UTC))
    seen.wait()
    late = seen.late
config = (
    f"SqliteHuey(fsync={DURABLE}, results=False), WAL; one worker thread, initial_delay=0.001, max_delay=0.01, "
    "scheduler_interval=1 (the least); the drain is of queued tasks, deleted before they run"
)
tell("huey", config, store=stored, drain=drained, late=late)
threading.Thread(target=consumer.stop, daemon=True).start()
