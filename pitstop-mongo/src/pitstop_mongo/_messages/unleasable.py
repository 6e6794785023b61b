"""Unleasable: documents to which the server refuses every write, so that the claims of this process skip them.

If a document breaks a validation rule that an administrator gave the collection, the server refuses every update of the
document. Such a document stays as it is. Claims skip it for a minute, so that they do not fail again and again.
"""

from __future__ import annotations

import logging

from collections.abc import Iterable, Mapping
from typing import Any

from pitstop.abc import Clock, log_fields
from pitstop_mongo._client.dialect import Dialect


__all__ = ["Unleasable"]

_log = logging.getLogger("pitstop.mongo")

#: The most documents that are remembered, and the most ids that are logged. Further ones are ignored: if they replaced others,
#: the same documents would be tried again and again.
_MOST = 1000
#: Seconds after which a document is tried again.
_AGAIN = 60.0
#: The number of such documents from which on claims let the server compare with the rules.
_MANY = 10


class Unleasable:
    """The documents of this kind that one backend has found."""

    def __init__(self, dialect: Dialect, clock: Clock, location: str) -> None:
        self._dialect = dialect
        self._clock = clock
        self._location = location
        # By id: until when claims skip it, by the monotonic clock, and why. The mapping is replaced, and never changed, so that
        # any thread may read it.
        self._passed_over: Mapping[str, tuple[float, str]] = {}
        # Until when claims skip all documents that break the validation rules of the collection, and these rules.
        self._rules: tuple[float, Any] | None = None
        # Ids that were logged.
        self._logged: set[str] = set()

    def add(self, id: str, why: str) -> None:
        """Let claims skip a document for a while, unless there are too many. Log it once per process."""
        if not self.is_full:
            self._passed_over = {**self._passed_over, id: (self._clock.monotonic() + _AGAIN, why)}
        self.log(id, why)

    def leave_out(self, rules: Any) -> None:
        """Let claims skip all documents that break these rules, for a while. There may be too many to name them."""
        self._rules = (self._clock.monotonic() + _AGAIN, rules)

    def log(self, id: str, why: str) -> None:
        """Log the fault of a document, once."""
        if id in self._logged or len(self._logged) >= _MOST:
            return
        self._logged.add(id)
        extra = log_fields("message_unleasable", backend="mongodb", message_id=id)
        _log.warning("message %r in %s: %s", id, self._location, why, extra=extra)

    def forget(self, ids: Iterable[str]) -> None:
        """Let these documents be claimed again, because they were stored again or removed."""
        if self._passed_over:
            gone = set(ids)
            self._passed_over = {id: each for id, each in self._passed_over.items() if id not in gone}

    @property
    def are_many(self) -> bool:
        """Whether claims skip many documents, so that the server should compare with its rules."""
        return len(self._passed_over) >= _MANY

    @property
    def is_full(self) -> bool:
        """Whether no further document can be remembered now."""
        return len(self._passed_over) >= _MOST and len(self.ids) >= _MOST

    @property
    def ids(self) -> list[str]:
        """The ids of the documents that claims skip now."""
        if not self._passed_over:
            return []
        now = self._clock.monotonic()
        if any(until <= now for until, _ in self._passed_over.values()):
            self._passed_over = {id: each for id, each in self._passed_over.items() if each[0] > now}
        return list(self._passed_over)

    def why(self, id: str) -> str | None:
        """Return the reason why claims skip a document; None if they do not."""
        found = self._passed_over.get(id)
        return None if found is None else found[1]

    @property
    def condition(self) -> dict[str, Any]:
        """The conditions that the filter of a claim needs in addition. Usually there are none."""
        rules = self._rules
        if rules is not None and rules[0] <= self._clock.monotonic():
            rules = self._rules = None
        ids = self.ids
        conditions = [{"_id": self._dialect.none_of(ids)}] if ids else []
        if rules is not None:
            conditions.append(rules[1])
        return {"$and": conditions} if conditions else {}
