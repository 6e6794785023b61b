"""A lease as it is written into a document."""

from __future__ import annotations

import os

from typing import Any

import attrs

from pitstop.abc import Record, from_instant
from pitstop_mongo._messages.document import LAST_INSTANT


__all__ = ["Lease", "set_aside"]


def set_aside(error: str | None, etag: str | None = None) -> dict[str, Any]:
    """Return the update of a document that must never be claimed again.

    ``$unset`` is no alternative. If ``due`` occurs twice in a document, it removes the first one, and the second one counts.

    :param error: the reason; None if the document has no room for it.
    """
    fields = {"due": None, "last_error": error, "etag": etag}
    return {"$set": {name: value for name, value in fields.items() if name == "due" or value is not None}}


@attrs.frozen
class Lease:
    """One claim: its token, and the instants of its beginning and end, by the server's clock."""

    token: str
    now: int
    until: int
    #: How many documents the claim asks for.
    limit: int = 1

    @classmethod
    def new(cls, now: int, duration: int, limit: int) -> Lease:
        """Make a lease of up to ``limit`` documents for ``duration`` milliseconds, with a token that cannot be guessed."""
        return cls(os.urandom(16).hex(), now, min(now + duration, LAST_INSTANT), limit)

    @property
    def update(self) -> dict[str, Any]:
        """The update that a claim writes."""
        # In every document `due >= first_leased`, so the least time of all claims is the time of the first one.
        counted = {"attempts": 1, "unsettled": 1}
        if self.limit > 1:
            counted["ahead"] = 1
        return {**self.renewal, "$inc": counted, "$min": {"first_leased": from_instant(self.now)}}

    @property
    def renewal(self) -> dict[str, Any]:
        """The update that replaces an earlier lease of this backend by this one."""
        return {"$set": {"due": from_instant(self.until), "token": self.token}}

    def of(self, record: Record) -> Record:
        """Return a record as it is after this claim."""
        progress = record.progress.leased(self.token, self.now, self.until, self.limit)
        return Record(record.id, record.message, record.series, record.revision, progress, record.kind, record.policy)
