"""Writes in a transaction of the user: stores, removals and acks. They take effect when the transaction commits.

Write concerns, retries and unknown outcomes belong to the transaction, and so to the session of the user. The session's driver
sends all commands: a session of an AsyncMongoClient sends them in its event loop. Each method describes its commands once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import pymongo

from pymongo import ReplaceOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession
from pymongo.errors import InvalidOperation, OperationFailure, PyMongoError

from pitstop import ConfigError, PitstopError, Unsupported
from pitstop.abc import Damaged, Progress, Record, Settlement, run_in_loop
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.dialect import Handles
from pitstop_mongo._messages.document import read
from pitstop_mongo._messages.fence import fenced, new_etags, update_of
from pitstop_mongo._messages.storer import Write, encoded, expectation, portions


__all__ = ["Transaction"]

#: The codes with which a server without transactions refuses the first command of a transaction.
_NO_TRANSACTIONS = frozenset({20, 263})
#: The label of an error after which the whole transaction should be repeated.
_TRANSIENT = "TransientTransactionError"
_WRITE_CONFLICT = 112

_T = TypeVar("_T")


class Transaction:
    """Writes for one backend, in the transaction of one session.

    The claimer of this process gets no notice of the commit, as if another process had stored the messages. So it may still
    begin its reads after them, but only for a second.
    """

    def __init__(
        self, connection: Connection, client: Any, session: object, async_handles: Callable[[], Handles]
    ) -> None:
        """Check the session. Nothing is sent.

        :param client: the client that the user gave. None: Pitstop has its own.
        :param async_handles: returns the collection of the user's AsyncMongoClient.
        """
        self._connection = connection
        self._dialect = connection.dialect
        self._session = self._checked(client, session)
        self._async_handles = async_handles if isinstance(session, AsyncClientSession) else None
        self._number = self._present_number()

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

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        """See :meth:`pitstop.abc.TransactionWrites.settle`."""
        with self._connection.calls.enter():
            now, etags = self._connection.now_us() // 1000, new_etags()
            return [self._run(partial(self._settle, each, next(etags), now)) for each in settlements]

    def is_open(self) -> bool:
        """See :meth:`pitstop.abc.TransactionWrites.is_open`."""
        # The session may be in a later transaction by now.
        return bool(self._session.in_transaction) and self._present_number() == self._number

    def _present_number(self) -> object:
        """Return the number of the session's present or last transaction. None: this PyMongo does not show it."""
        return getattr(self._session, "_transaction_id", None)

    def _put(self, some: Sequence[Write], handles: Handles) -> None:
        # No inserts first, unlike outside of a transaction: an id that exists already would abort the transaction.
        requests = [ReplaceOne({"_id": self._dialect.one(each.record.id)}, each.document, upsert=True) for each in some]
        self._send(handles.coll.bulk_write, requests)

    def _put_if(self, write: Write, expected: Mapping[str, Any] | None, handles: Handles) -> bool:
        coll, id = handles.coll, self._dialect.one(write.record.id)
        if expected is not None:
            return bool(self._send(coll.replace_one, {"_id": id, **expected}, write.document).matched_count)
        # An insert of an id that exists would abort the transaction. If another user stores the id after this look, the
        # server reports a conflict, and the driver begins the transaction again.
        if self._send(handles.raw.find_one, {"_id": id}, {"_id": 1}) is not None:
            return False
        self._send(coll.insert_one, write.document)
        return True

    def _get(self, id: str, handles: Handles) -> Record | Damaged | None:
        document = self._send(handles.raw.find_one, {"_id": self._dialect.one(id)})
        return None if document is None else read(document).content

    def _delete(self, id: str, handles: Handles) -> bool:
        return bool(self._send(handles.coll.delete_one, {"_id": self._dialect.one(id)}).deleted_count)

    def _settle(self, settlement: Settlement, etag: str, now: int, handles: Handles) -> bool:
        filter, coll = fenced(self._dialect.one(settlement.id), settlement.token, now), handles.coll
        if settlement.progress is None:
            done = bool(self._send(coll.delete_one, filter).deleted_count)
        else:
            done = bool(self._send(coll.update_one, filter, update_of(settlement, etag)).matched_count)
        if not done and self._is_view_old(settlement, filter, handles):
            # By this error the transaction is tried again, and then sees the lease.
            raise OperationFailure(
                "The transaction began before the message was leased, or before its lease was extended.",
                _WRITE_CONFLICT,
                {"errorLabels": [_TRANSIENT], "code": _WRITE_CONFLICT, "codeName": "WriteConflict", "ok": 0},
            )
        return done

    def _is_view_old(self, settlement: Settlement, filter: Mapping[str, Any], handles: Handles) -> bool:
        """Whether the fence refused a settlement because the transaction sees the message as it was before its lease.

        The server reports a conflict only if the old version of the document fits the filter.
        """
        with self._connection.operation() as link:
            if link.handles.coll.find_one(filter, {"_id": 1}) is None:
                return False
            outside = read(link.handles.raw.find_one({"_id": self._dialect.one(settlement.id)}) or {}).content
        inside = self._get(settlement.id, handles)
        return (
            isinstance(inside, Record)
            and isinstance(outside, Record)
            and inside.revision == outside.revision
            # Otherwise the transaction itself has done it before.
            and inside.progress != settlement.progress
        )

    def _send(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Send a command in the session."""
        if self._async_handles is None:
            return method(*arguments, session=self._session)
        return run_in_loop(method, *arguments, session=self._session)

    def _run(self, work: Callable[[Handles], _T]) -> _T:
        with self._connection.operation() as link:
            try:
                return work(link.handles if self._async_handles is None else self._async_handles())
            except PyMongoError as error:
                if isinstance(error, OperationFailure) and error.code in _NO_TRANSACTIONS:
                    raise Unsupported(
                        f"MongoDB at {self._connection.location} does not have the capability TRANSACTIONS, which session= "
                        f"needs (code {error.code}). A standalone server has no transactions. Make it a replica set. One "
                        f"member is enough."
                    ) from None
                # PyMongo gives the label to the refusal of a client that was closed, too. No retry could help.
                if not error.has_error_label(_TRANSIENT) or isinstance(error, InvalidOperation):
                    raise
                transient = error
        # The error of the driver is raised outside of the operation, which would translate it. By this error the session's
        # with_transaction knows that it should repeat. Its text is about a conflict or a connection, not about documents.
        raise transient

    def _checked(self, client: Any, session: object) -> Any:
        if not self._dialect.batches:
            raise Unsupported(
                f"MongoBackend ({self._connection.location}) does not have the capability TRANSACTIONS, which session= needs, "
                f"with a client of {type(client).__module__}. Leave session out, or give a pymongo.MongoClient."
            )
        if not isinstance(session, ClientSession | AsyncClientSession):
            raise PitstopError(
                f"session is a {type(session).__name__}. Give the session that start_session() of a pymongo.MongoClient, or of an "
                f"AsyncMongoClient, returns."
            )
        if client is None:
            raise ConfigError(
                "session cannot be used, because Pitstop has a client of its own, and the session belongs to another one. Give "
                "your client to init as client, instead of an address."
            )
        is_async = isinstance(session, AsyncClientSession)
        if is_async != isinstance(client, pymongo.AsyncMongoClient):
            raise PitstopError(
                f"session is a {type(session).__name__}, and the client that init was given is a {type(client).__name__}. Call "
                f"start_session() of that client. With pitstop.init_async(), give an AsyncMongoClient."
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
                "call the function that uses the session here."
            )
        return session
