"""The subjects: Pitstop, and the bare drivers with the same round trips, the same durability and the same message.

A raw subject claims and acknowledges like Pitstop's backend (see the backends' modules), but consists only of the driver's calls: no
checks, no decisions, no listener. A backend cannot be faster.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import sqlite3
import time
import uuid

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, Protocol

import attrs
import psycopg
import pymongo

import pitstop


BODY = {"to": "ada@example.com", "text": "welcome", "count": 3}
#: Messages of one ``store_many``.
BATCH = 1000
#: Messages that the raw drivers claim at once: as many as Pitstop's listener claims at most.
CLAIM = 500
#: The delay of messages in the backlog: longer than a run takes.
FAR = timedelta(days=1)
EVERY = timedelta(days=1)
LEASE = timedelta(minutes=15)


@attrs.define
class Tally:
    """The result of one consumer: the number of messages, and the time (monotonic, which all processes of a machine share)."""

    count: int = 0
    began: float = 0.0
    #: The time of the last ack.
    last: float = 0.0


#: Called by a consumer that is ready: takes the function that stops it, and returns at the common start.
Meet = Callable[[Callable[[], None]], None]


class Subject(Protocol):
    """One store, and its operations."""

    def store(self, count: int) -> None: ...
    def store_many(self, count: int, ahead: timedelta = timedelta(0), every: timedelta | None = None) -> None: ...
    def clear(self) -> None:
        """Begin anew with nothing stored."""

    def drain(self, tally: Tally, meet: Meet) -> None:
        """Consume until stopped."""

    def claims(self, count: int) -> list[float]:
        """Return the milliseconds of each claim of one message."""

    def close(self) -> None: ...


class Ours:
    """Pitstop, used as in an application."""

    def __init__(self, config: dict[str, Any], options: dict[str, Any]) -> None:
        self._config = config
        self._options = options
        self.pit = pitstop.init(config)
        self.pit.stats()  # connects

    def store(self, count: int) -> None:
        for _ in range(count):
            self.pit.store(BODY, timedelta(0))

    def store_many(self, count: int, ahead: timedelta = timedelta(0), every: timedelta | None = None) -> None:
        if every is None:
            item: tuple[Any, ...] = (BODY, ahead)
        else:
            item = (BODY, datetime.now(UTC) - timedelta(minutes=1), None, every)
        for size in sizes(count):
            self.pit.store_many([item] * size)

    def clear(self) -> None:
        if self._config["type"] == "memory":
            self.pit.close()
            self.pit = pitstop.init(self._config)
        elif self._config["type"] == "mongo":
            with pymongo.MongoClient[Any](self._config["uri"]) as client:
                client[self._config["dbname"]]["messages"].delete_many({})
        elif self._config["type"] == "postgres":
            with psycopg.connect(self._config["uri"], autocommit=True) as connection:
                connection.execute(f"TRUNCATE {self._config['table']}")
        else:
            with closing(sqlite3.connect(self._config["path"], isolation_level=None, timeout=30)) as connection:
                connection.execute("DELETE FROM pitstop_messages")

    def drain(self, tally: Tally, meet: Meet) -> None:
        with self.pit.listen(**self._options) as listener:
            meet(listener.stop)
            tally.began = time.monotonic()
            for delivery in listener:
                delivery.ack()
                tally.count += 1
                tally.last = time.monotonic()

    def claims(self, count: int) -> list[float]:
        took = []
        with self.pit.listen() as listener:
            for _ in range(count):
                begin = time.perf_counter()
                delivery = listener.get(timeout=0)
                took.append((time.perf_counter() - begin) * 1000)
                assert delivery is not None, "less was due than was stored"
                delivery.ack()
        return took

    def lateness(self, gaps: list[float]) -> list[float]:
        """Return the milliseconds from the due time of each message until it was handed out. ``gaps`` are the seconds between them."""
        begin = datetime.now(UTC) + timedelta(seconds=0.3)
        dues = [begin + timedelta(seconds=offset) for offset in itertools.accumulate(gaps)]
        self.pit.store_many([({"due": due.timestamp()}, due) for due in dues])
        late = []
        with self.pit.listen() as listener:
            for delivery in listener:
                late.append((time.time() - delivery.scheduled_for.timestamp()) * 1000)
                delivery.ack()
                if len(late) == len(dues):
                    break
        return late

    def close(self) -> None:
        self.pit.close()


class Raw:
    """The loop around a raw driver's operations."""

    #: Messages claimed at once.
    limit = CLAIM

    def claim(self, limit: int) -> tuple[str, list[str]]:
        """Lease messages up to the limit; return the token and the ids."""
        raise NotImplementedError

    def ack(self, token: str, ids: list[str]) -> None:
        raise NotImplementedError

    def drain(self, tally: Tally, meet: Meet) -> None:
        stopped: list[bool] = []
        meet(lambda: stopped.append(True))
        tally.began = time.monotonic()
        while not stopped:
            token, ids = self.claim(self.limit)
            if not ids:
                time.sleep(0.001)
                continue
            for _ in ids:
                tally.count += 1
            self.ack(token, ids)
            tally.last = time.monotonic()

    def claims(self, count: int) -> list[float]:
        took = []
        for _ in range(count):
            begin = time.perf_counter()
            token, ids = self.claim(1)
            took.append((time.perf_counter() - begin) * 1000)
            assert ids, "less was due than was stored"
            self.ack(token, ids)
        return took

    def close(self) -> None:
        pass


@attrs.define
class _Slot:
    message: dict[str, Any]
    due: float
    every: float | None
    token: str = ""
    attempts: int = 0


class RawMemory(Raw):
    """A heap and a dict with leases, fences and copies, as a program without Pitstop would have them."""

    def __init__(self) -> None:
        self.clear()
        self._lock = Lock()

    def clear(self) -> None:
        self._heap: list[tuple[float, int, str]] = []
        self._slots: dict[str, _Slot] = {}
        self._order = itertools.count()

    def store(self, count: int) -> None:
        for _ in range(count):
            self._put(time.time(), None)

    def store_many(self, count: int, ahead: timedelta = timedelta(0), every: timedelta | None = None) -> None:
        due = time.time() + ahead.total_seconds() - (60 if every else 0)
        for _ in range(count):
            self._put(due, None if every is None else every.total_seconds())

    def _put(self, due: float, every: float | None) -> None:
        identifier = str(uuid.uuid4())
        with self._lock:
            self._slots[identifier] = _Slot(dict(BODY), due, every)
            heapq.heappush(self._heap, (due, next(self._order), identifier))

    def claim(self, limit: int) -> tuple[str, list[str]]:
        token = uuid.uuid4().hex
        claimed: list[dict[str, Any]] = []
        with self._lock:
            now, heap, slots = time.time(), self._heap, self._slots
            until = now + LEASE.total_seconds()
            while heap and len(claimed) < limit and heap[0][0] <= now:
                due, number, identifier = heapq.heappop(heap)
                slot = slots.get(identifier)
                if slot is None or slot.due != due:
                    continue
                slot.due, slot.token = until, token
                slot.attempts += 1
                heapq.heappush(heap, (until, number, identifier))
                claimed.append({"id": identifier, **slot.message})
        return token, [each["id"] for each in claimed]

    def ack(self, token: str, ids: list[str]) -> None:
        now = time.time()
        with self._lock:
            for identifier in ids:
                slot = self._slots.get(identifier)
                if slot is None or slot.token != token or slot.due <= now:
                    continue
                if slot.every is None:
                    del self._slots[identifier]
                else:
                    slot.due, slot.token, slot.attempts = now + slot.every, "", 0
                    heapq.heappush(self._heap, (slot.due, next(self._order), identifier))


class RawSqlite(Raw):
    """The ``sqlite3`` module: WAL, ``synchronous=FULL``, a claim in one statement and an ack of a batch in another."""

    _INSERT = "INSERT INTO m (id, msg, due, every) VALUES (?, ?, ?, ?)"

    def __init__(self, path: str) -> None:
        # As long as Pitstop waits for another writer.
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS m (id TEXT UNIQUE, msg TEXT, due INTEGER, every INTEGER, token TEXT, "
            "attempts INTEGER DEFAULT 0) STRICT"
        )
        self._connection.execute("CREATE INDEX IF NOT EXISTS due ON m (due)")
        self._recurring = False

    def clear(self) -> None:
        self._connection.execute("DELETE FROM m")

    def store(self, count: int) -> None:
        for _ in range(count):
            self._connection.execute(self._INSERT, self._row(_now(), None))

    def store_many(self, count: int, ahead: timedelta = timedelta(0), every: timedelta | None = None) -> None:
        due = _now() + _ms(ahead) - (60_000 if every else 0)
        for size in sizes(count):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(self._INSERT, [self._row(due, every) for _ in range(size)])
            self._connection.execute("COMMIT")

    def _row(self, due: int, every: timedelta | None) -> tuple[str, str, int, int | None]:
        return str(uuid.uuid4()), json.dumps(BODY), due, None if every is None else _ms(every)

    def claim(self, limit: int) -> tuple[str, list[str]]:
        now, token = _now(), uuid.uuid4().hex
        rows = self._connection.execute(
            "UPDATE m SET due = ?, token = ?, attempts = attempts + 1 WHERE rowid IN "
            "(SELECT rowid FROM m WHERE due <= ? ORDER BY due LIMIT ?) RETURNING id, msg, every",
            (now + _ms(LEASE), token, now, limit),
        ).fetchall()
        self._recurring = bool(rows) and rows[0][2] is not None
        return token, [identifier for identifier, text, _ in rows if json.loads(text)]

    def ack(self, token: str, ids: list[str]) -> None:
        mine = "id IN (SELECT value FROM json_each(?)) AND token = ?"
        if self._recurring:
            later = f"UPDATE m SET due = ? + every, token = NULL, attempts = 0 WHERE {mine}"
            self._connection.execute(later, (_now(), json.dumps(ids), token))
        else:
            self._connection.execute(f"DELETE FROM m WHERE {mine}", (json.dumps(ids), token))

    def close(self) -> None:
        self._connection.close()


class RawMongo(Raw):
    """PyMongo with the round trips of Pitstop's claim: find, mark the found documents, and delete them after handling.

    Several claimers would all take the first documents. So each one skips a random number after it missed, and begins where the last look
    began. Without that, the raw driver would be slower than Pitstop, which does the same.
    """

    def __init__(self, uri: str, dbname: str) -> None:
        concern = pymongo.WriteConcern("majority", wtimeout=10_000, j=True)
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, tz_aware=True)
        self._coll = self._client[dbname].get_collection("raw", write_concern=concern)
        self._coll.create_index("due")
        self._recurring = False
        self._low, self._low_until, self._spread = _EPOCH, 0.0, 0

    def clear(self) -> None:
        self._coll.delete_many({})

    def store(self, count: int) -> None:
        for _ in range(count):
            self._coll.insert_one(self._document(datetime.now(UTC), None))

    def store_many(self, count: int, ahead: timedelta = timedelta(0), every: timedelta | None = None) -> None:
        due = datetime.now(UTC) + ahead - (timedelta(minutes=1) if every else timedelta(0))
        for size in sizes(count):
            self._coll.insert_many([self._document(due, every) for _ in range(size)], ordered=False)

    def _document(self, due: datetime, every: timedelta | None) -> dict[str, Any]:
        mark = uuid.uuid4().hex
        fields = {"_id": str(uuid.uuid4()), "msg": dict(BODY), "due": due, "scheduled_for": due}
        fields |= {"revision": mark, "etag": mark, "attempts": 0}
        return fields if every is None else fields | {"every": _ms(every)}

    def claim(self, limit: int) -> tuple[str, list[str]]:
        now, token = datetime.now(UTC), uuid.uuid4().hex
        change = {"$set": {"due": now + LEASE, "token": token}, "$inc": {"attempts": 1}}
        if limit == 1:
            one = self._coll.find_one_and_update({"due": {"$lte": now}}, change, sort=[("due", 1)])
            return token, [one["_id"]] if one else []
        whole = time.monotonic() >= self._low_until
        skip = random.randint(0, self._spread) if self._spread else 0
        wanted = {"due": {"$gte": _EPOCH if whole else self._low, "$lte": now}}
        found = list(self._coll.find(wanted, sort=[("due", 1)], skip=skip, limit=limit, batch_size=limit))
        if not found:
            self._spread, self._low_until = 0, 0.0
            return token, []
        ids = [each["_id"] for each in found]
        same = {"_id": {"$in": ids}, "etag": {"$in": [each["etag"] for each in found]}, "due": {"$lte": now}}
        count = self._coll.update_many(same, change, hint={"_id": 1}).modified_count
        if whole:
            self._low_until = time.monotonic() + 1
        self._spread = self._spread // 2 if count == len(ids) else min(max(self._spread * 2, limit), 2000)
        if not self._spread:
            self._low = found[0]["due"]
        if count < len(ids):
            mine = self._coll.find({"_id": {"$in": ids}, "token": token}, {"_id": 1}, batch_size=limit)
            ids = [each["_id"] for each in mine] if count else []
        self._recurring = "every" in found[0]
        return token, ids

    def ack(self, token: str, ids: list[str]) -> None:
        mine = {"_id": {"$in": ids}, "token": token}
        if not self._recurring:
            self._coll.delete_many(mine, hint={"_id": 1})
            return
        later = {"$add": ["$scheduled_for", "$every"]}
        fields = {"due": later, "scheduled_for": later, "attempts": 0, "etag": uuid.uuid4().hex}
        self._coll.update_many(mine, [{"$set": fields}, {"$unset": "token"}], hint={"_id": 1})

    def close(self) -> None:
        self._client.close()


class RawPostgres(Raw):
    """psycopg with one round trip for each operation, prepared statements and the instants of the server's clock."""

    _NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    _INSERT = f"INSERT INTO raw (id, msg, due, every) VALUES (%b, %b, {_NOW} + %b, %b)"
    _INSERT_MANY = (
        "INSERT INTO raw (id, msg, due, every) SELECT new.id, new.msg, now + %b, %b "
        f"FROM unnest(%b::text[], %b::text[]) AS new (id, msg), (SELECT {_NOW} AS now) AS clock"
    )
    _CLAIM = (
        f"UPDATE raw SET due = {_NOW} + %b, token = %b, attempts = attempts + 1 WHERE id = ANY(ARRAY("
        f"SELECT id FROM raw WHERE due <= {_NOW} ORDER BY due LIMIT %b FOR UPDATE SKIP LOCKED)) RETURNING id, msg, every"
    )
    _DELETE = "DELETE FROM raw WHERE id = ANY(%b) AND token = %b"
    _LATER = f"UPDATE raw SET due = {_NOW} + every, token = NULL, attempts = 0 WHERE id = ANY(%b) AND token = %b"

    def __init__(self, uri: str) -> None:
        self._connection = psycopg.connect(uri, autocommit=True, prepare_threshold=0)
        self._connection.execute("SET client_min_messages = warning")
        # The processes of a crew begin together.
        self._connection.execute("SELECT pg_advisory_lock(1)")
        self._connection.execute(
            'CREATE TABLE IF NOT EXISTS raw (id text COLLATE "C" PRIMARY KEY, msg text NOT NULL, due bigint NOT NULL, '
            "every bigint, token text, attempts int NOT NULL DEFAULT 0)"
        )
        self._connection.execute("CREATE INDEX IF NOT EXISTS raw_due ON raw (due)")
        self._connection.execute("SELECT pg_advisory_unlock(1)")
        self._recurring = False

    def clear(self) -> None:
        self._connection.execute("TRUNCATE raw")

    def store(self, count: int) -> None:
        for _ in range(count):
            self._connection.execute(self._INSERT, (str(uuid.uuid4()), json.dumps(BODY), 0, None))

    def store_many(self, count: int, ahead: timedelta = timedelta(0), every: timedelta | None = None) -> None:
        offset = _ms(ahead) - (60_000 if every else 0)
        for size in sizes(count):
            ids, texts = [str(uuid.uuid4()) for _ in range(size)], [json.dumps(BODY) for _ in range(size)]
            row = (offset, None if every is None else _ms(every), ids, texts)
            self._connection.execute(self._INSERT_MANY, row)

    def claim(self, limit: int) -> tuple[str, list[str]]:
        token = uuid.uuid4().hex
        rows = self._connection.execute(self._CLAIM, (_ms(LEASE), token, limit)).fetchall()
        self._recurring = bool(rows) and rows[0][2] is not None
        return token, [identifier for identifier, text, _ in rows if json.loads(text)]

    def ack(self, token: str, ids: list[str]) -> None:
        self._connection.execute(self._LATER if self._recurring else self._DELETE, (ids, token))

    def close(self) -> None:
        self._connection.close()


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def sizes(count: int) -> Iterator[int]:
    """Return the sizes of the batches for this number of messages."""
    while count > 0:
        yield min(count, BATCH)
        count -= BATCH


def _now() -> int:
    return time.time_ns() // 1_000_000


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def subject(who: str, config: dict[str, Any], options: dict[str, Any]) -> Subject:
    """Return ``pitstop`` with listeners of these options, or ``raw`` with claims of this size, at the place of the configuration."""
    if who == "pitstop":
        return Ours(config, options)
    raw: RawMemory | RawSqlite | RawMongo | RawPostgres
    if config["type"] == "memory":
        raw = RawMemory()
    elif config["type"] == "sqlite":
        raw = RawSqlite(config["path"] + ".raw")
    elif config["type"] == "postgres":
        raw = RawPostgres(config["uri"])
    else:
        raw = RawMongo(config["uri"], config["dbname"])
    raw.limit = options.get("claim", CLAIM)
    return raw
