"""Stores of their own at a place, and what they cost: keys examined, CPU time of the client and the server, bytes on the disk."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymongo

from places import Place

import pitstop

from pitstop.abc import Backend
from pitstop_mongo import MongoBackend
from pitstop_sqlite import SqliteBackend


_HERTZ = os.sysconf("SC_CLK_TCK")


class MongoStore:
    """A collection of its own, in a database of the place."""

    def __init__(self, place: Place, name: str) -> None:
        self.config = place.config | {"coll": name}
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(place.config["uri"])
        self._database = self._client[place.config["dbname"]]
        self._coll = self._database[name]
        self._pid = int(self._client.admin.command("serverStatus")["pid"])

    @contextmanager
    def backend(self) -> Iterator[Backend]:
        with closing(MongoBackend.from_options(_options(self.config))) as backend:
            yield backend

    def work(self, action: Callable[[], object]) -> str:
        """Return the keys that the server examines meanwhile, by command."""
        self._database.command("profile", 2)
        try:
            action()
        finally:
            self._database.command("profile", 0)
        found = list(self._database["system.profile"].find({"ns": self._coll.full_name, "keysExamined": {"$gt": 0}}))
        self._database["system.profile"].drop()
        return ", ".join(f"{each['op']} {each['keysExamined']:,} keys" for each in found)

    def cpu(self) -> float:
        """Return the seconds of CPU of this process and the server so far."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return time.process_time() + (int(fields[11]) + int(fields[12])) / _HERTZ

    def bytes(self) -> dict[str, int]:
        """Return the size of each index, after the server has written what it holds."""
        self._client.admin.command("fsync")
        sizes: dict[str, int] = self._database.command("collStats", self._coll.name)["indexSizes"]
        return sizes

    def close(self) -> None:
        self._client.close()


class SqliteStore:
    """A file of its own."""

    def __init__(self, place: Place, name: str) -> None:
        path = Path(place.config["path"]).with_name(f"{name}.db")
        self.config = place.config | {"path": str(path)}
        self._path = path
        self._steps = itertools.count()

    @contextmanager
    def backend(self) -> Iterator[Backend]:
        """Open a backend whose steps are counted."""
        connect = sqlite3.connect

        def counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_progress_handler(lambda: next(self._steps) and None, 1)
            return connection

        sqlite3.connect = counting  # type: ignore[assignment]
        try:
            with closing(SqliteBackend.from_options(_options(self.config))) as backend:
                yield backend
        finally:
            sqlite3.connect = connect

    def work(self, action: Callable[[], object]) -> str:
        """Return the steps of SQLite's virtual machine meanwhile."""
        begun = next(self._steps)
        action()
        return f"{next(self._steps) - begun - 1:,} steps"

    def cpu(self) -> float:
        """Return the seconds of CPU of this process so far."""
        return time.process_time()

    def bytes(self) -> dict[str, int]:
        """Return the size of the file, after the log was written back."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return {"file": self._path.stat().st_size}

    def close(self) -> None:
        pass


Store = MongoStore | SqliteStore


def _options(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "type"}


def store_at(place: Place, name: str) -> Store:
    """Return a store of its own at a place."""
    return SqliteStore(place, name) if place.name == "sqlite" else MongoStore(place, name)


@contextmanager
def opened(store: Store) -> Iterator[pitstop.Pitstop]:
    with pitstop.init(store.config) as pit:
        pit.stats()  # connects
        yield pit
