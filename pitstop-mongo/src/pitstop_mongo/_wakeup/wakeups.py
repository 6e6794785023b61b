"""Wake-ups on a standalone, which has no change streams: hints in a small capped collection beside the messages.

::

    _id        from the driver
    pitstop    "wakeup", in every document; it shows that the collection is Pitstop's, and may be capped again
    due        the least due of the messages that were written; absent in a document that only marks the end
    by         the process that wrote it, which ignores its own wake-ups

A process that stores a message writes a wake-up if the message is due before other listeners would look again. It does not
wait for the reply. Watchers have a cursor that waits at the end of the collection.

The collection must never be an ordinary one, which would grow without end. So it is made, as a capped one, before the first
wake-up is written, and is checked again each minute. If it is not capped, it is capped, provided that all of its documents are
wake-ups. Otherwise it stays as it is, and there are no wake-ups.
"""

from __future__ import annotations

import logging
import os

from datetime import timedelta
from typing import Any

import attrs
import bson

from pymongo import CursorType, WriteConcern
from pymongo.errors import OperationFailure

from pitstop import PitstopError
from pitstop.abc import Clock, from_instant, log_fields
from pitstop_mongo._bson.codecs import CODEC
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link


__all__ = ["AWAIT_MS", "SUFFIX", "Wakeups", "has_change_streams"]

_log = logging.getLogger("pitstop.mongo")

#: Milliseconds that the server waits for news before it answers that there are none. An idle watch takes 12 commands a minute.
AWAIT_MS = 5000

#: The name of this collection is the name of the messages' collection and this suffix.
SUFFIX = ".wakeups"
#: Bytes of the collection: some 2500 wake-ups.
_SIZE = 256 * 1024
_MARK = "wakeup"
#: Seconds after which the collection is checked again, because it may have been dropped.
_LOOK_EVERY = 60.0
#: The most seconds that a wake-up may delay a store, and the seconds without wake-ups after one that failed.
_PATIENCE = 1.0
_PAUSE = 5.0
#: Other listeners look again within this multiple of their ``loop_time``, which is assumed to equal ours.
_LONGEST_PAUSE = 1.5

_EXISTS = 48
_UNAUTHORIZED = 13


def has_change_streams(client: Any) -> bool:
    """Whether the servers are a replica set or a sharded cluster."""
    hello = client.admin.command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


@attrs.frozen
class _State:
    """The state of the collection, as one connection has found it."""

    link: Link
    #: When it was checked, by the monotonic clock.
    since: float
    #: Whether wake-ups may be written: the server has no change streams, and the collection is capped.
    usable: bool
    #: For writes that the server confirms.
    coll: Any
    #: For writes that do not wait for a reply.
    quick: Any
    #: The name of this process in the wake-ups that it writes.
    me: str

    def wakeup(self, due: int) -> dict[str, Any]:
        return {"pitstop": _MARK, "due": from_instant(due), "by": self.me}


class Wakeups:
    """Writes the wake-ups of one backend, and opens the cursor that follows the wake-ups of other processes."""

    def __init__(self, connection: Connection, clock: Clock, loop_time: timedelta, *, muted: bool = False) -> None:
        """Connect nothing yet.

        :param muted: whether :meth:`announce` is to write nothing.
        """
        self._connection = connection
        self._dialect = connection.dialect
        self._clock = clock
        self._horizon = int(loop_time / timedelta(milliseconds=1) * _LONGEST_PAUSE)
        self._state: _State | None = None
        self._not_before = float("inf" if muted else "-inf")
        self._warned = False

    def announce(self, due: int | None) -> None:
        """Wake the listeners that would look later, because a message with this ``due`` was written.

        This never raises, because it is only a hint.
        """
        if due is None or not self._dialect.batches or self._clock.monotonic() < self._not_before:
            return
        try:
            if due >= self._connection.now_us() // 1000 + self._horizon:
                return
            with self._connection.operation(_PATIENCE) as link:
                state = self._current(link)
                if state.usable:
                    state.quick.insert_one(state.wakeup(due))
        except PitstopError as error:
            self._not_before = self._clock.monotonic() + _PAUSE
            extra = log_fields("wakeup_not_written", backend="mongodb")
            _log.debug("a wake-up was not written: %s", error, extra=extra)

    def follow(self, link: Link) -> Any | None:
        """Return a cursor of raw batches that waits for later wake-ups of other processes; None if there can be none."""
        state = self._state = self._look(link)
        if not state.usable:
            return None
        # At the end of an empty collection a cursor dies at once, so the collection needs a document.
        last = state.coll.insert_one({"pitstop": _MARK, "by": ""}).inserted_id
        cursor = state.coll.find_raw_batches({"by": {"$ne": state.me}}, cursor_type=CursorType.TAILABLE_AWAIT)
        cursor.max_await_time_ms(AWAIT_MS)
        while (batch := next(cursor, None)) is not None:
            # Earlier wake-ups are no news.
            if any(each["_id"] == last for each in bson.decode_all(batch, CODEC)):
                break
        return cursor

    def _current(self, link: Link) -> _State:
        state = self._state
        if state is None or state.link is not link or self._clock.monotonic() - state.since >= _LOOK_EVERY:
            state = self._state = self._look(link)
        return state

    def _look(self, link: Link) -> _State:
        database = link.handles.coll.database
        name = link.handles.coll.name + SUFFIX
        coll = database.get_collection(name, codec_options=CODEC, write_concern=WriteConcern(w=1))
        usable = not has_change_streams(link.client) and self._is_capped(database, coll)
        known = self._state
        # For each process and connection. A forked process gets a name of its own.
        me = known.me if known is not None and known.link is link else os.urandom(8).hex()
        quick = coll.with_options(write_concern=WriteConcern(w=0))
        return _State(link, self._clock.monotonic(), usable, coll, quick, me)

    def _is_capped(self, database: Any, coll: Any) -> bool:
        """Make the collection, or cap it, if necessary. Return whether it exists and is capped."""
        try:
            found = _describe(database, coll.name)
            if found is None:
                try:
                    database.command("create", coll.name, capped=True, size=_SIZE)
                except OperationFailure as error:
                    if error.code != _EXISTS:
                        raise
                found = _describe(database, coll.name) or {}
            if found.get("options", {}).get("capped"):
                return True
            if found.get("type") == "collection" and coll.find_one({"pitstop": {"$ne": _MARK}}, {"_id": 1}) is None:
                # It was dropped, and a wake-up that was being sent made it again.
                database.command("convertToCapped", coll.name, size=_SIZE)
                return True
        except OperationFailure as error:
            if error.code != _UNAUTHORIZED:
                raise
            why = "this user may not see or make it. The user needs the role readWrite on the database"
        else:
            why = "it is not capped, and contains documents that are not Pitstop's. Rename it"
        if not self._warned:
            self._warned = True
            _log.warning(
                "without the capped collection %s a listener notices the messages of other processes only when it looks next "
                "(loop_time): %s",
                coll.full_name,
                why,
                extra=log_fields("not_watched", backend="mongodb"),
            )
        return False


def _describe(database: Any, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = next(iter(database.list_collections(filter={"name": name})), None)
    return found
