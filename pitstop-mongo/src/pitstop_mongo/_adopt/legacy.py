"""Documents of the Clojure library, and of interrupted adoptions: how they are recognised and read.

::

    _id            any type; a UUID as text unless the message had an id
    ready, locked  when it is due, and when its lease ends; a lock in the past is no lock
    msg            the message, with its id if it had one
    recur, expire  milliseconds from one occurrence to the next, and the end of the series; null: never
    locked-by      the program that claimed it last
    last-error     the error that the last nack gave
"""

from __future__ import annotations

import uuid

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs
import bson

from bson import Binary, Code, ObjectId
from bson.raw_bson import RawBSONDocument

from pitstop.abc import Legacy, Record, floor_instant
from pitstop_mongo._bson.codecs import CODEC, RAW_CODEC, fields_of
from pitstop_mongo._bson.raw import decoded, elements
from pitstop_mongo._messages.document import read


__all__ = ["HELD", "OLD", "Handle", "is_held", "mark_of", "read_held", "read_old"]

#: The filter of documents of the Clojure library, valid or not. Each document of Pitstop's has a revision.
OLD: Mapping[str, Any] = {
    "revision": {"$exists": False},
    "$or": [{"ready": {"$exists": True}}, {"locked": {"$exists": True}}],
}
#: The filter of records that cannot be claimed before the document they were made of is gone.
HELD: Mapping[str, Any] = {"adopting": {"$exists": True}, "revision": {"$exists": True}, "due": {"$exists": False}}


@attrs.frozen
class Handle:
    """The values by which a document is found again."""

    key: Any
    #: The document as it was read, byte for byte.
    document: RawBSONDocument
    #: The same UUID as other drivers write it. A document with that id gets the same text as its id, and takes precedence.
    twin: uuid.UUID | None = None

    @property
    def moves(self) -> bool:
        """Whether the new record has another id, so that it cannot replace the document in one write."""
        return not isinstance(self.key, str)


class _Foreign(Exception):
    """A value that Pitstop never stores. The text names it."""


def is_held(document: RawBSONDocument) -> bool:
    """Whether a document that fits :data:`HELD` or :data:`OLD` fits the first one."""
    return any(name == b"revision" for name, _ in elements(document.raw))


def read_old(document: RawBSONDocument) -> Legacy:
    """Read a document of the Clojure library."""
    # An inner document that is left as bytes is never taken for a DBRef.
    codec: Any = RAW_CODEC if b"$ref\0" in document.raw else CODEC
    problem: str | None = None
    try:
        fields: dict[str, Any] = dict(bson.decode(document.raw, codec))
        message = fields.get("msg")
        # Its id is the document's, of whatever type.
        _check({name: message[name] for name in message if name != "id"} if isinstance(message, Mapping) else message)
    except (bson.errors.BSONError, UnicodeDecodeError):
        fields, problem = {"_id": fields_of(document)["_id"]}, "It cannot be read: it is damaged."
    except _Foreign as foreign:
        problem = str(foreign)
    # The mark of an adoption that was cut short before the record was there.
    fields.pop("adopting", None)
    key = fields["_id"]
    id = _id_text(key)
    if id is None and problem is None:
        problem = f"Its id is a {_kind(key)}. Text, ObjectId, int and UUID become ids, other types do not."
    return Legacy(_name(key), id, fields, Handle(key, document, _java_uuid(key)), problem)


def read_held(document: RawBSONDocument) -> Legacy:
    """Read a record that an interrupted adoption has left."""
    content = read(document).content
    record: Record | None = None
    mark = mark_of(document)
    due = mark.get("due") if isinstance(mark, Mapping) else None
    if isinstance(content, Record) and isinstance(due, datetime):
        progress = attrs.evolve(content.progress, due=floor_instant(due), last_error=mark.get("last_error"))
        record = attrs.evolve(content, progress=progress)
    problem = None if record is not None else "Its adoption was interrupted, and it was damaged since."
    return Legacy(content.id, content.id, {"_id": content.id}, Handle(content.id, document), problem, record)


def mark_of(document: RawBSONDocument) -> Any:
    """Return the field that an adoption wrote into a record that it holds; None if the field cannot be read."""
    element = next((each for name, each in elements(document.raw) if name == b"adopting"), None)
    try:
        return None if element is None else decoded(element, CODEC)
    except bson.errors.BSONError:
        return None


def _id_text(key: Any) -> str | None:
    if isinstance(key, str) and not isinstance(key, Code):
        return key
    if isinstance(key, ObjectId | uuid.UUID) or (isinstance(key, int) and not isinstance(key, bool)):
        return str(key)
    java = _java_uuid(key)
    return None if java is None else str(java)


def _java_uuid(key: Any) -> uuid.UUID | None:
    """Return the UUID that the JVM's driver of that time wrote as this value; None if it is no such value."""
    if isinstance(key, Binary) and key.subtype == bson.binary.OLD_UUID_SUBTYPE and len(key) == 16:
        return key.as_uuid(bson.binary.UuidRepresentation.JAVA_LEGACY)
    return None


def _name(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return f"{key} (int)"
    if isinstance(key, Mapping):
        key = dict(key)
    return f"{key!r:.80}"


def _kind(value: Any) -> str:
    return "mapping" if isinstance(value, Mapping) else type(value).__name__


def _check(value: Any, path: str = "msg") -> None:
    """Find values that core would take for plain text or bytes. Core itself finds the other foreign values."""
    if isinstance(value, Binary):
        raise _Foreign(f"{path:.200} is binary data of subtype {value.subtype}, which cannot be stored.")
    if isinstance(value, Code):
        raise _Foreign(f"{path:.200} is JavaScript code, which cannot be stored.")
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check(item, f"{path}[{name!r:.80}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")
