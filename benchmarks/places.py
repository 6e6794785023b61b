"""The places where messages are stored: servers and files that a run creates, and removes at its end."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import uuid

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pymongo


sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import mongod, replica_set
from servers.mongod import NoServer, free_port


__all__ = ["PLACES", "NoServer", "Place", "free_port"]


@attrs.frozen
class Place:
    """One store, which is empty."""

    name: str
    config: dict[str, Any]
    #: The durability of a write, for Pitstop and raw alike.
    durability: str
    #: A description of the server.
    server: str
    #: Whether consumers are threads of one process; else they are processes.
    threads: bool = False


@contextmanager
def memory() -> Iterator[Place]:
    yield Place("memory", {"type": "memory"}, "none", "this process", threads=True)


@contextmanager
def sqlite_file() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="pitstop-bench-") as folder:
        config = {"type": "sqlite", "path": f"{folder}/bench.db"}
        yield Place("sqlite", config, "WAL, synchronous=FULL", f"SQLite {sqlite3.sqlite_version}")


@contextmanager
def mongo() -> Iterator[Place]:
    given = mongod.given_uri()
    if given is not None:
        with _database("mongo", given, "w: majority, j: true; PITSTOP_TEST_MONGO_URI") as place:
            yield place
        return
    with mongod.standalone() as uri, _database("mongo", uri, "w: 1, j: true") as place:
        yield place


@contextmanager
def mongo_set() -> Iterator[Place]:
    with replica_set.single() as one, _database("mongo-set", one.uri, "w: majority, j: true") as place:
        yield place


@contextmanager
def _database(name: str, uri: str, durability: str) -> Iterator[Place]:
    dbname = f"pitstop_bench_{uuid.uuid4().hex}"
    with pymongo.MongoClient[Any](uri) as client:
        try:
            version = client.server_info()["version"]
            one = "a replica set of one member" if client.admin.command("hello").get("setName") else "standalone"
            server = f"MongoDB {version}, {one}, WiredTiger cache {_cache(client)}"
            yield Place(name, {"type": "mongo", "uri": uri, "dbname": dbname}, durability, server)
        finally:
            client.drop_database(dbname)


def _cache(client: pymongo.MongoClient[Any]) -> str:
    size = client.admin.command("serverStatus")["wiredTiger"]["cache"]["maximum bytes configured"]
    return f"{size / 2**30:g} GiB"


#: By name, in the order in which they are measured.
PLACES: dict[str, Callable[[], Any]] = {"memory": memory, "sqlite": sqlite_file, "mongo": mongo, "mongo-set": mongo_set}
