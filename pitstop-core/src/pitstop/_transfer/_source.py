"""Source: the messages of a store, read page by page in the order of their ids.

Each read is a call of its own. The pages are bounded as :meth:`pitstop.abc.Backend.get_portion` bounds them.

Threads: the one that calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pitstop._decisions._portable import at_rest
from pitstop._engine._calls import entrance
from pitstop._engine._session import Session
from pitstop._errors import PitstopError
from pitstop._transfer._in_use import refuse_in_use
from pitstop.abc import Capability, Query, Record
from pitstop.abc._query import Place


__all__ = ["Source"]

#: The most messages of a page.
_PAGE = 500
#: The most places that one search returns.
_MOST_PLACES = 20_000


class Source:
    """The store from which messages are read. It is not changed."""

    def __init__(self, session: Session, *, live: bool) -> None:
        """Make the source of a store.

        :param live: whether the store may be in use.
        """
        self._session = session
        self._live = live
        #: How many records were read.
        self.count = 0
        # Ids never change, so a walk by id meets each record once, whatever happens to its `due`. Backends without an order by
        # id are walked by `due`.
        self._query = Query(prefix="") if Capability.FIND in session.capabilities else Query()

    @property
    def location(self) -> str:
        """The place of the store, without secrets."""
        return self._session.location

    @entrance
    def begin(self) -> tuple[int, Mapping[str, int | None]]:
        """Return the time, and the paused kinds with the ends of their pauses.

        :raises PitstopError: if a consumer has messages, and the store may not be in use.
        """
        session = self._session
        session.flush()
        if not self._live:
            refuse_in_use(session)
        pauses = session.backend.paused_kinds() if Capability.PAUSES in session.capabilities else {}
        return session.backend.now() // 1000, pauses

    def pages(self) -> Iterator[list[Record]]:
        """Yield all records as another store gets them.

        :raises PitstopError: after the last page, if the store does not have as many records as were read, and it may not be in
            use.
        """
        after: Place | None = None
        while True:
            places = self._places(after)
            for first in range(0, len(places), _PAGE):
                left: Sequence[str] = [id for _, id in places[first : first + _PAGE]]
                while left:
                    page, left = self._portion(left)
                    if page:
                        self.count += len(page)
                        yield page
            if len(places) < _MOST_PLACES:
                break
            after = places[-1]
        if not self._live:
            self._check_count()

    @entrance
    def _places(self, after: Place | None) -> Sequence[Place]:
        return self._session.backend.find_places(self._query, _MOST_PLACES, after)

    @entrance
    def _portion(self, ids: Sequence[str]) -> tuple[list[Record], Sequence[str]]:
        found, left = self._session.backend.get_portion(ids)
        # By id, so that a store gives the same pages each time.
        return sorted(map(at_rest, found), key=lambda each: each.id), left

    @entrance
    def _check_count(self) -> None:
        tally = self._session.backend.tally()
        there = tally.scheduled + tally.due + tally.leased + tally.dead + tally.paused
        if there != self.count:
            raise PitstopError(
                f"{self._session.location} has {there:,} messages now, and {self.count:,} were read. Either other programs use the store, or "
                f"it has documents whose ids are no text. Stop the programs that use it, and begin again; or give live=True."
            )
