"""Dialect: the operations that a client supports. PyMongo's supports all, a replacement such as mongomock only basic ones.

All differences between the two are here. The operations of mongomock are not atomic between threads, so the threads of
Pitstop take turns on such a client. Operations of other code at the same time are not kept apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from threading import RLock
from typing import Any, ClassVar

import attrs
import bson
import pymongo

from bson.raw_bson import RawBSONDocument
from pymongo.errors import DocumentTooLarge
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from pitstop_mongo._bson.codecs import BATCH_CODEC, CODEC, RAW_CODEC
from pitstop_mongo._bson.raw import any_of, behind, equal_to, is_text, text


__all__ = ["Dialect", "Handles", "dialect_of"]

#: Bytes that a stored document leaves free for the fields that a claim or a settlement adds.
_HEADROOM = 64 * 1024
_MAX_DOCUMENT = 16 * 1024 * 1024


@attrs.frozen
class Handles:
    """The collection, opened in each way in which it is used. The defaults of a user's client do not apply."""

    #: For writing, and for reading documents one by one.
    coll: Any
    #: For reading documents in batches. Dates come without a zone.
    batches: Any
    #: For acks and nacks, with the write concern that is configured for them.
    settling: Any
    #: For reading after an ack or a nack: the state of a majority, unless acks do not wait for a majority.
    settled: Any
    #: For reading documents as bytes, so that one that cannot be decoded does not hide the others.
    raw: Any
    #: For reading the state of a majority, which is never rolled back.
    majority: Any


@attrs.frozen
class Dialect:
    """The operations of PyMongo's client."""

    #: Whether the server describes collections and lists their indexes.
    describes_collections: ClassVar[bool] = True

    #: A lock or the like that is held during an operation.
    turn: AbstractContextManager[Any] = attrs.field(factory=nullcontext)
    #: Whether operations on many documents, and hints, may be used.
    batches: bool = True
    #: Options that bind an operation to an index. Without them the planner may walk the whole backlog for a claim.
    by_due: Mapping[str, Any] = attrs.field(factory=lambda: {"hint": [("due", 1)]})
    by_id: Mapping[str, Any] = attrs.field(factory=lambda: {"hint": [("_id", 1)]})
    #: Options of a read that sorts without an index.
    sorting: Mapping[str, Any] = attrs.field(factory=lambda: {"allow_disk_use": True})

    def open(self, client: Any, dbname: str, coll: str, acks: int | str) -> Handles:
        """Open the collection. The defaults of the client do not matter.

        :param acks: how many members must have an ack before it is confirmed, or ``"majority"``.
        """
        handle = client.get_database(dbname).get_collection(
            coll,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            # Without j, a standalone would confirm a write before it is in the journal. The wait for a majority ends with
            # the time of the operation, which the driver tells the server.
            write_concern=WriteConcern("majority", j=True),
            read_concern=ReadConcern("local"),
        )
        majority = handle.with_options(read_concern=ReadConcern("majority"))
        relaxed = acks != "majority"
        return Handles(
            coll=handle,
            batches=handle.with_options(codec_options=BATCH_CODEC),
            # A lost ack is only a redelivery, so an ack does not wait for the journal either.
            settling=handle.with_options(write_concern=WriteConcern(acks)) if relaxed else handle,
            settled=handle if relaxed else majority,
            raw=handle.with_options(codec_options=RAW_CODEC),
            majority=majority,
        )

    def one(self, id: Any) -> Any:
        """Return the filter of an ``_id``. No ``_id`` is taken for an operator."""
        return equal_to(text(id)) if isinstance(id, str) and not is_text(id) else {"$eq": id}

    def behind(self, id: str) -> Any:
        """Return the filter of the ids after this one."""
        return {"$gt": id} if is_text(id) else behind(id)

    def none_of(self, ids: Collection[str]) -> Any:
        """Return the filter of ids that are text, and are not among these."""
        return any_of(ids, b"$nin")

    def encode(self, document: dict[str, Any]) -> Mapping[str, Any]:
        """Return the document in the form in which it is sent.

        :raises bson.errors.InvalidDocument: if MongoDB cannot store it.
        """
        encoded = bson.encode(document, codec_options=CODEC)
        if len(encoded) > _MAX_DOCUMENT - _HEADROOM:
            raise DocumentTooLarge(f"{len(encoded)} bytes")
        return RawBSONDocument(encoded)

    def server_time(self, client: Any) -> datetime | None:
        """Return the time of the server's clock; None if there is no server."""
        answer: datetime = client.admin.command("hello")["localTime"]
        return answer

    def has_primary(self, client: Any) -> bool:
        """Whether a server is known that takes writes. This sends nothing, and does not wait."""
        return bool(client.topology_description.has_writable_server())

    def is_set_alive(self, client: Any) -> bool:
        """Whether a server is known that takes writes, or one that can elect such a server. This sends nothing."""
        known = client.topology_description
        return self.has_primary(client) or any(
            each.server_type_name != "Unknown" for each in known.server_descriptions().values()
        )

    def is_routed(self, client: Any) -> bool | None:
        """Whether a router of a sharded cluster answers; None if no server has answered. This sends nothing, and does not wait.

        The driver knows it from the server's answers to ``hello``, which have ``msg: "isdbgrid"`` then.
        """
        known = client.topology_description
        if known.topology_type_name in ("Sharded", "LoadBalanced"):
            return True
        kinds = {each.server_type_name for each in known.server_descriptions().values()} - {"Unknown"}
        return "Mongos" in kinds if kinds else None

    def repeats_writes(self, client: Any) -> bool:
        """Whether the driver repeats single writes by itself. The server does each of them once.

        A standalone does not support this: https://www.mongodb.com/docs/manual/core/retryable-writes/
        """
        return client.topology_description.topology_type_name not in ("Single", "Unknown")


_one_at_a_time = RLock()


class _StandIn(Dialect):
    """The operations of another client with the same interface: mongomock."""

    describes_collections: ClassVar[bool] = False

    def open(self, client: Any, dbname: str, coll: str, acks: int | str) -> Handles:
        handle = client.get_database(dbname).get_collection(coll)
        return Handles(handle, handle, handle, handle, handle, handle)

    def one(self, id: str) -> Any:
        # In an upsert, mongomock would take an operator for the new _id.
        return id

    def behind(self, id: str) -> Any:
        return {"$gt": id}

    def none_of(self, ids: Collection[str]) -> Any:
        return {"$nin": list(ids)}

    def encode(self, document: dict[str, Any]) -> Mapping[str, Any]:
        super().encode(document)  # to be as strict as a server
        return document

    def server_time(self, client: Any) -> datetime | None:
        return None

    def has_primary(self, client: Any) -> bool:
        return True

    def is_routed(self, client: Any) -> bool | None:
        return False

    def repeats_writes(self, client: Any) -> bool:
        return False


def dialect_of(client: Any) -> Dialect:
    """Return the dialect of a client; the dialect of Pitstop's own client if it is None."""
    if client is None or isinstance(client, pymongo.MongoClient):
        return Dialect()
    return _StandIn(turn=_one_at_a_time, batches=False, by_due={}, by_id={}, sorting={})
