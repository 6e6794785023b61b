"""Stores: each record whole, in place of the one with its id."""

from __future__ import annotations

import os

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from pitstop.abc import Record
from pitstop_mongo._connection import Connection
from pitstop_mongo._document import document_of


__all__ = ["Storer"]

#: Of one command; the driver's own limits are higher than what a timeout may hold for.
_MOST_DOCUMENTS = 5000
_MOST_BYTES = 8 * 1024 * 1024

_DUPLICATE = 11000

_Document = Mapping[str, Any]


class Storer:
    """Writes records for one backend."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`pitstop.abc.Backend.put`."""
        nonce = os.urandom(16).hex()
        with self._connection.indexed():
            # All of them before the first is sent: nothing is stored if one cannot be.
            documents = [
                (record.id, self._dialect.encode(document_of(record, f"{nonce}:{index}")))
                for index, record in enumerate(records)
            ]
        if len(documents) == 1 or not self._dialect.batches:
            for id, document in documents:
                with self._connection.operation() as link:
                    link.handles.coll.replace_one({"_id": self._dialect.one(id)}, document, upsert=True)
            return
        mostly_new = True
        for some in _chunks(documents):
            replaced = self._insert(some) if mostly_new else some
            mostly_new = len(replaced) <= len(some) // 2
            self._replace(replaced)

    def _insert(self, some: Sequence[tuple[str, _Document]]) -> list[tuple[str, _Document]]:
        """Insert those that are new, which costs a fifth of replacing them; return the others."""
        with self._connection.operation() as link:
            try:
                link.handles.coll.insert_many([document for _, document in some], ordered=False)
            except BulkWriteError as error:
                details = error.details or {}
                failed = details.get("writeErrors", [])
                if details.get("writeConcernErrors") or any(each["code"] != _DUPLICATE for each in failed):
                    raise
                return [some[each["index"]] for each in failed]
            return []

    def _replace(self, some: Sequence[tuple[str, _Document]]) -> None:
        if not some:
            return
        requests = [ReplaceOne({"_id": self._dialect.one(id)}, document, upsert=True) for id, document in some]
        with self._connection.operation() as link:
            link.handles.coll.bulk_write(requests, ordered=False)


def _chunks(documents: list[tuple[str, _Document]]) -> Iterator[list[tuple[str, _Document]]]:
    some: list[tuple[str, _Document]] = []
    size = 0
    for each in documents:
        document = each[1]
        assert isinstance(document, RawBSONDocument), "only documents that were encoded are sent in batches"
        if some and (len(some) >= _MOST_DOCUMENTS or size + len(document.raw) > _MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(each)
        size += len(document.raw)
    if some:
        yield some
