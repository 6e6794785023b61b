"""Stores and removals in a transaction of the user's: they count if and when it commits.

Nothing here is about concerns, retries or outcomes: those belong to the transaction, and so to the user's session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure, PyMongoError

from pitstop import ConfigError, PitstopError, Unsupported
from pitstop.abc import Record
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link
from pitstop_mongo._messages.storer import Write, encoded, portions


__all__ = ["Transaction"]

#: What a server without transactions refuses the first command of one with.
_NO_TRANSACTIONS = frozenset({20, 263})
#: The label of an error after which the whole transaction is to be tried again.
_TRANSIENT = "TransientTransactionError"

_T = TypeVar("_T")


class Transaction:
    """Writes for one backend, in the transaction of one session.

    To the claimers of this process, too, the commit is like a store by another process: what they remember of the
    backlog's beginning is not told of it, and they look there each second all the same.
    """

    def __init__(self, connection: Connection, client: Any, session: object) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        self._session = self._checked(client, session)

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`pitstop.abc.Backend.put`."""
        with self._connection.calls.enter():
            # The index is made here, outside of the transaction.
            for some in portions(encoded(self._connection, records)):
                self._run(partial(self._put, some))

    def delete(self, id: str) -> bool:
        """See :meth:`pitstop.abc.Backend.delete`."""
        with self._connection.calls.enter():
            return self._run(partial(self._delete, id))

    def _put(self, some: Sequence[Write], link: Link) -> None:
        # Not inserted first, as outside: one id that is there already would abort the transaction.
        requests = [ReplaceOne({"_id": self._dialect.one(each.record.id)}, each.document, upsert=True) for each in some]
        link.handles.coll.bulk_write(requests, session=self._session)

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
                        f"MongoDB at {self._connection.location} has not got the capability TRANSACTIONS, which session= "
                        f"needs (code {error.code}). A standalone server has none: make it a replica set, for which one "
                        f"member is enough."
                    ) from None
                if not error.has_error_label(_TRANSIENT):
                    raise
                transient = error
        # As it is, from outside of the operation, which would translate it: the session's with_transaction knows by the
        # driver's own error that it is to try again. Such an error tells of a conflict or a connection, not of documents.
        raise transient

    def _checked(self, client: Any, session: object) -> ClientSession:
        if not self._dialect.batches:
            raise Unsupported(
                f"MongoBackend ({self._connection.location}) has not got the capability TRANSACTIONS, which session= needs, "
                f"with a client of {type(client).__module__}. Leave session out, or give a pymongo.MongoClient."
            )
        if not isinstance(session, ClientSession):
            raise PitstopError(
                f"session is a {type(session).__name__}. Give what start_session() of a pymongo.MongoClient returns."
            )
        if client is None:
            raise ConfigError(
                "session cannot be used, for it is of another client than the one that Pitstop made for itself. Give yours "
                "to init as client, in place of what says where to connect."
            )
        if session.client is not client:
            raise PitstopError(
                "session is of another client than the one that init was given. Give one of that client's start_session()."
            )
        if session.has_ended:
            raise PitstopError("session has ended. Start a new one, and use it before the end of its block.")
        if not session.in_transaction:
            raise PitstopError(
                "session is in no transaction. Call session.start_transaction() first, or let session.with_transaction() "
                "call the function that does this."
            )
        return session
