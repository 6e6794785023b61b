"""Messages per second: store, store_many and drain on each backend, beside the raw driver doing the same, in one run.

Rates depend on the machine and on what else it does; the ratios are what to compare. Each figure is the median of
`--rounds` rounds, in which raw and Pitstop take turns.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pymongo

import pitstop


sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import mongod


BATCH = 1000
CLAIM = 100
BODY = {"to": "ada@example.com", "text": "welcome", "count": 3}
NOW = timedelta(0)

#: What was measured: a name, and a function that does it for so many messages.
Case = tuple[str, Callable[[int], None]]


def pitstop_cases(pit: pitstop.Pitstop) -> Iterator[Case]:
    def store(count: int) -> None:
        for _ in range(count):
            pit.store(BODY, NOW)

    def store_many(count: int) -> None:
        for _ in range(count // BATCH):
            pit.store_many([(BODY, NOW)] * BATCH)

    def drain(prefetch: int) -> Callable[[int], None]:
        def run(count: int) -> None:
            with pit.listen(prefetch=prefetch) as listener:
                for _ in range(count):
                    delivery = listener.get()
                    assert delivery is not None
                    delivery.ack()

        return run

    yield "store", store
    yield "store_many(1000)", store_many
    yield "drain, prefetch=1", drain(1)
    yield f"drain, prefetch={CLAIM}", drain(CLAIM)


def cases(
    store: Callable[[int], None],
    store_many: Callable[[int], None],
    claim: Callable[[int], list[str]],
    delete: Callable[[str], object],
) -> Iterator[Case]:
    """The cases of a raw driver, of its four operations."""

    def drain(limit: int) -> Callable[[int], None]:
        def run(count: int) -> None:
            done = 0
            while done < count:
                for identifier in claim(limit):
                    delete(identifier)
                    done += 1

        return run

    yield "store", store
    yield "store_many(1000)", store_many
    yield "drain, prefetch=1", drain(1)
    yield f"drain, prefetch={CLAIM}", drain(CLAIM)


def raw_memory() -> Iterator[Case]:
    heap: list[tuple[float, int, str]] = []
    messages: dict[str, dict[str, object]] = {}
    order = itertools.count()

    def store(count: int) -> None:
        for _ in range(count):
            identifier = str(uuid.uuid4())
            messages[identifier] = dict(BODY)
            heapq.heappush(heap, (time.time(), next(order), identifier))

    def claim(limit: int) -> list[str]:
        now = time.time()
        claimed = []
        while heap and len(claimed) < limit and heap[0][0] <= now:
            _, number, identifier = heapq.heappop(heap)
            heapq.heappush(heap, (now + 900, number, identifier))
            claimed.append(identifier)
        return claimed

    def delete(identifier: str) -> None:
        del messages[identifier]

    return cases(store, store, claim, delete)


def raw_sqlite(path: Path) -> Iterator[Case]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(
        "CREATE TABLE m (id TEXT UNIQUE, msg TEXT, due INTEGER, token TEXT, attempts INTEGER DEFAULT 0) STRICT"
    )
    connection.execute("CREATE INDEX due ON m (due)")
    insert = "INSERT INTO m (id, msg, due) VALUES (?, ?, ?)"

    def row() -> tuple[str, str, int]:
        return str(uuid.uuid4()), json.dumps(BODY), time.time_ns() // 1_000_000

    def store(count: int) -> None:
        for _ in range(count):
            connection.execute(insert, row())

    def store_many(count: int) -> None:
        for _ in range(count // BATCH):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, [row() for _ in range(BATCH)])
            connection.execute("COMMIT")

    def claim(limit: int) -> list[str]:
        now = time.time_ns() // 1_000_000
        rows = connection.execute(
            "UPDATE m SET due = ?, token = ?, attempts = attempts + 1 WHERE rowid IN "
            "(SELECT rowid FROM m WHERE due <= ? ORDER BY due LIMIT ?) RETURNING id, msg",
            (now + 900_000, uuid.uuid4().hex, now, limit),
        ).fetchall()
        return [identifier for identifier, text in rows if json.loads(text)]

    def delete(identifier: str) -> None:
        connection.execute("DELETE FROM m WHERE id = ?", (identifier,))

    return cases(store, store_many, claim, delete)


def raw_mongo(uri: str, dbname: str) -> Iterator[Case]:
    concern = pymongo.WriteConcern("majority", wtimeout=10_000, j=True)
    collection = pymongo.MongoClient(uri)[dbname].get_collection("raw", write_concern=concern)
    collection.create_index("due")

    def document() -> dict[str, object]:
        return {"_id": str(uuid.uuid4()), "msg": dict(BODY), "due": datetime.now(UTC), "attempts": 0}

    def store(count: int) -> None:
        for _ in range(count):
            collection.insert_one(document())

    def store_many(count: int) -> None:
        for _ in range(count // BATCH):
            collection.insert_many([document() for _ in range(BATCH)], ordered=False)

    def claim(limit: int) -> list[str]:
        now, token = datetime.now(UTC), uuid.uuid4().hex
        change = {"$set": {"due": now + timedelta(minutes=15), "token": token}, "$inc": {"attempts": 1}}
        if limit == 1:
            found = collection.find_one_and_update({"due": {"$lte": now}}, change, sort=[("due", 1)])
            return [found["_id"]] if found else []
        ids = [each["_id"] for each in collection.find({"due": {"$lte": now}}).sort("due", 1).limit(limit)]
        collection.update_many({"_id": {"$in": ids}, "due": {"$lte": now}}, change, hint={"_id": 1})
        return ids

    def delete(identifier: str) -> None:
        collection.delete_one({"_id": identifier})

    return cases(store, store_many, claim, delete)


def measure(raw: Iterator[Case], ours: Iterator[Case], count: int, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Per case, the median rates of raw and Pitstop. What a round stores, the drains take out again."""
    raw_cases, our_cases = dict(raw), dict(ours)
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name in raw_cases:
            for who, cases in (("raw", raw_cases), ("ours", our_cases)):
                rates.setdefault((name, who), []).append(count / timed(cases[name], count))
    for name in raw_cases:
        yield name, statistics.median(rates[name, "raw"]), statistics.median(rates[name, "ours"])


def timed(function: Callable[[int], None], count: int) -> float:
    begin = time.perf_counter()
    function(count)
    return time.perf_counter() - begin


@contextmanager
def mongo() -> Iterator[str]:
    given = mongod.given_uri()
    if given:
        yield given
    else:
        with mongod.standalone() as uri:
            yield uri


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="messages per case and round, a multiple of 1000")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.count} messages per case, median of {options.rounds} rounds; messages per second")
    print("raw: the bare driver with the same trips, the same durability and the same message\n")
    print(f"{'backend':10}{'case':24}{'raw':>12}{'pitstop':>12}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder, mongo() as uri:
        dbname = f"pitstop_bench_{uuid.uuid4().hex}"
        backends = {
            "memory": (raw_memory(), "memory://"),
            "sqlite": (raw_sqlite(Path(folder) / "raw.db"), {"type": "sqlite", "path": f"{folder}/ours.db"}),
            "mongo": (raw_mongo(uri, dbname), {"type": "mongo", "uri": uri, "dbname": dbname}),
        }
        try:
            for name, (raw, config) in backends.items():
                with pitstop.init(config) as pit:
                    for case, theirs, ours in measure(raw, pitstop_cases(pit), options.count, options.rounds):
                        print(f"{name:10}{case:24}{theirs:12,.0f}{ours:12,.0f}{ours / theirs:8.2f}", flush=True)
        finally:
            pymongo.MongoClient(uri).drop_database(dbname)


if __name__ == "__main__":
    main()
