"""A stub of the router of a sharded cluster (mongos), in front of a replica set of one member. No router can be run here.

The driver takes it for a router, because its answers to ``hello`` say ``msg: "isdbgrid"``. It refuses the writes that mongos refuses up
to MongoDB 7.0, of a collection that is sharded by ``{_id: "hashed"}``, with the same codes:

- ``findAndModify``, a single update and a single delete whose filter has no equality on ``_id``
- a tailable cursor
- an insert of a document without an ``_id``

Everything else is done by the one server behind it. So these are not shown: shards that are away, documents that move, plans of several
shards.
"""

from __future__ import annotations

import struct

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import bson

from pymongo.uri_parser import parse_uri

from servers.proxy import _HEADER, _OP_MSG, Command, Proxy, _command, _Connection


_SHARD_KEY_NOT_FOUND = 61
_INVALID_OPTIONS = 72
_OP_REPLY = 1
#: The bytes of an OP_REPLY, and of an OP_MSG, before its document.
_BEFORE = {_OP_REPLY: _HEADER.size + 20, _OP_MSG: _HEADER.size + 5}
#: Fields of an answer to ``hello`` that a router does not give.
_OF_A_MEMBER = frozenset(
    [
        "setName",
        "setVersion",
        "electionId",
        "hosts",
        "passives",
        "arbiters",
        "primary",
        "me",
        "secondary",
        "lastWrite",
        "tags",
        "arbiterOnly",
        "passive",
        "hidden",
    ]
)


class Router(Proxy):
    """Forward what mongos accepts, and refuse the rest."""

    def __init__(self, host: str, port: int) -> None:
        #: The commands so far, and the writes of many documents (``"update, many"``).
        self.commands: Counter[str] = Counter()
        #: The names of the commands that were refused.
        self.refused: Counter[str] = Counter()
        super().__init__(host, port)

    @property
    def uri(self) -> str:
        return super().uri.partition("/?")[0]

    def _request(self, connection: _Connection, message: bytes) -> bytes:
        message = super()._request(connection, message)
        if _HEADER.unpack_from(message)[3] != _OP_MSG:
            return message
        command = _command(message)
        name = next(iter(command))
        self.commands[name] += 1
        if any(each.get("multi", each.get("limit", 1) == 0) for each in _writes(command)):
            self.commands[f"{name}, many"] += 1
        reply = _refusal(name, command)
        if reply is None:
            return message
        self.refused[name] += 1
        connection.answer(message, reply)
        return b""

    def _reply(self, connection: _Connection, message: bytes) -> bytes:
        message = super()._reply(connection, message)
        _, id, reply_to, code = _HEADER.unpack_from(message)
        if b"maxWireVersion" not in message or code not in _BEFORE:
            return message
        before = _BEFORE[code]
        size = struct.unpack_from("<i", message, before)[0]
        answer: dict[str, Any] = bson.decode(message[before : before + size])
        routers = {name: value for name, value in answer.items() if name not in _OF_A_MEMBER}
        document = bson.encode(routers | {"msg": "isdbgrid"})
        rest = message[_HEADER.size : before] + document + message[before + size :]
        return _HEADER.pack(_HEADER.size + len(rest), id, reply_to, code) + rest


def _writes(command: Command) -> list[Mapping[str, Any]]:
    return [*command.get("updates", ()), *command.get("deletes", ())]


def _refusal(name: str, command: Command) -> dict[str, Any] | None:
    if name == "findAndModify" and not _names_a_document(command.get("query", {})):
        return _error(_SHARD_KEY_NOT_FOUND, "Query for sharded findAndModify must contain the shard key")
    if name == "find" and command.get("tailable"):
        return _error(_INVALID_OPTIONS, "tailable cursors are not supported on sharded collections")
    if name == "insert" and not all("_id" in each for each in command["documents"]):
        return _error(_SHARD_KEY_NOT_FOUND, "document to insert does not contain the shard key")
    errors = []
    for index, each in enumerate(_writes(command)):
        many = each.get("multi", each.get("limit", 1) == 0)
        if not many and not _names_a_document(each["q"]):
            code = _SHARD_KEY_NOT_FOUND if name == "delete" or each.get("upsert") else _INVALID_OPTIONS
            errors.append({"index": index, "code": code, "errmsg": "a single write must contain the shard key"})
    return {"ok": 1.0, "n": 0, "nModified": 0, "writeErrors": errors} if errors else None


def _names_a_document(filter: Mapping[str, Any]) -> bool:
    if "_id" not in filter:
        return False
    value = filter["_id"]
    operators = [name for name in value if name.startswith("$")] if isinstance(value, Mapping) else []
    return operators in ([], ["$eq"])


def _error(code: int, text: str) -> dict[str, Any]:
    return {"ok": 0.0, "code": code, "errmsg": text}


@contextmanager
def in_front_of(uri: str) -> Iterator[Router]:
    """Yield a router to the first server of a URI, without credentials."""
    router = Router(*parse_uri(uri)["nodelist"][0])
    try:
        yield router
    finally:
        router.close()
