"""Stores and removals: each record whole, in place of the one with its id.

A store whose reply got lost is not simply sent again: the message may have been emitted and acknowledged since. What is
found under its revision was stored; what is not, and is not due yet, was not.
"""

from __future__ import annotations

import os

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import pymongo

from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import Record
from pitstop_mongo._bson.raw import elements, equal_to
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link
from pitstop_mongo._client.run import Run
from pitstop_mongo._messages.document import LAST_INSTANT, document_of


__all__ = ["Storer", "Write", "encoded", "portions"]

#: Of one command; the driver's own limits are higher than what a timeout may hold for.
_MOST_DOCUMENTS = 5000
_MOST_BYTES = 8 * 1024 * 1024

_DUPLICATE = 11000
#: Times that a removal begins anew because the message was stored anew in between.
_MOST_VERSIONS = 5


@attrs.frozen
class Write:
    """A record on its way."""

    record: Record
    #: As it is sent.
    document: Mapping[str, Any]


class Storer:
    """Writes records for one backend."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`pitstop.abc.Backend.put`."""
        writes = encoded(self._connection, records)
        mostly_new = True
        batches = list(portions(writes) if self._dialect.batches else ([each] for each in writes))
        for number, batch in enumerate(batches):
            try:
                mostly_new = self._connection.until_known(partial(self._put, batch, mostly_new))
            except BackendUnavailable as error:
                # Of the batches before this one it is known; the caller, who gave them together, is told of the rest.
                if not (number or isinstance(error, OutcomeUnknown)):
                    raise
                raise OutcomeUnknown(
                    f"{error} Store again under the same ids (they are in error.ids): then all are stored, though one that "
                    f"was stored the first time too may be emitted twice.",
                    ids=tuple(each.record.id for some in batches[number:] for each in some),
                    permanent=error.permanent,
                ) from None

    def delete(self, id: str) -> bool:
        """See :meth:`pitstop.abc.Backend.delete`."""
        try:
            return self._connection.until_known(partial(self._delete, id))
        except OutcomeUnknown as error:
            raise OutcomeUnknown(f"{error} Look with get(), or remove again.", ids=(id,)) from None

    def _put(self, batch: Sequence[Write], mostly_new: bool, run: Run) -> bool:
        """Store a batch; return whether most of it was new. The next batch is then expected to be new, too."""
        if not run.again:
            return self._write(run, batch, mostly_new)
        left, seconds = self._left(run.link, batch)
        # Not beyond the time when it is due: by then an earlier run's may have been emitted and acknowledged.
        with pymongo.timeout(seconds):
            return self._write(run, left, mostly_new)

    def _write(self, run: Run, batch: Sequence[Write], mostly_new: bool) -> bool:
        coll = run.link.handles.coll
        if len(batch) <= 1:
            for write in batch:
                run.send(coll.replace_one, {"_id": self._dialect.one(write.record.id)}, write.document, upsert=True)
            return mostly_new
        replaced = self._insert(run, batch) if mostly_new else batch
        if replaced:
            requests = [
                ReplaceOne({"_id": self._dialect.one(each.record.id)}, each.document, upsert=True) for each in replaced
            ]
            run.send(coll.bulk_write, requests, ordered=False)
        return len(replaced) <= len(batch) // 2

    def _left(self, link: Link, batch: Sequence[Write]) -> tuple[Sequence[Write], float]:
        """What an earlier run has not stored, and the seconds until the first of it is due.

        :raises OutcomeUnknown: when that cannot be told: what is due may have been stored, emitted and acknowledged
            since. To store it again would emit it again.
        """
        revisions = [each.record.revision for each in batch]
        wanted = {"_id": {"$in": [each.record.id for each in batch]}, "revision": {"$in": revisions}}
        found = link.handles.majority.find(wanted, {"_id": 1}, batch_size=len(batch), **self._dialect.by_id)
        stored = {each["_id"] for each in found}
        left = [each for each in batch if each.record.id not in stored]
        self._connection.counters["store_recovered"] += len(stored)
        now = self._connection.now_us() // 1000
        due = min((each.record.progress.due or 0 for each in left), default=LAST_INSTANT)
        if due <= now:
            raise OutcomeUnknown(
                f"MongoDB at {self._connection.location} lost the reply to a store. Whether it was done is not known: by now "
                f"the message may have been emitted and acknowledged."
            )
        return left, (due - now) / 1000

    def _delete(self, id: str, run: Run) -> bool:
        coll = run.link.handles.coll
        for _ in range(_MOST_VERSIONS):
            # By its bytes, so that a damaged document can be removed, too.
            found = run.link.handles.raw.find_one({"_id": self._dialect.one(id)}, {"revision": 1})
            if found is None:
                break
            # This version and no other: should the server get to it only after we have given up, then not over what was
            # stored since. If it deletes nothing, this run has written nothing.
            if coll.delete_one({"_id": self._dialect.one(id), "revision": _version(found)}).deleted_count:
                return True
        else:
            return bool(coll.delete_one({"_id": self._dialect.one(id)}).deleted_count)
        if run.again:
            raise OutcomeUnknown(
                f"MongoDB at {self._connection.location} lost the reply to a removal. The message is gone; whether this call "
                f"removed it, or it was gone before, is not known."
            )
        return False

    def _insert(self, run: Run, some: Sequence[Write]) -> Sequence[Write]:
        """Insert those that are new, which costs a fifth of replacing them; return the others."""
        try:
            run.send(run.link.handles.coll.insert_many, [each.document for each in some], ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            failed = details.get("writeErrors", [])
            unconfirmed = details.get("writeConcernErrors") and len(failed) < len(some)
            if unconfirmed or any(each["code"] != _DUPLICATE for each in failed):
                raise
            run.wrote = len(failed) < len(some)
            return [some[each["index"]] for each in failed]
        return []


def _version(document: Mapping[str, Any]) -> Any:
    """The condition that a document still has this revision."""
    if isinstance(document, RawBSONDocument):
        try:
            revision = document.get("revision")
        except BSONError:
            revision = None
        if type(revision) is not str:
            return equal_to(next((each for name, each in elements(document.raw) if name == b"revision"), None))
        return revision
    return document.get("revision")


def encoded(connection: Connection, records: Sequence[Record]) -> list[Write]:
    """All of them before the first is sent: nothing is stored if one cannot be. The index is there then."""
    nonce = os.urandom(16).hex()
    with connection.indexed():
        return [
            Write(record, connection.dialect.encode(document_of(record, f"{nonce}:{index}")))
            for index, record in enumerate(records)
        ]


def portions(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """What goes in one command each."""
    some: list[Write] = []
    size = 0
    for each in writes:
        document = each.document
        assert isinstance(document, RawBSONDocument), "only documents that were encoded are sent in batches"
        if some and (len(some) >= _MOST_DOCUMENTS or size + len(document.raw) > _MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(each)
        size += len(document.raw)
    if some:
        yield some
