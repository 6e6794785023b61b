"""Looking at what is stored: pages in the order of ``(due, id)``, counts, and the next due time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pitstop import State
from pitstop.abc import Damaged, Record, Tally, from_instant
from pitstop_mongo._claim import due_in
from pitstop_mongo._connection import Connection, Link
from pitstop_mongo._document import EPOCH, LAST, read


__all__ = ["Viewer"]

_TICK = timedelta(milliseconds=1)
_IDS = {"$type": "string"}
#: No ``due``, or one that counts as none. Two conditions that the index can answer.
_DEAD: dict[str, Any] = {"$or": [{"due": {"$not": {"$gte": EPOCH}}}, {"due": {"$gt": LAST}}]}
_TOKEN: dict[State, Any] = {"leased": {"$type": "string"}, "scheduled": {"$not": {"$type": "string"}}}

_Content = Record | Damaged


class Viewer:
    """Reads for one backend."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect

    def get(self, id: str) -> _Content | None:
        """See :meth:`pitstop.abc.Backend.get`."""
        with self._connection.operation() as link:
            document = link.handles.raw.find_one({"_id": self._dialect.one(id)})
        return None if document is None else read(document).content

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[_Content]:
        """See :meth:`pitstop.abc.Backend.scan`."""
        least, most = self._bounds(state)
        token = {"token": _TOKEN[state]} if state in _TOKEN else {}
        found: list[_Content] = []
        if state != "dead" and after is None:
            found += self._page(least, most, token, limit)
        elif state != "dead" and after is not None and after[0] is not None:
            due = from_instant(after[0])
            if least <= due <= most:
                found += self._tied(due, after[1], token, limit)
            if due < most:
                found += self._page(max(least, due + _TICK), most, token, limit - len(found))
        if state in (None, "dead") and len(found) < limit:
            behind = after[1] if after is not None and after[0] is None else None
            found += self._dead(behind, limit - len(found))
        return found

    def tally(self) -> Tally:
        """See :meth:`pitstop.abc.Backend.tally`."""
        now = from_instant(self._connection.now_us() // 1000)
        with self._connection.indexed() as link:
            coll = link.handles.coll
            # Ids that are no text are somebody else's, and to leave them out means to read the documents.
            ids = {"_id": _IDS} if self._has_foreign_ids(link) else {}
            by_due = self._dialect.by_due

            def count(filter: dict[str, Any]) -> int:
                return int(coll.count_documents(filter | ids, **by_due))

            ahead = {"due": {"$gt": now, "$lte": LAST}}
            future = count(ahead)
            leased = count(ahead | {"token": _TOKEN["leased"]})
            due = count({"due": {"$gte": EPOCH, "$lte": now}})
            dead = count(_DEAD)
            oldest = self._first_due(link, now) if due else None
        return Tally(future - leased, due, leased, dead, oldest)

    def next_due(self) -> int | None:
        """See :meth:`pitstop.abc.Backend.next_due`."""
        with self._connection.indexed() as link:
            return self._first_due(link, LAST)

    def _first_due(self, link: Link, most: datetime) -> int | None:
        document = link.handles.raw.find_one(
            due_in(EPOCH, most), {"_id": 1, "due": 1}, sort=[("due", 1)], **self._dialect.by_due
        )
        return None if document is None else _due(read(document).content)

    def _has_foreign_ids(self, link: Link) -> bool:
        """Whether there are ids that are no text: they would be the first ones, or the last."""
        ends = (link.handles.coll.find_one({}, {"_id": 1}, sort=[("_id", way)]) for way in (1, -1))
        return not self._dialect.batches or any(end is not None and not isinstance(end["_id"], str) for end in ends)

    def _bounds(self, state: State | None) -> tuple[datetime, datetime]:
        if state is None or state == "dead":
            return EPOCH, LAST
        now = from_instant(self._connection.now_us() // 1000)
        return (EPOCH, now) if state == "due" else (now + _TICK, LAST)

    def _page(self, least: datetime, most: datetime, token: dict[str, Any], limit: int) -> list[_Content]:
        """The first ones by ``(due, id)``. The index knows ``due`` alone, so the last ``due`` is read apart."""
        if limit <= 0:
            return []
        with self._connection.indexed() as link:
            cursor = link.handles.raw.find(
                due_in(least, most) | token, sort=[("due", 1)], limit=limit, **self._dialect.by_due
            )
            found = [content for each in cursor if _due(content := read(each).content) is not None]
            full = len(found) == limit
        found.sort(key=lambda content: (_due(content) or 0, content.id))
        if not full:
            return found
        last = _due(found[-1]) or 0
        whole = [content for content in found if _due(content) != last]
        return whole + self._tied(from_instant(last), None, token, limit - len(whole))

    def _tied(self, due: datetime, behind: str | None, token: dict[str, Any], limit: int) -> list[_Content]:
        """Those with this very ``due``, by id."""
        filter = {"due": {"$eq": due}, "_id": _behind(behind), **token}
        return self._sorted_by_id(filter, limit)

    def _dead(self, behind: str | None, limit: int) -> list[_Content]:
        return self._sorted_by_id({**_DEAD, "_id": _behind(behind)}, limit)

    def _sorted_by_id(self, filter: dict[str, Any], limit: int) -> list[_Content]:
        with self._connection.indexed() as link:
            cursor = link.handles.raw.find(
                filter, sort=[("_id", 1)], limit=limit, **self._dialect.by_due, **self._dialect.sorting
            )
            return [read(each).content for each in cursor]


def _behind(id: str | None) -> dict[str, Any]:
    # A comparison with a text finds texts alone.
    return {"$gte": ""} if id is None else {"$gt": id}


def _due(content: _Content) -> int | None:
    return content.progress.due if isinstance(content, Record) else content.due
