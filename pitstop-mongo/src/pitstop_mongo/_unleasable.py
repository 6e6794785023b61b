"""Documents that the server refuses to write, whatever is written to them: passed over by the claims of this process.

An administrator's validation rule that a document does not fit has the server refuse every update of it. Such a document
stays as it is. For a while claims leave it out, so that it is not tried again and again; then it is tried again.
"""

from __future__ import annotations

import logging

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from pitstop.abc import Clock
from pitstop_mongo._dialect import Dialect


__all__ = ["Unleasable"]

_log = logging.getLogger("pitstop.mongo")

#: Documents that are remembered. With more of them the oldest one is tried again sooner.
_MOST = 1000
#: Seconds after which a document is tried again.
_AGAIN = 60.0


class Unleasable:
    """What one backend knows of such documents."""

    def __init__(self, dialect: Dialect, clock: Clock, location: str) -> None:
        self._dialect = dialect
        self._clock = clock
        self._location = location
        # By id: until when it is passed over, by the monotonic clock, and why. Replaced, never changed: any thread may read.
        self._passed_over: Mapping[str, tuple[float, str]] = {}
        # Ids that were logged.
        self._told: OrderedDict[str, None] = OrderedDict()

    def add(self, id: str, why: str) -> None:
        """Pass a document over for a while. Log it, if this process has not done that before."""
        known = dict(self._passed_over)
        known[id] = (self._clock.monotonic() + _AGAIN, why)
        while len(known) > _MOST:
            del known[next(iter(known))]
        self._passed_over = known
        self.tell(id, why)

    def tell(self, id: str, why: str) -> None:
        """Log what is wrong with a document, once."""
        if id in self._told:
            return
        self._told[id] = None
        while len(self._told) > _MOST:
            self._told.popitem(last=False)
        _log.warning("message %r in %s: %s", id, self._location, why)

    def forget(self, ids: Iterable[str]) -> None:
        """These were stored anew or removed."""
        if self._passed_over:
            gone = set(ids)
            self._passed_over = {id: each for id, each in self._passed_over.items() if id not in gone}

    @property
    def ids(self) -> list[str]:
        """The ids of those that are passed over now."""
        if not self._passed_over:
            return []
        now = self._clock.monotonic()
        if any(until <= now for until, _ in self._passed_over.values()):
            self._passed_over = {id: each for id, each in self._passed_over.items() if each[0] > now}
        return list(self._passed_over)

    def why(self, id: str) -> str | None:
        """Why a document is passed over; None: it is not."""
        found = self._passed_over.get(id)
        return None if found is None else found[1]

    @property
    def condition(self) -> dict[str, Any]:
        """What a filter of documents that are to be claimed needs besides: nothing, as a rule."""
        ids = self.ids
        return {"$and": [{"_id": self._dialect.none_of(ids)}]} if ids else {}
