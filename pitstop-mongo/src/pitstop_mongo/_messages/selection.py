"""Selection: the part of the messages that a claim looks at: all of them, or those of some kinds.

Claims of all kinds walk the index ``{due: 1}``. Claims of some kinds walk ``{kind: 1, due: 1}``, whose parts for the single
kinds the server merges by ``due``. So they do not read the backlogs of other kinds. They walk ``{due: 1}`` and read the
messages of other kinds as well, if

- the index of the kinds is not there (yet): see :mod:`pitstop_mongo._client.kind_index`
- there are more kinds than the server merges
- all kinds but some are chosen, and documents of other programs have lists or patterns as kinds
- all kinds but some are chosen in a sharded cluster

A kind that cannot be read (a number, a list, bytes that are no text) is none of the kinds that a listener names. Claims of all
kinds but some include it, and core sets the message aside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo.errors import OperationFailure

from pitstop import BackendUnavailable
from pitstop.abc import AllBut
from pitstop_mongo._bson.raw import SYMBOL, TEXT, Element, among, elements, is_empty, is_exact, text
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.failures import Kind, kind_of, names_no_index
from pitstop_mongo._client.kind_index import Ready
from pitstop_mongo._client.link import Link


__all__ = ["IndexLost", "Selection"]

#: The most parts of the index that the server merges. Above it, the server would sort the whole backlog of these kinds for each
#: claim (internalQueryMaxScansToExplode).
_MOST_PARTS = 200
#: Parts for the kind "": no such field, which equals null, is two of them.
_PARTS_OF_NONE = 2
_A_LIST = {"$type": "array"}
_NULL = Element(0x0A, b"")


class IndexLost(BackendUnavailable):
    """The index of the kinds is gone, and nothing was done. A second run goes on by another index."""


class Selection:
    """The messages of some kinds."""

    def __init__(self, connection: Connection, kinds: Collection[str] | None = None) -> None:
        """Select messages.

        :param kinds: as in :meth:`pitstop.abc.Backend.lease`.
        """
        self._connection = connection
        self._kinds = kinds
        self._parts = len(kinds or ()) + (_PARTS_OF_NONE - 1 if kinds and "" in kinds else 0)
        self._texts = {text(each).value for each in kinds or ()}
        # A message that was given no kind has no such field, which equals null.
        named = [None if each == "" else each for each in sorted(kinds or ())]
        self._condition: dict[str, Any]
        if isinstance(kinds, AllBut):
            # A filter finds a list by each of its values.
            self._condition = {"$or": [{"kind": {"$nin": named}}, {"kind": _A_LIST}]}
        else:
            self._condition = {"kind": {"$in": named, "$not": _A_LIST}}

    @contextmanager
    def indexed(self) -> Iterator[tuple[Link, dict[str, Any], Mapping[str, Any]]]:
        """Run an operation as :meth:`Connection.indexed` does. The index of the kinds is made as well, if it is needed.

        The body gets the link, the conditions that its filter needs in addition, and the options that bind a read in the order
        of ``due`` to the index.

        :raises IndexLost: if the index of the kinds is gone. The body must send no command before such a read.
        """
        by_due = self._connection.dialect.by_due
        if self._kinds is None:
            with self._connection.indexed() as link:
                yield link, {}, by_due
            return
        with self._connection.indexed(kinds=True) as link:
            used = link.kinds.ready
            try:
                condition = None if used is None else self._by_kind(link, used)
                if used is None or condition is None:
                    used = None
                    yield link, self._condition, by_due
                else:
                    yield link, condition, {"hint": used.name}
            except OperationFailure as error:
                if used is None or not names_no_index(error):
                    raise
                link.kinds.lost(used)
                raise IndexLost(
                    f"MongoDB at {self._connection.location} has dropped an index that a claim of some kinds was using."
                ) from None

    def _by_kind(self, link: Link, index: Ready) -> dict[str, Any] | None:
        """Return the condition by which the server merges parts of the index; None if it cannot."""
        if not isinstance(self._kinds, AllBut):
            return self._condition if self._parts <= _MOST_PARTS else None
        kinds = link.kinds
        if kinds.crowded:
            return None
        if not kinds.walks:
            if not self._walks(link, index):
                kinds.leave_alone()
                return None
            kinds.walks_well()
        rest = self._rest(link, index)
        if rest is None:
            kinds.leave_alone()
            return None
        return {"kind": among(rest)}

    @property
    def _walk(self) -> dict[str, Any]:
        """The parts of a command that walks the kinds. The server reads one key for each kind, and ends early."""
        most = _MOST_PARTS + len(self._texts) + _PARTS_OF_NONE
        return {"pipeline": [{"$group": {"_id": "$kind"}}, {"$limit": most}], "cursor": {"batchSize": most}}

    def _walks(self, link: Link, index: Ready) -> bool:
        """Whether the server walks the kinds by the index. If a document has or had a list as its kind, it does not.

        Then it would also take the values of the list for kinds.
        """
        if self._connection.is_routed:
            # Each shard has a plan of its own, and reads whole documents to leave out those that have moved away.
            return False
        coll = link.handles.coll
        command = {"aggregate": coll.name, **self._walk, "hint": index.name}
        try:
            explained = coll.database.command("explain", command, verbosity="queryPlanner")
        except OperationFailure as error:
            if kind_of(error) is Kind.UNKNOWN or names_no_index(error):
                raise
            # Not allowed, or unknown to a server that only resembles MongoDB.
            return False
        return "'DISTINCT_SCAN'" in str(explained)

    def _rest(self, link: Link, index: Ready) -> list[Element] | None:
        """Return the kinds that are stored now and are not among these; None if the server cannot merge them."""
        walk = self._walk
        found: list[Element] = [] if "" in (self._kinds or ()) else [_NULL]
        parts = _PARTS_OF_NONE
        cursor = link.handles.raw.aggregate(walk["pipeline"], hint=index.name, batchSize=walk["cursor"]["batchSize"])
        for document in cursor:
            ((_, kind),) = elements(document.raw)
            if is_empty(kind) or (kind.kind in (TEXT, SYMBOL) and kind.value in self._texts):
                continue
            parts += 1
            if parts > _MOST_PARTS or not is_exact(kind):
                return None
            found.append(kind)
        return found
