"""Unleasable: documents to which the server refuses every write, so that the claims of this process pass them over.

If a document breaks a validation rule that an administrator gave the collection, the server refuses every update of the
document. Such a document stays as it is. Claims leave it out for a minute, so that they do not fail again and again.
"""

from __future__ import annotations

import logging

from collections.abc import Iterable, Mapping
from typing import Any

from pitstop.abc import Clock
from pitstop_mongo._client.dialect import Dialect


__all__ = ["Unleasable"]

_log = logging.getLogger("pitstop.mongo")

#: Documents that are remembered, and ids that were logged. Any further ones are not: to forget others in their place would have
#: the same documents tried again and again.
_MOST = 1000
#: Seconds after which a document is tried again.
_AGAIN = 60.0
#: Documents after which the server is to compare with the rules by itself.
_MANY = 10


class Unleasable:
    """The documents of this kind that one backend has met."""

    def __init__(self, dialect: Dialect, clock: Clock, location: str) -> None:
        self._dialect = dialect
        self._clock = clock
        self._location = location
        # By id: until when it is passed over, by the monotonic clock, and why. Replaced, never changed: any thread may read.
        self._passed_over: Mapping[str, tuple[float, str]] = {}
        # The validation rules of the collection, and until when claims leave out all documents that break them.
        self._rules: tuple[float, Any] | None = None
        # Ids that were logged.
        self._told: set[str] = set()

    def add(self, id: str, why: str) -> None:
        """Pass a document over for a while, unless there are too many. Log it, if this process has not done that before."""
        if not self.is_full:
            self._passed_over = {**self._passed_over, id: (self._clock.monotonic() + _AGAIN, why)}
        self.tell(id, why)

    def leave_out(self, rules: Any) -> None:
        """Leave out all documents that break these validation rules, for a while: there may be more than can be named."""
        self._rules = (self._clock.monotonic() + _AGAIN, rules)

    def tell(self, id: str, why: str) -> None:
        """Log the fault of a document, once."""
        if id in self._told or len(self._told) >= _MOST:
            return
        self._told.add(id)
        _log.warning("message %r in %s: %s", id, self._location, why)

    def forget(self, ids: Iterable[str]) -> None:
        """Claim these again: they were stored anew or removed."""
        if self._passed_over:
            gone = set(ids)
            self._passed_over = {id: each for id, each in self._passed_over.items() if id not in gone}

    @property
    def are_many(self) -> bool:
        """Whether so many documents are passed over that the server had better compare with its rules."""
        return len(self._passed_over) >= _MANY

    @property
    def is_full(self) -> bool:
        """Whether no further document can be passed over now."""
        return len(self._passed_over) >= _MOST and len(self.ids) >= _MOST

    @property
    def ids(self) -> list[str]:
        """The ids of the documents that are passed over now."""
        if not self._passed_over:
            return []
        now = self._clock.monotonic()
        if any(until <= now for until, _ in self._passed_over.values()):
            self._passed_over = {id: each for id, each in self._passed_over.items() if each[0] > now}
        return list(self._passed_over)

    def why(self, id: str) -> str | None:
        """Return the reason for which a document is passed over; None if it is not."""
        found = self._passed_over.get(id)
        return None if found is None else found[1]

    @property
    def condition(self) -> dict[str, Any]:
        """The conditions that a filter of claims needs besides its own: none, as a rule."""
        rules = self._rules
        if rules is not None and rules[0] <= self._clock.monotonic():
            rules = self._rules = None
        ids = self.ids
        conditions = [{"_id": self._dialect.none_of(ids)}] if ids else []
        if rules is not None:
            conditions.append(rules[1])
        return {"$and": conditions} if conditions else {}
