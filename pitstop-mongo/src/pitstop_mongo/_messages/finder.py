"""Finder: searches by the index that has their order, and the counts of each kind.

::

    prefix             the index of _id, between two texts
    kind               the index {kind: 1, due: 1}, if a listener of some kinds has made it; else as all others
    all others         the index {due: 1}

A search makes no index: each store of a message would be slower from then on, because a person has looked once.
"""

from __future__ import annotations

import sys

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from pitstop.abc import PAUSED, Damaged, Query, Record, Tally, filled, floor_instant, from_instant
from pitstop_mongo._bson.codecs import fields_of
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._messages.document import EPOCH, LAST
from pitstop_mongo._messages.selection import Selection
from pitstop_mongo._messages.viewer import TOKENS, Viewer, both, dead_or_list


__all__ = ["Finder", "end_of_range"]

_Place = tuple[int | None, str]
_Content = Record | Damaged

_IDS = {"$type": "string"}
#: The code points that are no characters by themselves, so that no text holds them.
_SURROGATES = range(0xD800, 0xE000)


class Finder:
    """Searches for one backend."""

    def __init__(self, connection: Connection, viewer: Viewer) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        self._viewer = viewer
        # Only sound messages fail, so a search for those that do has to read them. Each is dropped at once.
        self._bare, self._outlines = viewer.like(projection=None), viewer.like(projection={"msg": 0})

    def find(self, query: Query, limit: int, after: _Place | None) -> Sequence[_Content]:
        """See :meth:`pitstop.abc.Backend.find`."""
        return self._find(self._viewer, query, limit, after)

    def find_places(self, query: Query, limit: int, after: _Place | None) -> list[_Place]:
        """See :meth:`pitstop.abc.Backend.find_places`."""
        # Without their messages all records look damaged, and their other values are the same.
        found = self._find(self._outlines if query.failing is None else self._bare, query, limit, after)
        return [((each.due if isinstance(each, Damaged) else each.progress.due), each.id) for each in found]

    def _find(self, viewer: Viewer, query: Query, limit: int, after: _Place | None) -> Sequence[_Content]:
        now = self._connection.now_us() // 1000
        also = self._conditions(query, now)
        by = None if query.kind is None or query.by_id else self._by_kind()

        def read(count: int, place: _Place | None) -> Sequence[_Content]:
            if query.by_id:
                return self._by_id(viewer, query, count, place, also, now)
            found = self._by_due(viewer, query, count, place, also, by, now)
            if query.with_dead and len(found) < count:
                behind = place[1] if place is not None and place[0] is None else None
                # The dead have failed, all of them.
                timeless = both(also, {"token": TOKENS["paused"]}) if query.failing is False else also
                found += viewer.dead(behind, timeless, count - len(found), by)
            return found

        # The filters may also find others: a number of attempts in one field is not compared with two other fields.
        return filled(query, limit, after, now, read)

    def tally_by_kind(self) -> Mapping[str, Tally]:
        """See :meth:`pitstop.abc.Backend.tally_by_kind`. The server reads all messages, and answers with one document for each kind."""
        now = from_instant(self._connection.now_us() // 1000)
        timed = {"$and": [{"$eq": [{"$type": "$due"}, "date"]}, {"$gte": ["$due", EPOCH]}, {"$lte": ["$due", LAST]}]}
        due, held = {"$and": [timed, {"$lte": ["$due", now]}]}, {"$eq": [{"$type": "$token"}, "string"]}
        to_come, paused = {"$and": [timed, {"$gt": ["$due", now]}]}, {"$eq": ["$token", PAUSED]}

        def count(condition: dict[str, Any]) -> dict[str, Any]:
            return {"$sum": {"$cond": [condition, 1, 0]}}

        group = {
            "_id": "$kind",
            "all": {"$sum": 1},
            "due": count(due),
            "to_come": count(to_come),
            "held": count({"$and": [to_come, held]}),
            "until": count({"$and": [to_come, paused]}),
            "paused": count({"$and": [{"$not": [timed]}, paused]}),
            # A null counts for nothing.
            "oldest": {"$min": {"$cond": [due, "$due", None]}},
        }
        with self._connection.operation() as link:
            found = list(link.handles.raw.aggregate([{"$match": {"_id": _IDS}}, {"$group": group}]))
        tallies: dict[str, Tally] = {}
        for document in found:
            fields = fields_of(document)
            kind = fields["_id"] if fields["_id"] is not None else ""
            # The driver's type for JavaScript code is a subclass of str. Such a kind is damaged.
            if type(kind) is str:
                tallies[kind] = _sum(tallies.get(kind), _tally(fields))
        return tallies

    def _by_due(
        self,
        viewer: Viewer,
        query: Query,
        count: int,
        place: _Place | None,
        also: dict[str, Any],
        by: Mapping[str, Any] | None,
        now: int,
    ) -> list[_Content]:
        first, last = query.dues(now)
        found: list[_Content] = []
        if first > last or (place is not None and place[0] is None):
            return found
        if place is not None and place[0] is not None and place[0] >= first:
            if place[0] > last:
                return found
            found += viewer.tied(from_instant(place[0]), place[1], also, count, by)
            first = place[0] + 1
        if first <= last:
            found += viewer.page(from_instant(first), from_instant(last), also, count - len(found), by)
        return found

    def _by_id(
        self, viewer: Viewer, query: Query, count: int, place: _Place | None, also: dict[str, Any], now: int
    ) -> list[_Content]:
        prefix = query.prefix or ""
        bounds: dict[str, Any] = {"$gte": prefix}
        end = end_of_range(prefix)
        if end is not None:
            bounds["$lt"] = end
        wanted: dict[str, Any] = {"_id": bounds}
        if place is not None and place[1].encode("utf-8", "surrogateescape") >= prefix.encode():
            behind = {"_id": self._dialect.behind(place[1])}
            wanted = {"$and": [behind, {"_id": {"$lt": end}}]} if end is not None else behind
        if not query.with_dead:
            first, last = query.dues(now)
            if first > last:
                return []
            also = both(also, {"due": {"$gte": from_instant(first), "$lte": from_instant(last)}})
        with self._connection.operation() as link:
            return viewer.documents(link, both(wanted, also), sort=[("_id", 1)], limit=count, **self._dialect.by_id)

    def _conditions(self, query: Query, now: int) -> dict[str, Any]:
        """Return the conditions of fields that are neither ``due`` nor ``_id``. They may find others too, which are left out later."""
        also: dict[str, Any] = {}
        if query.kind is not None:
            also |= Selection(self._connection, [query.kind]).condition
        if query.state in TOKENS:
            also["token"] = TOKENS[query.state]
        if query.failing:
            waiting = {
                "attempts": {"$gt": 0},
                "$or": [
                    {"due": {"$lte": from_instant(now)}},
                    {"token": TOKENS["scheduled"]},
                    {"token": TOKENS["paused"]},
                ],
            }
            dead = both(dead_or_list(listed=True), {"token": TOKENS["dead"]})
            also = both(also, {"$or": [waiting, dead]})
        return also

    def _by_kind(self) -> Mapping[str, Any] | None:
        """Return the options that bind a read of one kind to the index of the kinds; None if there is none."""
        if not self._dialect.describes_collections:
            return None
        with self._connection.indexed() as link:
            name = self._connection.index_of_kinds(link)
        return None if name is None else {"hint": name}


def end_of_range(prefix: str) -> str | None:
    """Return the first text after all texts that begin with a prefix, by code points; None if no text comes after them."""
    for at in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[at]) + 1
        if following in _SURROGATES:
            following = _SURROGATES.stop
        if following <= sys.maxunicode:
            return prefix[:at] + chr(following)
    return None


def _tally(fields: Mapping[str, Any]) -> Tally:
    due, to_come, held, until, paused = (fields[name] for name in ("due", "to_come", "held", "until", "paused"))
    dead, oldest = fields["all"] - due - to_come - paused, fields["oldest"]
    first = floor_instant(oldest) if isinstance(oldest, datetime) else None
    return Tally(to_come - held, due, held - until, dead, first, until + paused)


def _sum(one: Tally | None, other: Tally) -> Tally:
    if one is None:
        return other
    oldest = min((each for each in (one.oldest_due, other.oldest_due) if each is not None), default=None)
    counts = attrs.asdict(other, filter=attrs.filters.exclude("oldest_due"))
    return Tally(**{name: count + getattr(one, name) for name, count in counts.items()}, oldest_due=oldest)
