"""Celery on Redis: a worker with one thread pool in this process, results off, acknowledged when done, messages with an eta."""

from __future__ import annotations

import logging
import threading
import time

from datetime import UTC, datetime

from celery import Celery
from celery.contrib.testing.worker import start_worker
from common import Seen, dues, per_second, task, tell


logging.disable()
TASK = task()
seen = Seen()
app = Celery("bench", broker=TASK["uri"])
app.conf.update(
    task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=0, broker_connection_retry_on_startup=True
)


@app.task(name="handle")
def handle(_body: dict[str, object], due: float | None = None) -> None:
    seen.one(due)


begin = time.perf_counter()
for _ in range(TASK["store"]):
    handle.delay(TASK["body"])
stored = per_second(TASK["store"], begin)
for _ in range(TASK["drain"] - TASK["store"]):
    handle.delay(TASK["body"])
seen.start(max(TASK["store"], TASK["drain"]))
with start_worker(app, pool="threads", concurrency=4, perform_ping_check=False, loglevel="CRITICAL"):
    seen.wait()
    drained = seen.rate
    seen.start(len(TASK["gaps"]))
    for due in dues(TASK["gaps"]):
        handle.apply_async((TASK["body"], due), eta=datetime.fromtimestamp(due, UTC))
    seen.wait()
    config = (
        "Redis with appendonly=yes and appendfsync=always; one worker, pool=threads, concurrency=4, acks_late, "
        "ignore_result, prefetch unlimited"
    )
    tell("celery", config, store=stored, drain=drained, late=seen.late)
    # The pool may take long to end, and nothing is left to lose.
    threading.Timer(5, lambda: __import__("os")._exit(0)).start()
