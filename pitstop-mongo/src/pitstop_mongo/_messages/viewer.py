"""Reading messages: single ones, pages in the order of ``(due, id)``, counts, and the next due time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from pitstop import State
from pitstop.abc import PAUSED, PORTION, Damaged, Record, Tally, from_instant
from pitstop_mongo._bson.raw import TEXT, id_of
from pitstop_mongo._client.collection import validation_rules
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.failures import Kind, kind_of
from pitstop_mongo._client.link import Link
from pitstop_mongo._messages.claimer import due_in
from pitstop_mongo._messages.document import EPOCH, LAST, read
from pitstop_mongo._messages.selection import IndexLost, Selection
from pitstop_mongo._messages.unleasable import Unleasable


__all__ = ["TOKENS", "Viewer", "both", "dead_or_list"]

_TICK = timedelta(milliseconds=1)
_IDS = {"$type": "string"}
#: No ``due``, or one that does not count. The index can answer both conditions.
_DEAD: dict[str, Any] = {"$or": [{"due": {"$not": {"$gte": EPOCH}}}, {"due": {"$gt": LAST}}]}
#: The most documents that a search for concerns reads, and the most that it names.
_LOOKED_AT, _NAMED = 1000, 3
_A_LIST: dict[str, Any] = {"due": {"$type": "array"}}
_NO_LIST: dict[str, Any] = {"$nor": [_A_LIST]}
#: The condition on the token of messages in a state, beside that on ``due``.
TOKENS: dict[State, Any] = {
    "leased": {"$type": "string", "$ne": PAUSED},
    "scheduled": {"$not": {"$type": "string"}},
    "dead": {"$ne": PAUSED},
    "paused": {"$eq": PAUSED},
}

_Content = Record | Damaged


class Viewer:
    """Reads for one backend."""

    def __init__(
        self,
        connection: Connection,
        unleasable: Unleasable,
        *,
        projection: Mapping[str, Any] | None = None,
        bare: bool = False,
    ) -> None:
        """Begin to read.

        :param projection: the fields that pages are read with. None: all.
        :param bare: whether pages keep no message, so that not all messages of a page are in the memory at once.
        """
        self._connection = connection
        self._dialect = connection.dialect
        self._unleasable = unleasable
        self._projection = projection
        self._bare = bare

    def like(self, *, projection: Mapping[str, Any] | None) -> Viewer:
        """Return a viewer of the same messages that keeps no message."""
        return Viewer(self._connection, self._unleasable, projection=projection, bare=True)

    def get(self, id: str) -> _Content | None:
        """See :meth:`pitstop.abc.Backend.get`."""
        with self._connection.operation() as link:
            document = link.handles.raw.find_one({"_id": self._dialect.one(id)})
        return None if document is None else self.shown(document)

    def get_many(self, ids: Sequence[str]) -> list[_Content]:
        """See :meth:`pitstop.abc.Many.get_many`."""
        if not ids:
            return []
        with self._connection.operation() as link:
            wanted = {"_id": self._dialect.any_of(ids)}
            cursor = link.handles.raw.find(wanted, limit=len(ids), batch_size=len(ids), **self._dialect.by_id)
            return [self.shown(each) for each in cursor]

    def get_portion(self, ids: Sequence[str]) -> tuple[list[_Content], list[str]]:
        """See :meth:`pitstop.abc.Many.get_portion`. The server sends about as many bytes at a time."""
        found: list[_Content] = []
        if not ids:
            return found, []
        with self._connection.operation() as link:
            wanted = {"_id": self._dialect.any_of(ids)}
            options = {"sort": [("_id", 1)], "limit": len(ids), "batch_size": len(ids), **self._dialect.by_id}
            size = 0
            with link.handles.raw.find(wanted, **options) as cursor:
                for document in cursor:
                    found.append(self.shown(document))
                    size += len(document.raw) if type(document) is RawBSONDocument else 0
                    if size >= PORTION:
                        last = _in_order(found[-1].id)
                        return found, [id for id in ids if _in_order(id) > last]
        return found, []

    def documents(self, link: Link, filter: dict[str, Any], **options: Any) -> list[_Content]:
        """Return the messages that a filter finds, with these options of the driver."""
        return [self.shown(each) for each in link.handles.raw.find(filter, self._projection, **options)]

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[_Content]:
        """See :meth:`pitstop.abc.Backend.scan`."""
        least, most = self._bounds(state)
        token = {"token": TOKENS[state]} if state in TOKENS else {}
        found: list[_Content] = []
        if state != "dead" and after is None:
            found += self.page(least, most, token, limit)
        elif state != "dead" and after is not None and after[0] is not None:
            due = from_instant(after[0])
            if least <= due <= most:
                found += self.tied(due, after[1], token, limit)
            if due < most:
                found += self.page(max(least, due + _TICK), most, token, limit - len(found))
        if state in (None, "dead", "paused") and len(found) < limit:
            behind = after[1] if after is not None and after[0] is None else None
            found += self.dead(behind, token, limit - len(found))
        return found

    def tally(self) -> Tally:
        """See :meth:`pitstop.abc.Backend.tally`."""
        now = from_instant(self._connection.now_us() // 1000)
        with self._connection.indexed() as link:
            coll = link.handles.coll
            # Documents with ids that are no text belong to other programs. To leave them out, the server reads all documents.
            ids = {"_id": _IDS} if self._has_foreign_ids(link) else {}
            by_due = self._dialect.by_due

            def count(filter: dict[str, Any]) -> int:
                return int(coll.count_documents(filter | ids, **by_due))

            ahead = {"due": {"$gt": now, "$lte": LAST}}
            # A list is no due. Only an index that contains lists finds such documents.
            listed = _NO_LIST if self._has_lists(link) else {}
            future = count(ahead | listed)
            # Only these documents are read: the index does not have the token.
            held = [
                {"$match": ahead | {"token": {"$type": "string"}} | listed | ids},
                {"$group": {"_id": {"$eq": ["$token", PAUSED]}, "n": {"$sum": 1}}},
            ]
            hint: dict[str, Any] = {"hint": {"due": 1}} if by_due else {}
            counts = {bool(each["_id"]): int(each["n"]) for each in coll.aggregate(held, **hint)}
            leased, until = counts.get(False, 0), counts.get(True, 0)
            due = count({"due": {"$gte": EPOCH, "$lte": now}} | listed)
            dead = count(dead_or_list(listed=bool(listed)))
            paused = count(dead_or_list(listed=bool(listed)) | {"token": TOKENS["paused"]})
            oldest = self._first_due(link, now, {}, by_due) if due else None
        return Tally(future - leased - until, due, leased, dead - paused, oldest, until + paused)

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        """See :meth:`pitstop.abc.Backend.next_due`."""
        if kinds is None:
            with self._connection.indexed() as link:
                return self._first_due(link, LAST, {}, self._dialect.by_due)
        selection = Selection(self._connection, kinds)
        try:
            return self._next_due(selection)
        except IndexLost:
            return self._next_due(selection)

    def _next_due(self, selection: Selection) -> int | None:
        with selection.indexed() as (link, chosen, by_due):
            return self._first_due(link, LAST, chosen, by_due)

    def _first_due(self, link: Link, most: datetime, chosen: dict[str, Any], by_due: Mapping[str, Any]) -> int | None:
        # Claims skip these documents, so no listener waits for them either.
        wanted = due_in(EPOCH, most) | chosen | self._unleasable.condition
        options = {"sort": [("due", 1)], **by_due}
        document = link.handles.raw.find_one(wanted, {"_id": 1, "due": 1}, **options)
        if document is not None and _due(read(document).content) is None:
            document = link.handles.raw.find_one(wanted | _NO_LIST, {"_id": 1, "due": 1}, **options)
        return None if document is None else _due(read(document).content)

    def _has_foreign_ids(self, link: Link) -> bool:
        """Whether there are ids that are no text. In the index they come before all texts, or after them."""
        if not self._dialect.batches:
            return True
        ends = (link.handles.raw.find_one({}, {"_id": 1}, sort=[("_id", way)]) for way in (1, -1))
        return any(end is not None and id_of(end).kind != TEXT for end in ends)

    def _has_lists(self, link: Link) -> bool:
        """Whether a document has, or had, a list as its due."""
        if not self._dialect.batches:
            return False
        coll = link.handles.coll
        query = {"find": coll.name, "filter": due_in(EPOCH, LAST), "hint": {"due": 1}, "limit": 1}
        try:
            explained = coll.database.command("explain", query, verbosity="queryPlanner")
        except OperationFailure as error:
            if kind_of(error) is Kind.UNKNOWN:
                raise
            # Not allowed, or unknown to a server that only resembles MongoDB. Then a list as a due is listed once it is dead.
            return False
        return "'isMultiKey': True" in str(explained.get("queryPlanner"))

    def concerns(self) -> list[str]:
        """See :meth:`pitstop.abc.Backend.concerns`."""
        with self._connection.operation() as link:
            rules = validation_rules(link.handles.coll) if self._dialect.describes_collections else None
            unfit = self._breaking(link, rules) if rules else []
            ignored = self._count_of_ignored(link)
        unfit += [id for id in self._unleasable.ids if id not in unfit]
        concerns = []
        if unfit:
            named = ", ".join(ascii(id) for id in unfit[:_NAMED])
            # The search ends early, so it knows the number only if there are few.
            more, count = (", …", f"more than {_NAMED}") if len(unfit) > _NAMED else ("", f"{len(unfit)}")
            concerns.append(
                f"The server refuses every write to {count} of the messages that are due ({named}{more}), "
                f"so no listener can get them, and they cannot be set aside. Store them again, remove them, or change the "
                f"validation rules of the collection."
            )
        if ignored:
            count = f"{ignored}" if ignored < _LOOKED_AT else f"{_LOOKED_AT} or more"
            concerns.append(
                f"Pitstop ignores documents whose _id is no text, and the collection has {count} of them. If they are messages "
                f"of the Clojure library, take them over with 'pitstop adopt'. Otherwise move them to another collection."
            )
        return concerns

    def _count_of_ignored(self, link: Link) -> int:
        """Return how many documents have an ``_id`` that is no text, up to the limit of the search."""
        if not self._dialect.batches:
            return 0
        # By the bounds of the index: all texts lie between the empty text and the empty document.
        options = {"sort": [("_id", 1)], "limit": _LOOKED_AT, **self._dialect.by_id}
        sides: tuple[dict[str, Any], ...] = ({"max": {"_id": ""}}, {"min": {"_id": {}}})
        found = sum(len(list(link.handles.raw.find({}, {"_id": 1}, **side, **options))) for side in sides)
        return min(found, _LOOKED_AT)

    def _breaking(self, link: Link, rules: Any) -> list[str]:
        """Return ids of messages that break the rules, out of those that have been due for the longest time."""
        now = from_instant(self._connection.now_us() // 1000)
        pipeline = [
            {"$match": due_in(EPOCH, now)},
            {"$sort": {"due": 1}},
            {"$limit": _LOOKED_AT},
            {"$match": {"$nor": [rules]}},
            {"$limit": _NAMED + 1},
            {"$project": {"_id": 1}},
        ]
        return [read(each).id for each in link.handles.raw.aggregate(pipeline)]

    def _bounds(self, state: State | None) -> tuple[datetime, datetime]:
        if state is None or state == "dead":
            return EPOCH, LAST
        now = from_instant(self._connection.now_us() // 1000)
        return (EPOCH, now) if state == "due" else (now + _TICK, LAST)

    def page(
        self, least: datetime, most: datetime, also: dict[str, Any], limit: int, by: Mapping[str, Any] | None = None
    ) -> list[_Content]:
        """Return the first messages by ``(due, id)``. The index knows only ``due``, so the last ``due`` is read separately.

        :param also: further conditions, of fields that are neither ``due`` nor ``_id``.
        :param by: the options that bind a read in the order of ``due`` to an index. None: to the index on ``due`` alone.
        """
        if limit <= 0:
            return []
        by_due = self._dialect.by_due if by is None else by
        with self._connection.indexed() as link:
            # The filter finds a list as a due by the dates in it, but a list counts as none.
            wanted = both(due_in(least, most) | _NO_LIST, also)
            found = self.documents(link, wanted, sort=[("due", 1)], limit=limit, **by_due)
            full = len(found) == limit
        found.sort(key=lambda content: (_due(content) or 0, _in_order(content.id)))
        if not full:
            return found
        last = _due(found[-1]) or 0
        whole = [content for content in found if _due(content) != last]
        return whole + self.tied(from_instant(last), None, also, limit - len(whole), by)

    def tied(
        self, due: datetime, behind: str | None, also: dict[str, Any], limit: int, by: Mapping[str, Any] | None = None
    ) -> list[_Content]:
        """Return the messages with exactly this ``due``, by id."""
        filter = both({"due": {"$eq": due}, "_id": self._behind(behind), **_NO_LIST}, also)
        return self._sorted_by_id(filter, limit, by)

    def dead(
        self, behind: str | None, also: dict[str, Any], limit: int, by: Mapping[str, Any] | None = None
    ) -> list[_Content]:
        """Return the messages without a ``due``, by id."""
        with self._connection.indexed() as link:
            listed = self._has_lists(link)
        filter = both({**dead_or_list(listed=listed), "_id": self._behind(behind)}, also)
        return self._sorted_by_id(filter, limit, by)

    def shown(self, document: Any) -> _Content:
        """Return the content of a document, with the reason if claims skip it."""
        content = read(document).content
        if self._bare:
            return content if isinstance(content, Damaged) else attrs.evolve(content, message={})
        why = self._unleasable.why(content.id)
        if why is None or not isinstance(content, Record):
            return content
        return attrs.evolve(content, progress=attrs.evolve(content.progress, last_error=f"Not claimed: {why}"))

    def _behind(self, id: str | None) -> Any:
        # A comparison with a text finds only texts.
        return {"$gte": ""} if id is None else self._dialect.behind(id)

    def _sorted_by_id(self, filter: dict[str, Any], limit: int, by: Mapping[str, Any] | None) -> list[_Content]:
        by_due = self._dialect.by_due if by is None else by
        with self._connection.indexed() as link:
            return self.documents(link, filter, sort=[("_id", 1)], limit=limit, **by_due, **self._dialect.sorting)


def both(filter: dict[str, Any], also: dict[str, Any]) -> dict[str, Any]:
    """Return the filter of documents that two filters find."""
    return filter | also if filter.keys().isdisjoint(also) else {"$and": [filter, also]}


def dead_or_list(*, listed: bool) -> dict[str, Any]:
    """Return the filter of messages without a ``due`` that counts.

    :param listed: whether some may have a list as their ``due``.
    """
    return {"$or": [*_DEAD["$or"], _A_LIST]} if listed else _DEAD


def _in_order(id: str) -> bytes:
    """Return the key by which ids are sorted: their bytes, as on the server. For valid text this is the order of code points."""
    return id.encode("utf-8", "surrogateescape")


def _due(content: _Content) -> int | None:
    return content.progress.due if isinstance(content, Record) else content.due
