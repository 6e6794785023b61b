"""Selection: the messages among which a claim of some kinds looks, as statements and the values that they bind."""

from __future__ import annotations

import json
import sqlite3

from collections.abc import Collection

import attrs

from pitstop.abc import AllBut
from pitstop_sqlite import _statements
from pitstop_sqlite._rows import Row, bindable


__all__ = ["MOST_MERGED", "Selection", "selection"]

#: The most kinds that are merged, each from its own part of the index. For more kinds, messages are read in the order of ``due``.
MOST_MERGED = 200


@attrs.frozen
class Selection:
    """The messages of some kinds."""

    #: The kinds, if they are merged; else a JSON array of kinds.
    kinds: Row
    #: How messages are read by ``due``. None: the kinds are merged.
    source: str | None = None

    @property
    def first(self) -> str:
        """The source of the first messages that are due, for the statements of :mod:`pitstop_sqlite._statements`."""
        return (
            _statements.first_merged(len(self.kinds)) if self.source is None else _statements.first_by_due(self.source)
        )

    @property
    def least(self) -> str:
        """The statement that finds the least ``due``. It binds :attr:`kinds`."""
        return (
            _statements.least_merged(len(self.kinds)) if self.source is None else _statements.least_by_due(self.source)
        )

    def bounds(self, now: int, limit: int) -> Row:
        """Return the values that :attr:`first` binds."""
        if self.source is not None:
            return (*self.kinds, now, limit)
        return (*(value for kind in self.kinds for value in (kind, now, limit)), limit)


def selection(connection: sqlite3.Connection, kinds: Collection[str]) -> Selection | None:
    """Return the messages of these kinds; None if there can be none. The index that this needs is made if it is missing."""
    connection.execute(_statements.INDEX_KINDS)
    if not isinstance(kinds, AllBut):
        if len(kinds) > MOST_MERGED:
            return Selection((json.dumps(list(kinds)),), _statements.AMONG)
        return Selection(tuple(map(bindable, kinds))) if kinds else None
    # The stored kinds include those that cannot be read. A listener cannot name them.
    excluded = {each.encode() for each in kinds}
    found = connection.execute(_statements.KINDS, (MOST_MERGED + len(excluded) + 1,)).fetchall()
    rest = tuple(kind for (kind,) in found if kind not in excluded)
    if len(rest) > MOST_MERGED:
        return Selection((json.dumps(list(kinds)),), _statements.NOT_AMONG)
    return Selection(rest) if rest else None
