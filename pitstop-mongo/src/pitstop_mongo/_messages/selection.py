"""Selection: the part of the messages that a claim looks at: all of them, or those of some kinds.

Claims of all kinds walk the index ``{due: 1}``. Claims of some kinds walk ``{kind: 1, due: 1}``, whose parts for the single
kinds the server merges by ``due``. So they do not read the backlogs of other kinds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pitstop.abc import AllBut
from pitstop_mongo._bson.codecs import CODEC
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link


__all__ = ["Selection"]

# A text that is not valid UTF-8 is no kind of ours. It must not keep the other kinds from being read.
_LENIENT = CODEC.with_options(unicode_decode_error_handler="replace")


class Selection:
    """The messages of some kinds."""

    def __init__(self, connection: Connection, kinds: Collection[str] | None = None) -> None:
        """Select messages.

        :param kinds: as in :meth:`pitstop.abc.Backend.lease`.
        """
        self._connection = connection
        self._kinds = kinds

    @contextmanager
    def indexed(self) -> Iterator[Link]:
        """Run an operation as :meth:`Connection.indexed` does. The index of the kinds is made as well, if it is needed."""
        with self._connection.indexed(kinds=self._kinds is not None) as link:
            yield link

    def condition(self, link: Link) -> dict[str, Any]:
        """Return the conditions that the filter needs in addition."""
        kinds = self._kinds
        if kinds is None:
            return {}
        chosen = self._others(link, kinds) if isinstance(kinds, AllBut) else sorted(kinds)
        # A message that was given no kind has no such field, which equals null.
        return {"kind": {"$in": [None, *chosen] if "" in chosen else chosen}}

    def by_due(self, link: Link) -> Mapping[str, Any]:
        """Return the options that bind a read in the order of ``due`` to the index."""
        dialect = self._connection.dialect
        return dialect.by_kind if self._kinds is not None and link.by_kind else dialect.by_due

    def _others(self, link: Link, but: AllBut) -> list[str]:
        """Return the kinds that are stored now and are not among these. The server reads one key of the index for each kind."""
        coll = link.handles.coll
        if self._connection.dialect.batches:
            coll = coll.with_options(codec_options=_LENIENT)
        found = {each for each in coll.distinct("kind") if type(each) is str}
        return sorted((found | {""}) - but)
