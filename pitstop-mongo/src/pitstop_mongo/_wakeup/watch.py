"""Watches: how a listener notices the messages of other processes, by a change stream, or on a standalone by wake-ups.

They are only hints. If a watch dies, a new one begins at the present. The listeners look at the store to find earlier messages.
"""

from __future__ import annotations

import contextlib
import logging

from abc import abstractmethod
from datetime import datetime
from typing import Any

import bson
import pymongo

from pymongo.errors import InvalidOperation, OperationFailure

from pitstop import BackendUnavailable
from pitstop.abc import Watch, floor_instant, log_fields
from pitstop_mongo._bson.codecs import CODEC
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.failures import CAUGHT, translate
from pitstop_mongo._client.link import Link
from pitstop_mongo._wakeup.wakeups import AWAIT_MS, Wakeups, has_change_streams


__all__ = ["Watcher"]

_log = logging.getLogger("pitstop.mongo")

#: Seconds after the server's own wait after which a watch gives up on a server that does not answer.
_GRACE = 4.0
_CLOSE_PATIENCE = 1.0
#: Seconds between two waits while there is news, so that messages in quick succession take one round trip together. A message
#: that comes right after another one is noticed later by this time.
_REST = 0.005

_NEWS: list[dict[str, Any]] = [
    {"$changeStream": {}},
    {
        "$match": {
            "$or": [
                {"operationType": {"$in": ["insert", "replace"]}},
                # Released: the token is gone. A claim sets a token, and an extension leaves it. If a message is released at
                # the end of its lease, its due stays the same, and it is no news.
                {
                    "operationType": "update",
                    "updateDescription.removedFields": "token",
                    "updateDescription.updatedFields.due": {"$exists": True},
                },
            ]
        }
    },
    # The _id stays, because the server needs it.
    {"$project": {"due": {"$ifNull": ["$fullDocument.due", "$updateDescription.updatedFields.due"]}}},
]

#: Codes of permanent refusals: not allowed, or unknown to a server that only resembles MongoDB.
_REFUSED = frozenset({13, 59, 115, 40324, 40573})


class Watcher:
    """Opens watches for one backend."""

    def __init__(self, connection: Connection, wakeups: Wakeups) -> None:
        self._connection = connection
        self._wakeups = wakeups
        self._warned = False
        self._watched = False

    def watch(self) -> Watch | None:
        """See :meth:`pitstop.abc.Backend.watch`."""
        if not self._connection.dialect.batches:
            return None
        try:
            watch = self._open()
        except _Refused as refused:
            if self._watched:
                # It was allowed before, and may be allowed again.
                raise BackendUnavailable(
                    f"MongoDB at {self._connection.location}: {refused}.", permanent=True
                ) from None
            if not self._warned:
                self._warned = True
                _log.warning(
                    "a listener notices the messages of other processes in %s only when it looks next (loop_time): %s",
                    self._connection.location,
                    refused,
                    extra=log_fields("not_watched", backend="mongodb"),
                )
            return None
        self._watched = watch is not None
        return watch

    def _open(self) -> Watch | None:
        with self._connection.indexed() as link:
            if link.client.options.pool_options.max_pool_size == 1:
                raise _Refused("maxPoolSize=1 leaves no connection to wait on. Raise it")
            if not has_change_streams(link.client):
                tail = _open_tail(self._wakeups, link)
                return None if tail is None else _Tail(self._connection, self._wakeups, tail)
            return _Stream(self._connection, _open_stream(link))


class _Refused(Exception):
    """A watch cannot be opened. The text says why, and what to do."""


def _open_stream(link: Link) -> Any:
    try:
        # It does not resume from a token. The listeners find the changes in between when they look.
        return link.handles.majority.aggregate_raw_batches(_NEWS, maxAwaitTimeMS=AWAIT_MS)
    except OperationFailure as error:
        if error.code not in _REFUSED:
            raise
        raise _Refused(
            f"a change stream is refused (code {error.code}). "
            f"The user needs find and changeStream on the collection, as in the roles read and readWrite"
        ) from None
    except InvalidOperation as error:
        if "encryption" not in str(error):
            raise
        raise _Refused("a client with automatic encryption cannot follow a change stream in batches") from None


def _open_tail(wakeups: Wakeups, link: Link) -> Any | None:
    try:
        return wakeups.follow(link)
    except OperationFailure as error:
        if error.code not in _REFUSED:
            raise
        raise _Refused(
            f"the collection of wake-ups is refused (code {error.code}). The user needs the role readWrite on the database"
        ) from None


class _Following(Watch):
    """Waits for the server at the end of a cursor."""

    def __init__(self, connection: Connection, cursor: Any) -> None:
        self.pause = 0.0
        self._location = connection.location
        self._cursor = cursor

    def poll(self) -> int | None:
        try:
            # This limits the wait for the answer. The wait of the server itself was set when the cursor was opened.
            with pymongo.timeout(AWAIT_MS / 1000 + _GRACE):
                batch = self._next()
                if batch is None and not self._cursor.alive:
                    return self._died()
        except CAUGHT as error:
            raise translate(error, self._location) from None
        self.pause = _REST if batch else 0.0
        return _least_due(batch)

    def close(self) -> None:
        with contextlib.suppress(*CAUGHT), pymongo.timeout(_CLOSE_PATIENCE):
            self._cursor.close()

    @abstractmethod
    def _next(self) -> bytes | None:
        """Return the next documents; None if none came for a while, or if the cursor is dead."""

    @abstractmethod
    def _died(self) -> int | None:
        """Return the value of :meth:`poll` after the cursor died without an error, or raise."""


class _Stream(_Following):
    """Follows a change stream."""

    def _next(self) -> bytes | None:
        batch: bytes | None = self._cursor.try_next()
        return batch

    def _died(self) -> int | None:
        raise BackendUnavailable(
            f"MongoDB at {self._location} ended the change stream, as it does when the collection is dropped or renamed."
        )


class _Tail(_Following):
    """Follows the wake-ups."""

    def __init__(self, connection: Connection, wakeups: Wakeups, cursor: Any) -> None:
        super().__init__(connection, cursor)
        self._connection = connection
        self._wakeups = wakeups
        self._lived = False

    def _next(self) -> bytes | None:
        batch: bytes | None = next(self._cursor, None)
        self._lived = self._lived or self._cursor.alive
        return batch

    def _died(self) -> int | None:
        """Open the cursor again: it was overtaken by more wake-ups than the collection holds, or the collection was dropped."""
        self.close()
        cursor = None
        if self._lived:
            self._lived = False
            with self._connection.operation() as link:
                cursor = self._wakeups.follow(link)
        if cursor is None:
            raise BackendUnavailable(f"MongoDB at {self._location} has no collection of wake-ups any more.")
        self._cursor = cursor
        return 0


def _least_due(batch: bytes | None) -> int | None:
    """Return the least ``due`` in these documents. A document without a valid ``due`` is never due."""
    if not batch:
        return None
    try:
        found = [each.get("due") for each in bson.decode_all(batch, CODEC)]
    except bson.errors.BSONError:
        # A due cannot be read. Other documents of the batch may be due.
        return 0
    return min((max(floor_instant(due), 0) for due in found if isinstance(due, datetime)), default=None)
