"""Wake-ups on a standalone, which has no change streams: a small capped collection beside the messages, as a hint.

::

    _id        the driver's
    pitstop    "wakeup", in every document: it proves that the collection may be capped again when it is not
    due        the least due of what was written; absent: only there so that there is something
    by         who wrote it, so that nobody is woken by itself

Whoever stores a message that is due before others would look again writes one, and does not wait for it. Watchers hold
a cursor that waits at the collection's end.

It must never be an ordinary collection, which would grow without end. So it is made, capped, before the first wake-up
is written; that is looked at again each minute; and one that is not capped is capped if all in it is ours, or else left
alone.
"""

from __future__ import annotations

import logging
import os

from datetime import timedelta
from typing import Any

import attrs
import bson
import pymongo

from pymongo import CursorType, WriteConcern
from pymongo.errors import OperationFailure

from pitstop import PitstopError
from pitstop.abc import Clock, from_instant
from pitstop_mongo._bson.codecs import CODEC
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link


__all__ = ["AWAIT_MS", "SUFFIX", "Wakeups", "has_change_streams"]

_log = logging.getLogger("pitstop.mongo")

#: Milliseconds that the server waits for news before it says that there are none: an idle watch is 12 commands a minute.
AWAIT_MS = 5000

#: What the name of the collection adds to that of the messages.
SUFFIX = ".wakeups"
#: Bytes of the collection: some 2500 wake-ups.
_SIZE = 256 * 1024
_MARK = "wakeup"
#: Seconds after which it is looked at again: somebody may have dropped it.
_LOOK_EVERY = 60.0
#: Seconds that a store may be held up by its wake-up, and for which there are none after one that failed.
_PATIENCE = 1.0
_PAUSE = 5.0
#: Others look again within so many of their ``loop_time``, which is taken to be the same as ours.
_LONGEST_PAUSE = 1.5

_EXISTS = 48
_UNAUTHORIZED = 13


def has_change_streams(client: Any) -> bool:
    """Whether these are servers of a replica set, or of a sharded cluster."""
    hello = client.admin.command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


@attrs.frozen
class _State:
    """What is known of the collection, on one connection."""

    link: Link
    #: On the monotonic clock.
    since: float
    #: Whether wake-ups may be written: the server has no change streams, and the collection is capped.
    usable: bool
    #: Writes to it, acknowledged.
    coll: Any
    #: Writes to it, and does not wait.
    quick: Any
    me: str

    def wakeup(self, due: int) -> dict[str, Any]:
        return {"pitstop": _MARK, "due": from_instant(due), "by": self.me}


class Wakeups:
    """Writes the wake-ups of one backend, and opens the cursor that follows those of others."""

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
        """A message with this ``due`` was written. Wakes those who would look later. Never fails: it is a hint."""
        if due is None or not self._dialect.batches or self._clock.monotonic() < self._not_before:
            return
        try:
            if due >= self._connection.now_us() // 1000 + self._horizon:
                return
            with self._connection.operation() as link, pymongo.timeout(_PATIENCE):
                state = self._current(link)
                if state.usable:
                    state.quick.insert_one(state.wakeup(due))
        except PitstopError as error:
            self._not_before = self._clock.monotonic() + _PAUSE
            _log.debug("a wake-up was not written: %s", error)

    def follow(self, link: Link) -> Any | None:
        """A cursor of raw batches that waits for what others write from now on; None: there can be none."""
        state = self._state = self._look(link)
        if not state.usable:
            return None
        # At an empty collection's end a cursor is dead at once, so there is to be something.
        last = state.coll.insert_one({"pitstop": _MARK, "by": ""}).inserted_id
        cursor = state.coll.find_raw_batches({"by": {"$ne": state.me}}, cursor_type=CursorType.TAILABLE_AWAIT)
        cursor.max_await_time_ms(AWAIT_MS)
        while (batch := next(cursor, None)) is not None:
            # What stood there before is no news.
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
        # Of the process, and of the connection: a fork has its own.
        me = known.me if known is not None and known.link is link else os.urandom(8).hex()
        quick = coll.with_options(write_concern=WriteConcern(w=0))
        return _State(link, self._clock.monotonic(), usable, coll, quick, me)

    def _is_capped(self, database: Any, coll: Any) -> bool:
        """See to it that the collection is there, and capped. False: it is not, and will not be."""
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
                # It was dropped, and a wake-up that was on its way made a new one.
                database.command("convertToCapped", coll.name, size=_SIZE)
                return True
        except OperationFailure as error:
            if error.code != _UNAUTHORIZED:
                raise
            why = "this user may not see or make it; the role readWrite on the database is needed"
        else:
            why = "there is one that is not capped and holds documents that are not Pitstop's; move it away"
        if not self._warned:
            self._warned = True
            _log.warning(
                "without the capped collection %s a listener notices what other processes store only at its next look "
                "(loop_time): %s",
                coll.full_name,
                why,
            )
        return False


def _describe(database: Any, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = next(iter(database.list_collections(filter={"name": name})), None)
    return found
