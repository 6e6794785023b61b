"""Adoption: documents of the Clojure library become Pitstop's, in the same collection. It may be interrupted at any point.

A document whose id is text is rewritten in place. One update does this, on the condition that the document is unchanged since
it was read. The message in the document stays where it is. An ``_id`` cannot be changed. So a document with another id is
replaced by a new one, in four steps:

1. The old document is marked, if it is unchanged. If two adoptions run at the same time, only one of them goes on.
2. The new document is written without a ``due``, so that no listener can claim it. It is *held*.
3. The old document is deleted, if it has the mark, and its ``ready`` and ``locked`` are unchanged.
4. The new document gets its ``due``.

After an interruption at any point the message is stored once, and is not emitted before the old document is gone. If the old
document is still there, the next adoption begins again with it. Otherwise it goes on at step 4. One case is left open. While
two adoptions run at the same time, a listener may acknowledge a message that the first one has just released. Then the second
one may assume that it has deleted the old document itself, and release the message again.
"""

from __future__ import annotations

import os

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import attrs

from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError

from pitstop import Unsupported
from pitstop.abc import Legacy, LegacyPage, Record, from_instant
from pitstop_mongo._adopt.legacy import HELD, OLD, Handle, is_held, mark_of, read_held, read_old
from pitstop_mongo._bson.codecs import fields_of
from pitstop_mongo._bson.raw import id_document
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link
from pitstop_mongo._messages.document import document_of


__all__ = ["Adopter"]

#: Documents of any kind that a page covers, and bytes of old documents that it reads.
_PAGE = 1000
_PAGE_BYTES = 16 * 1024 * 1024
#: Bytes of one command. The command contains each old document, because the server compares it with the stored one.
_MOST_BYTES = 8 * 1024 * 1024

_DUPLICATE = 11000
_HALFWAY = "Adopted halfway. Run 'pitstop adopt --write' again: it finishes this."


@attrs.frozen
class _Item:
    """One document that is being adopted."""

    handle: Handle
    record: Record
    #: The mark of the old document and of the new one.
    etag: str

    @property
    def document(self) -> dict[str, Any]:
        return document_of(self.record, self.etag)


class Adopter:
    """Finds and adopts documents of the Clojure library for one backend."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect

    def legacy(self, after: Mapping[str, Any] | None, locked_after: int | None) -> LegacyPage:
        """See :meth:`pitstop.abc.Backend.legacy`."""
        with self._open() as link:
            documents, following = self._read(link, after, locked_after)
            held = [read_held(each) for each in documents if is_held(each)]
            found = [read_old(each) for each in documents if not is_held(each)]
            found = self._without_a_rival(link, found) + self._orphans(link, held)
        return LegacyPage(found, _PAGE, following)

    def adopt(self, items: Sequence[tuple[Legacy, Record]]) -> Sequence[bool]:
        """See :meth:`pitstop.abc.Backend.adopt`."""
        nonce = os.urandom(16).hex()
        moved: list[_Item] = []
        rewritten: list[_Item] = []
        held: list[_Item] = []
        order = [_Item(legacy.handle, record, f"{nonce}:{n}") for n, (legacy, record) in enumerate(items)]
        for (legacy, _), item in zip(items, order, strict=True):
            group = held if legacy.record is not None else moved if item.handle.moves else rewritten
            group.append(item)
        done: set[str] = set()
        for group, way in ((rewritten, self._rewrite), (moved, self._move), (held, self._release)):
            for some in _portions(group):
                with self._open(writing=True) as link:
                    done |= way(link, some)
        return [each.etag in done for each in order]

    def _open(self, *, writing: bool = False) -> AbstractContextManager[Link]:
        """Open the collection, which may hold no document of Pitstop's yet."""
        if not self._dialect.batches:
            raise Unsupported(
                "A stand-in for MongoDB's client does not have the capability ADOPT. Use the server itself, by a URL."
            )
        return self._connection.indexed(foreign=True) if writing else self._connection.operation()

    def _read(
        self, link: Link, after: Mapping[str, Any] | None, locked_after: int | None
    ) -> tuple[list[RawBSONDocument], Mapping[str, Any] | None]:
        """Return the documents of the next page that can be adopted, and the ``_id`` at which the page after it begins.

        The page is given by bounds of the index, because a comparison in a filter finds ids of one type alone.
        """
        raw, along = link.handles.raw, {"sort": [("_id", 1)], **self._dialect.by_id}
        bounds: dict[str, Any] = {} if after is None else {"min": after}
        edge = next(iter(raw.find({}, {"_id": 1}, skip=_PAGE, limit=1, **along, **bounds)), None)
        if edge is not None:
            bounds["max"] = id_document(edge)
        filter: Mapping[str, Any] = {"$or": [OLD, HELD]}
        if locked_after is not None:
            filter = {**OLD, "locked": {"$gt": from_instant(locked_after)}}
        documents: list[RawBSONDocument] = []
        size = 0
        with raw.find(filter, **along, **bounds) as cursor:
            for each in cursor:
                size += len(each.raw)
                if documents and size > _PAGE_BYTES:
                    return documents, id_document(each)
                documents.append(each)
        return documents, bounds.get("max")

    def _without_a_rival(self, link: Link, found: Sequence[Legacy]) -> list[Legacy]:
        """Return the same documents. If another document has the new id, or will have it, a document gets a problem."""
        moving = [each for each in found if each.problem is None and each.handle.moves]
        if not moving:
            return list(found)
        coll = link.handles.coll
        texts = link.handles.raw.find({"_id": {"$in": [each.id for each in moving]}}, {"_id": 1, "adopting.id": 1})
        # A document that an adoption of this same document has left is no rival.
        taken = {fields_of(each)["_id"]: _origin(each) for each in texts}
        twins = [each.handle.twin for each in moving if each.handle.twin is not None]
        standard = {each["_id"] for each in coll.find({"_id": {"$in": twins}, **OLD}, {"_id": 1})} if twins else set()
        problem = "Its id becomes a text that is the id of another document, or will be."

        def checked(each: Legacy) -> Legacy:
            handle = each.handle
            if each.problem is not None or not handle.moves:
                return each
            rivalled = handle.twin in standard or (each.id in taken and taken[each.id] != handle.key)
            return attrs.evolve(each, problem=problem) if rivalled else each

        return [checked(each) for each in found]

    def _orphans(self, link: Link, held: Sequence[Legacy]) -> list[Legacy]:
        """Return the held documents whose old document is gone. The others are adopted again with the old document."""
        if not held:
            return []
        origins = {each.name: _origin(each.handle.document) for each in held}
        there = link.handles.coll.find({"_id": {"$in": list(origins.values())}, **OLD}, {"_id": 1})
        old = [each["_id"] for each in there]
        return [each for each in held if origins[each.name] not in old]

    def _rewrite(self, link: Link, some: Sequence[_Item]) -> set[str]:
        requests = [UpdateOne(self._unchanged(each), _update(each), **self._dialect.by_id) for each in some]
        return self._marked(link, some, link.handles.coll.bulk_write(requests, ordered=False).matched_count)

    def _move(self, link: Link, some: Sequence[_Item]) -> set[str]:
        coll, by_id = link.handles.coll, self._dialect.by_id
        marks = [UpdateOne(self._unchanged(each), {"$set": {"adopting": each.etag}}, **by_id) for each in some]
        marked = coll.bulk_write(marks, ordered=False).matched_count
        ours = self._having(link, some, "adopting") if marked < len(some) else {each.etag for each in some}
        held = self._hold(link, [each for each in some if each.etag in ours])
        if not held:
            return set()
        deletes = [DeleteOne({"_id": self._dialect.one(each.handle.key), **_as_marked(each)}, **by_id) for each in held]
        if coll.bulk_write(deletes, ordered=False).deleted_count < len(held):
            there = coll.find({"_id": {"$in": [each.handle.key for each in held]}}, {"_id": 1})
            kept = [each["_id"] for each in there]
            for each in held:
                if each.handle.key in kept:
                    coll.delete_one({"_id": self._dialect.one(each.record.id), "etag": each.etag, **HELD})
            held = [each for each in held if each.handle.key not in kept]
        return self._release(link, held)

    def _hold(self, link: Link, some: Sequence[_Item]) -> list[_Item]:
        """Write the new documents without a due. Leave out a document if another one has its id."""
        if not some:
            return []
        requests = [
            ReplaceOne(
                {"_id": self._dialect.one(each.record.id), "adopting.id": {"$eq": each.handle.key}, **_WITHOUT_DUE},
                _held(each),
                upsert=True,
            )
            for each in some
        ]
        try:
            link.handles.coll.bulk_write(requests, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            failed = details.get("writeErrors", [])
            if details.get("writeConcernErrors") or any(each["code"] != _DUPLICATE for each in failed):
                raise
            taken = {each["index"] for each in failed}
            return [each for index, each in enumerate(some) if index not in taken]
        return list(some)

    def _release(self, link: Link, some: Sequence[_Item]) -> set[str]:
        """Let held documents be claimed. A document whose message was stored again meanwhile counts as adopted."""
        if some:
            requests = [
                UpdateOne({"_id": self._dialect.one(each.record.id), **HELD}, _due(each), **self._dialect.by_id)
                for each in some
            ]
            link.handles.coll.bulk_write(requests, ordered=False)
        return {each.etag for each in some}

    def _unchanged(self, item: _Item) -> dict[str, Any]:
        """Return the filter that finds a document only while each value in it is as it was read."""
        whole = {"$eq": ["$$ROOT", {"$literal": item.handle.document}]}
        return {"_id": self._dialect.one(item.handle.key), "$expr": whole}

    def _marked(self, link: Link, some: Sequence[_Item], count: int) -> set[str]:
        """Return the marks of the documents that were rewritten.

        A message that was emitted and acknowledged at the same moment counts as not adopted. It is gone in any case.

        :param count: how many documents were rewritten.
        """
        return {each.etag for each in some} if count == len(some) else self._having(link, some, "etag")

    def _having(self, link: Link, some: Sequence[_Item], field: str) -> set[str]:
        wanted = {"_id": {"$in": [each.handle.key for each in some]}, field: {"$in": [each.etag for each in some]}}
        found = link.handles.majority.find(wanted, {field: 1}, **self._dialect.by_id)
        return {each[field] for each in found}


_WITHOUT_DUE: Mapping[str, Any] = {"due": HELD["due"]}


def _update(item: _Item) -> dict[str, Any]:
    fields = item.document
    del fields["_id"], fields["msg"]
    old = item.handle.document
    gone = [name for name in old if name not in {"_id", "msg"}]
    if "id" in old["msg"]:
        gone.append("msg.id")
    return {"$set": fields, "$unset": dict.fromkeys(gone, "")}


def _held(item: _Item) -> dict[str, Any]:
    document = item.document | {"last_error": _HALFWAY}
    mark = {"id": item.handle.key, "due": document.pop("due"), "last_error": item.record.progress.last_error}
    return document | {"adopting": mark}


def _due(item: _Item) -> dict[str, Any]:
    progress = item.record.progress
    assert progress.due is not None, "an adopted message is never dead"
    fields, gone = {"due": from_instant(progress.due)}, {"adopting": ""}
    if progress.last_error is None:
        return {"$set": fields, "$unset": gone | {"last_error": ""}}
    return {"$set": fields | {"last_error": progress.last_error}, "$unset": gone}


def _as_marked(item: _Item) -> dict[str, Any]:
    """Return the condition that no other program has written the document since it was marked.

    The Clojure library changes ``ready`` or ``locked``, or replaces the whole document.
    """
    document = item.handle.document
    same = {name: {"$eq": document.get(name)} for name in ("ready", "locked")}
    return {"adopting": {"$eq": item.etag}, **same}


def _origin(document: RawBSONDocument) -> Any:
    mark = mark_of(document)
    return mark.get("id") if isinstance(mark, Mapping) else None


def _portions(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    some: list[_Item] = []
    size = 0
    for each in items:
        length = len(each.handle.document.raw)
        if some and size + length > _MOST_BYTES:
            yield some
            some, size = [], 0
        some.append(each)
        size += length
    if some:
        yield some
