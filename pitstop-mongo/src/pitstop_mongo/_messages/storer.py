"""Stores and removals. A store writes a whole record, and replaces the one with the same id.

If the reply to a store gets lost, the store is not simply sent again: the message may have been emitted and acknowledged
meanwhile. A message that is found with its revision was stored. One that is not found, and is not due yet, was not stored.
"""

from __future__ import annotations

import os

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import attrs
import pymongo

from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import Progress, Record
from pitstop_mongo._bson.raw import elements, equal_to
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.failures import CAUGHT, translate
from pitstop_mongo._client.link import Link
from pitstop_mongo._client.run import Run
from pitstop_mongo._messages.document import LAST_INSTANT, documents_of, has_progress


__all__ = ["Storer", "Write", "encoded", "expectation", "portions"]

#: The limits of one command. The driver's own limits are too high for the timeout.
_MOST_DOCUMENTS = 5000
_MOST_BYTES = 8 * 1024 * 1024

_DUPLICATE = 11000
#: How often a removal begins again because the message was stored again meanwhile.
_MOST_VERSIONS = 5


@attrs.frozen
class Write:
    """A record that is being stored."""

    record: Record
    #: In the form in which it is sent.
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
                # The batches before this one were stored. The error names the others, since the caller gave all in one call.
                if not (number or isinstance(error, OutcomeUnknown)):
                    raise
                raise OutcomeUnknown(
                    f"{error} Store again under the same ids (see error.ids). Then all messages are stored. A message that was "
                    f"also stored the first time may be emitted twice.",
                    ids=tuple(each.record.id for some in batches[number:] for each in some),
                    permanent=error.permanent,
                ) from None

    def put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        """See :meth:`pitstop.abc.Backend.put_if`."""
        (write,) = encoded(self._connection, [record])
        expected = None if revision is None else expectation(revision, progress)
        try:
            return self._connection.until_known(partial(self._put_if, write, expected))
        except OutcomeUnknown as error:
            text = f"{error} Check with get(), or store again under the same id."
            raise OutcomeUnknown(text, ids=(record.id,), permanent=error.permanent) from None

    def delete(self, id: str) -> bool:
        """See :meth:`pitstop.abc.Backend.delete`."""
        try:
            return self._connection.until_known(partial(self._delete, id))
        except OutcomeUnknown as error:
            raise OutcomeUnknown(f"{error} Check with get(), or remove again.", ids=(id,)) from None

    def insert(self, batch: Sequence[Write], run: Run) -> set[str]:
        """Insert the records of a batch whose ids are new, in one run. Return these ids, with those that an earlier run has inserted."""
        taken: Sequence[Write] = ()
        if not run.again:
            taken = self._insert(run, batch)
        else:
            left, seconds = self._left(run.link, batch)
            # Not after one of them is due, as for a store.
            with pymongo.timeout(seconds):
                taken = self._insert(run, left) if left else ()
        return {each.record.id for each in batch} - {each.record.id for each in taken}

    def _put(self, batch: Sequence[Write], mostly_new: bool, run: Run) -> bool:
        """Store a batch; return whether most of it was new. The next batch is then expected to be new, too."""
        if not run.again:
            return self._write(run, batch, mostly_new)
        left, seconds = self._left(run.link, batch)
        # Not after the message is due: then the message of an earlier run may have been emitted and acknowledged.
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

    def _put_if(self, write: Write, expected: Mapping[str, Any] | None, run: Run) -> bool:
        if not run.again:
            return self._write_if(run, write, expected)
        left, seconds = self._left(run.link, [write])
        if not left:
            return True
        with pymongo.timeout(seconds):
            # If the record is not the expected one, the command of an earlier run may have replaced it just now.
            return self._write_if(run, write, expected) or not self._left(run.link, [write])[0]

    def _write_if(self, run: Run, write: Write, expected: Mapping[str, Any] | None) -> bool:
        coll = run.link.handles.coll
        if expected is not None:
            filter = {"_id": self._dialect.one(write.record.id), **expected}
            return bool(run.send(coll.replace_one, filter, write.document).matched_count)
        try:
            run.send(coll.insert_one, write.document)
        except DuplicateKeyError:
            return False
        return True

    def _left(self, link: Link, batch: Sequence[Write]) -> tuple[Sequence[Write], float]:
        """Return the records that no earlier run has stored, and the seconds until the first of them is due.

        :raises OutcomeUnknown: if a record is due that is not there. It may have been stored, emitted and acknowledged. If it
            were stored again, it would be emitted again.
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
                f"MongoDB at {self._connection.location} lost the reply to a store. Whether it was done is not known, because "
                f"the message may have been emitted and acknowledged by now."
            )
        return left, (due - now) / 1000

    def _delete(self, id: str, run: Run) -> bool:
        coll = run.link.handles.coll
        for _ in range(_MOST_VERSIONS):
            # Read as bytes, so that a damaged document can be removed, too.
            found = run.link.handles.raw.find_one({"_id": self._dialect.one(id)}, {"revision": 1})
            if found is None:
                break
            # Only this version. If the server executes the command after we have given up, it must not delete a message that
            # was stored meanwhile. If it deletes nothing, this run has written nothing.
            if coll.delete_one({"_id": self._dialect.one(id), "revision": _version(found)}).deleted_count:
                return True
        else:
            return bool(coll.delete_one({"_id": self._dialect.one(id)}).deleted_count)
        if run.again:
            raise OutcomeUnknown(
                f"MongoDB at {self._connection.location} lost the reply to a removal. The message is gone. Whether this call "
                f"removed it, or it was gone before, is not known."
            )
        return False

    def _insert(self, run: Run, some: Sequence[Write]) -> Sequence[Write]:
        """Insert the records that are new, which takes a fifth of the time of replacing them. Return the others."""
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
    """Return the condition that a document still has its revision."""
    if isinstance(document, RawBSONDocument):
        try:
            revision = document.get("revision")
        except BSONError:
            revision = None
        if type(revision) is not str:
            return equal_to(next((each for name, each in elements(document.raw) if name == b"revision"), None))
        return revision
    return document.get("revision")


def expectation(revision: str, progress: Progress | None) -> dict[str, Any]:
    """Return the condition that a document has this revision, and this progress if one is given."""
    condition: dict[str, Any] = {"revision": {"$eq": revision}}
    return condition if progress is None else condition | has_progress(progress)


def encoded(connection: Connection, records: Sequence[Record]) -> list[Write]:
    """Encode all records before the first is sent, so that nothing is stored if one is invalid. Make the index first."""
    connection.prepare()
    nonce, encode = os.urandom(16).hex(), connection.dialect.encode
    documents = documents_of(records, (f"{nonce}:{index}" for index in count()))
    try:
        return [Write(record, encode(document)) for record, document in zip(records, documents, strict=True)]
    except CAUGHT as error:
        raise translate(error, connection.location) from None


def portions(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Yield the writes of each command."""
    some: list[Write] = []
    size = 0
    for each in writes:
        document = each.document
        assert isinstance(document, RawBSONDocument), "documents of a batch are encoded before they are sent"
        length = len(document.raw)
        if some and (len(some) >= _MOST_DOCUMENTS or size + length > _MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(each)
        size += length
    if some:
        yield some
