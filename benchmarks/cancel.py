"""Cancel the messages of one customer, by a prefix of their ids, among many others: time, and what the store examines.

Run it by hand: ``python benchmarks/cancel.py [sqlite|mongo] [messages] [of the customer]``. docs/performance.md has its figures.

The CPU time is that of this process. On SQLite this is all of the work, on MongoDB the client's part. SQLite counts the steps of
its virtual machine, and MongoDB's profiler the keys and documents that it examines. The same is done with ``remove``, one message
after the other, for the ids that the search has found.
"""

from __future__ import annotations

import sys
import tempfile
import time

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pymongo

import pitstop

from pitstop._pitstop import session_of


sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import mongod


#: SQLite calls the handler after this number of steps.
STEPS = 100
CUSTOMER = "customer-0042:"
BATCH = 5000


def fill(pit: pitstop.Pitstop, count: int, wanted: int) -> None:
    """Store the messages of many customers. Those of the one are spread over the time of all."""
    every = max(count // wanted, 1)
    begin = time.monotonic()
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        pit.store_many(
            [
                (
                    {"id": f"{CUSTOMER if n % every == 0 else f'customer-{n % 1000 + 1000}:'}{n:07}"},
                    timedelta(hours=1, seconds=n),
                )
                for n in numbers
            ]
        )
    print(f"  stored {count:,} in {time.monotonic() - begin:.0f} s", file=sys.stderr)


def measure(what: str, task: Callable[[], int], examined: Callable[[], str]) -> None:
    examined()
    wall, cpu = time.monotonic(), time.process_time()
    count = task()
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    print(f"  {what}: {count:,} messages, {wall:.2f} s, CPU {cpu:.2f} s, {examined()}")


@contextmanager
def sqlite() -> Iterator[tuple[dict[str, Any], Callable[[pitstop.Pitstop], Callable[[], str]]]]:
    with tempfile.TemporaryDirectory() as folder:

        def watch(pit: pitstop.Pitstop) -> Callable[[], str]:
            steps = 0

            def count() -> None:
                nonlocal steps
                steps += STEPS

            backend: Any = session_of(pit).backend
            with backend._database.lock, backend._database as connection:
                connection.set_progress_handler(count, STEPS)

            def examined() -> str:
                nonlocal steps
                found, steps = steps, 0
                return f"{found:,} steps of the virtual machine"

            return examined

        yield {"type": "sqlite", "path": f"{folder}/cancel.db"}, watch


@contextmanager
def mongo() -> Iterator[tuple[dict[str, Any], Callable[[pitstop.Pitstop], Callable[[], str]]]]:
    with mongod.standalone() as uri, pymongo.MongoClient(uri) as client:
        database = client["cancel"]

        def watch(_: pitstop.Pitstop) -> Callable[[], str]:
            def examined() -> str:
                database.command("profile", 0)
                entries = list(database["system.profile"].find({"ns": "cancel.messages"}))
                database["system.profile"].drop()
                # Large enough for one entry of each of 10,000 commands.
                database.create_collection("system.profile", capped=True, size=256 * 1024 * 1024)
                database.command("profile", 2)
                keys = sum(each.get("keysExamined", 0) for each in entries)
                documents = sum(each.get("docsExamined", 0) for each in entries)
                return f"{len(entries):,} commands, {keys:,} keys and {documents:,} documents examined"

            return examined

        yield {"type": "mongo", "uri": uri, "dbname": "cancel", "coll": "messages"}, watch


def main(place: str = "sqlite", count: str = "1000000", wanted: str = "5000") -> None:
    with {"sqlite": sqlite, "mongo": mongo}[place]() as (config, watch), pitstop.init(config) as pit:
        print(f"{place}: {int(wanted):,} of {int(count):,}")
        fill(pit, int(count), int(wanted))
        examined = watch(pit)
        ids = [each.id for each in pit.entries(prefix=CUSTOMER, limit=int(wanted))]
        half = len(ids) // 2
        measure("search, 5 pages of 100", lambda: pages(pit, 5), examined)
        measure("remove, one by one", lambda: sum(map(pit.remove, ids[:half])), examined)
        pit.store_many([({"id": id}, "1h") for id in ids[:half]])
        measure("remove_many(prefix=)", lambda: pit.remove_many(prefix=CUSTOMER), examined)


def pages(pit: pitstop.Pitstop, number: int) -> int:
    count, last = 0, None
    for _ in range(number):
        page = pit.entries(prefix=CUSTOMER, limit=100, after=last)
        count, last = count + len(page), page[-1]
    return count


if __name__ == "__main__":
    main(*sys.argv[1:])
