"""The places where messages are stored: servers and files that a run creates, and removes at its end."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
import tempfile
import uuid

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pymongo


sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import mongod, replica_set
from servers import postgres as clusters
from servers.mongod import NoServer, free_port


__all__ = ["PLACES", "NoServer", "Place", "free_port", "own_database"]


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


@contextmanager
def postgres() -> Iterator[Place]:
    if importlib.util.find_spec("pitstop_postgres") is None:
        raise NoServer("pitstop-postgres is not installed")
    with ExitStack() as stack:
        given = clusters.given_uri()
        try:
            uri = stack.enter_context(clusters.server()).uri if given is None else given
        except clusters.NoServer as error:
            raise NoServer(str(error)) from None
        where = "" if given is None else "; PITSTOP_TEST_POSTGRES_URI"
        config = {"type": "postgres", "uri": stack.enter_context(clusters.database(uri)), "table": "pitstop_messages"}
        with psycopg.connect(uri) as connection:
            said = {name: _shown(connection, name) for name in ("fsync", "synchronous_commit", "shared_buffers")}
            version = _shown(connection, "server_version").split()[0]
        durability = f"fsync={said['fsync']}, synchronous_commit={said['synchronous_commit']}{where}"
        yield Place("postgres", config, durability, f"PostgreSQL {version}, shared_buffers {said['shared_buffers']}")


def _shown(connection: psycopg.Connection[Any], setting: str) -> str:
    row = connection.execute(f"SHOW {setting}").fetchone()
    assert row is not None
    return str(row[0])


@contextmanager
def own_database(place: Place) -> Iterator[dict[str, str]]:
    """Yield the arguments of a peer's script: a database of its own, on the server of a place."""
    uri = place.config["uri"]
    if place.config["type"] == "postgres":
        with clusters.database(uri) as own:
            yield {"uri": own}
        return
    name = f"pitstop_bench_{uuid.uuid4().hex}"
    yield {"uri": uri, "dbname": name}
    with pymongo.MongoClient[Any](uri) as client:
        client.drop_database(name)


#: By name, in the order in which they are measured.
PLACES: dict[str, Callable[[], Any]] = {
    "memory": memory,
    "sqlite": sqlite_file,
    "mongo": mongo,
    "mongo-set": mongo_set,
    "postgres": postgres,
}
