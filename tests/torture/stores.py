"""The stores of the fault tests: a database of its own on a server, and a look at its content past Pitstop."""

from __future__ import annotations

import json
import uuid

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import psycopg
import pymongo

from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from servers import postgres


#: The most seconds of a read past Pitstop. A server may be hanging.
_LOOK = 5.0


class Store(Protocol):
    """A database of one test."""

    #: For :func:`pitstop.init`.
    options: Mapping[str, Any]
    #: Errors of the driver while the server is away, by a fault.
    errors: tuple[type[Exception], ...]

    def left(self) -> list[str]:
        """Return the versions that are stored, in a state that no later fault takes back."""

    def remove(self) -> None:
        """Drop the database. A server that does not answer is removed with all its data anyway."""


class MongoStore:
    """A database of MongoDB."""

    errors = (PyMongoError,)

    def __init__(self, uri: str) -> None:
        self.dbname = f"pitstop_test_{uuid.uuid4().hex}"
        self.options = {"type": "mongo", "uri": uri, "dbname": self.dbname}
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, serverSelectionTimeoutMS=2000)

    def left(self) -> list[str]:
        coll = self._client[self.dbname].get_collection("messages", read_concern=ReadConcern("majority"))
        with pymongo.timeout(_LOOK):
            return [each["msg"].get("version", "") for each in coll.find({}, {"msg.version": 1})]

    def remove(self) -> None:
        with suppress(PyMongoError), pymongo.timeout(_LOOK):
            self._client.drop_database(self.dbname)
        self._client.close()


class PostgresStore:
    """A database of PostgreSQL. Each look has a connection of its own, because faults end connections."""

    errors = (psycopg.Error,)

    def __init__(self, uri: str) -> None:
        self._server = uri
        self.dbname = f"pitstop_test_{uuid.uuid4().hex}"
        self._uri = postgres.database_uri(uri, self.dbname)
        self.options = {"type": "postgres", "uri": self._uri, "table": "messages"}
        with self._connect(uri) as connection:
            connection.execute(f"CREATE DATABASE {self.dbname}")

    def left(self) -> list[str]:
        with self._connect(self._uri) as connection:
            rows = connection.execute("SELECT msg FROM messages").fetchall()
        return [json.loads(text).get("version", "") for (text,) in rows]

    def remove(self) -> None:
        with suppress(psycopg.Error), self._connect(self._server) as connection:
            connection.execute(f"DROP DATABASE {self.dbname} WITH (FORCE)")

    def _connect(self, uri: str) -> psycopg.Connection[Any]:
        limit = f"-c statement_timeout={round(_LOOK * 1000)}"
        # A process that hangs is not interrupted by its own limit, but by that of the packets.
        bounds: dict[str, Any] = {"connect_timeout": round(_LOOK), "tcp_user_timeout": round(_LOOK * 1000)}
        return psycopg.connect(uri, autocommit=True, options=limit, **bounds)


def at(uri: str) -> Store:
    """Make a new store on a server."""
    return PostgresStore(uri) if uri.startswith(("postgresql://", "postgres://")) else MongoStore(uri)
