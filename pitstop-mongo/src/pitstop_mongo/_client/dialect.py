"""What a client can do: PyMongo's own can do all; a stand-in such as mongomock only single, classic operations.

All that differs between the two is asked here. A stand-in's operations are not atomic between threads (mongomock's are
not), so Pitstop's take turns on it; what others do to it at the same time is not kept apart.
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

#: Bytes of a document that are left for what a claim or a settlement adds to it.
_HEADROOM = 64 * 1024
_MAX_DOCUMENT = 16 * 1024 * 1024


@attrs.frozen
class Handles:
    """The collection, opened in the ways in which it is used. A user's client has its own idea of most of them."""

    #: For writing, and for reading documents one by one.
    coll: Any
    #: For reading documents in batches: dates come without a zone.
    batches: Any
    #: For acks and nacks: writes them with the write concern that is configured for these.
    settling: Any
    #: Reads what such a write left: what a majority has, unless no majority is waited for.
    settled: Any
    #: Reads documents as bytes, so that one that cannot be decoded does not hide the others.
    raw: Any
    #: Reads what a majority has: what is seen there is not rolled back.
    majority: Any


@attrs.frozen
class Dialect:
    """PyMongo's client."""

    #: Whether the server can be asked what the collection is, and which indexes it has.
    tells_of_collections: ClassVar[bool] = True

    #: Held during an operation.
    turn: AbstractContextManager[Any] = attrs.field(factory=nullcontext)
    #: Whether operations on many documents, and hints, may be used.
    batches: bool = True
    #: Options that pin an operation to an index. The planner, left alone, may walk the whole backlog for a claim.
    by_due: Mapping[str, Any] = attrs.field(factory=lambda: {"hint": [("due", 1)]})
    by_id: Mapping[str, Any] = attrs.field(factory=lambda: {"hint": [("_id", 1)]})
    #: Options of a read that sorts without an index.
    sorting: Mapping[str, Any] = attrs.field(factory=lambda: {"allow_disk_use": True})

    def open(self, client: Any, dbname: str, coll: str, acks: int | str) -> Handles:
        """Open the collection, whatever the client's defaults are.

        :param acks: on how many members, or on a ``"majority"`` of them, an ack has to be before it is confirmed.
        """
        handle = client.get_database(dbname).get_collection(
            coll,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            # Without j, a standalone would confirm what it has not written down yet. The wait for a majority is bounded
            # by the operation's time, which the driver tells the server.
            write_concern=WriteConcern("majority", j=True),
            read_concern=ReadConcern("local"),
        )
        majority = handle.with_options(read_concern=ReadConcern("majority"))
        relaxed = acks != "majority"
        return Handles(
            coll=handle,
            batches=handle.with_options(codec_options=BATCH_CODEC),
            # An ack that gets lost is a redelivery, so it need not wait for the journal either.
            settling=handle.with_options(write_concern=WriteConcern(acks)) if relaxed else handle,
            settled=handle if relaxed else majority,
            raw=handle.with_options(codec_options=RAW_CODEC),
            majority=majority,
        )

    def one(self, id: Any) -> Any:
        """The filter of an ``_id``: never an operator, whatever it is."""
        return equal_to(text(id)) if isinstance(id, str) and not is_text(id) else {"$eq": id}

    def behind(self, id: str) -> Any:
        """The filter of the ids behind this one."""
        return {"$gt": id} if is_text(id) else behind(id)

    def none_of(self, ids: Collection[str]) -> Any:
        """The filter of ids that are text, and none of these."""
        return any_of(ids, b"$nin")

    def encode(self, document: dict[str, Any]) -> Mapping[str, Any]:
        """The document as it is sent.

        :raises bson.errors.InvalidDocument: when MongoDB cannot keep it.
        """
        encoded = bson.encode(document, codec_options=CODEC)
        if len(encoded) > _MAX_DOCUMENT - _HEADROOM:
            raise DocumentTooLarge(f"{len(encoded)} bytes")
        return RawBSONDocument(encoded)

    def server_time(self, client: Any) -> datetime | None:
        """The server's clock; None: there is no server."""
        told: datetime = client.admin.command("hello")["localTime"]
        return told

    def has_primary(self, client: Any) -> bool:
        """Whether a server is known that takes writes. Does not ask, and does not wait."""
        return bool(client.topology_description.has_writable_server())

    def is_set_alive(self, client: Any) -> bool:
        """Whether a server is known that takes writes, or one of those that can elect it. Does not ask, or wait."""
        known = client.topology_description
        return self.has_primary(client) or any(
            each.server_type_name != "Unknown" for each in known.server_descriptions().values()
        )

    def repeats_writes(self, client: Any) -> bool:
        """Whether the driver by itself repeats single writes, so that the server does each of them once.

        A standalone has no such thing: https://www.mongodb.com/docs/manual/core/retryable-writes/
        """
        return client.topology_description.topology_type_name not in ("Single", "Unknown")


_one_at_a_time = RLock()


class _StandIn(Dialect):
    """Anything else that has a MongoDB client's interface: mongomock."""

    tells_of_collections: ClassVar[bool] = False

    def open(self, client: Any, dbname: str, coll: str, acks: int | str) -> Handles:
        handle = client.get_database(dbname).get_collection(coll)
        return Handles(handle, handle, handle, handle, handle, handle)

    def one(self, id: str) -> Any:
        # An upsert of mongomock's takes an operator for the new _id.
        return id

    def behind(self, id: str) -> Any:
        return {"$gt": id}

    def none_of(self, ids: Collection[str]) -> Any:
        return {"$nin": list(ids)}

    def encode(self, document: dict[str, Any]) -> Mapping[str, Any]:
        super().encode(document)  # as strict as the real one
        return document

    def server_time(self, client: Any) -> datetime | None:
        return None

    def has_primary(self, client: Any) -> bool:
        return True

    def repeats_writes(self, client: Any) -> bool:
        return False


def dialect_of(client: Any) -> Dialect:
    """The dialect of a client; of Pitstop's own if it is None."""
    if client is None or isinstance(client, pymongo.MongoClient):
        return Dialect()
    return _StandIn(turn=_one_at_a_time, batches=False, by_due={}, by_id={}, sorting={})
