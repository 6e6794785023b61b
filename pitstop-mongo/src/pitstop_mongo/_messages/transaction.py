"""Stores and removals in a transaction of the user. They take effect when the transaction commits.

Write concerns, retries and unknown outcomes belong to the transaction, and so to the session of the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure, PyMongoError

from pitstop import ConfigError, PitstopError, Unsupported
from pitstop.abc import Damaged, Progress, Record
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link
from pitstop_mongo._messages.document import read
from pitstop_mongo._messages.storer import Write, encoded, expectation, portions


__all__ = ["Transaction"]

#: The codes with which a server without transactions refuses the first command of a transaction.
_NO_TRANSACTIONS = frozenset({20, 263})
#: The label of an error after which the whole transaction should be repeated.
_TRANSIENT = "TransientTransactionError"

_T = TypeVar("_T")


class Transaction:
    """Writes for one backend, in the transaction of one session.

    The claimer of this process gets no notice of the commit, as if another process had stored the messages. So it may still
    begin its reads after them, but only for a second.
    """

    def __init__(self, connection: Connection, client: Any, session: object) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        self._session = self._checked(client, session)

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`pitstop.abc.Backend.put`."""
        with self._connection.calls.enter():
            # `encoded` makes the index, outside of the transaction.
            for some in portions(encoded(self._connection, records)):
                self._run(partial(self._put, some))

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        """See :meth:`pitstop.abc.Backend.put_if`."""
        with self._connection.calls.enter():
            (write,) = encoded(self._connection, [record])
            expected = None if revision is None else expectation(revision, progress)
            return self._run(partial(self._put_if, write, expected))

    def delete(self, id: str) -> bool:
        """See :meth:`pitstop.abc.Backend.delete`."""
        with self._connection.calls.enter():
            return self._run(partial(self._delete, id))

    def get(self, id: str) -> Record | Damaged | None:
        """See :meth:`pitstop.abc.Backend.get`."""
        with self._connection.calls.enter():
            return self._run(partial(self._get, id))

    def _put(self, some: Sequence[Write], link: Link) -> None:
        # No inserts first, unlike outside of a transaction: an id that exists already would abort the transaction.
        requests = [ReplaceOne({"_id": self._dialect.one(each.record.id)}, each.document, upsert=True) for each in some]
        link.handles.coll.bulk_write(requests, session=self._session)

    def _put_if(self, write: Write, expected: Mapping[str, Any] | None, link: Link) -> bool:
        coll, id = link.handles.coll, self._dialect.one(write.record.id)
        if expected is not None:
            return bool(coll.replace_one({"_id": id, **expected}, write.document, session=self._session).matched_count)
        # An insert of an id that exists would abort the transaction. If another user stores the id after this look, the
        # server reports a conflict, and the driver begins the transaction again.
        if link.handles.raw.find_one({"_id": id}, {"_id": 1}, session=self._session) is not None:
            return False
        coll.insert_one(write.document, session=self._session)
        return True

    def _get(self, id: str, link: Link) -> Record | Damaged | None:
        document = link.handles.raw.find_one({"_id": self._dialect.one(id)}, session=self._session)
        return None if document is None else read(document).content

    def _delete(self, id: str, link: Link) -> bool:
        filter = {"_id": self._dialect.one(id)}
        return bool(link.handles.coll.delete_one(filter, session=self._session).deleted_count)

    def _run(self, work: Callable[[Link], _T]) -> _T:
        with self._connection.operation() as link:
            try:
                return work(link)
            except PyMongoError as error:
                if isinstance(error, OperationFailure) and error.code in _NO_TRANSACTIONS:
                    raise Unsupported(
                        f"MongoDB at {self._connection.location} does not have the capability TRANSACTIONS, which session= "
                        f"needs (code {error.code}). A standalone server has no transactions. Make it a replica set. One "
                        f"member is enough."
                    ) from None
                if not error.has_error_label(_TRANSIENT):
                    raise
                transient = error
        # The error of the driver is raised outside of the operation, which would translate it. By this error the session's
        # with_transaction knows that it should repeat. Its text is about a conflict or a connection, not about documents.
        raise transient

    def _checked(self, client: Any, session: object) -> ClientSession:
        if not self._dialect.batches:
            raise Unsupported(
                f"MongoBackend ({self._connection.location}) does not have the capability TRANSACTIONS, which session= needs, "
                f"with a client of {type(client).__module__}. Leave session out, or give a pymongo.MongoClient."
            )
        if not isinstance(session, ClientSession):
            raise PitstopError(
                f"session is a {type(session).__name__}. Give the session that start_session() of a pymongo.MongoClient returns."
            )
        if client is None:
            raise ConfigError(
                "session cannot be used, because Pitstop has a client of its own, and the session belongs to another one. Give "
                "your client to init as client, instead of an address."
            )
        if session.client is not client:
            raise PitstopError(
                "session belongs to another client than the one that init was given. Call start_session() of that client."
            )
        if session.has_ended:
            raise PitstopError("session has ended. Start a new session, and use it before the end of its block.")
        if not session.in_transaction:
            raise PitstopError(
                "session is in no transaction. Call session.start_transaction() first, or let session.with_transaction() "
                "call the function that stores or removes."
            )
        return session
