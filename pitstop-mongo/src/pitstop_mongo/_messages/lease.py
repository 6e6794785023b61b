"""A lease as it is written into a document."""

from __future__ import annotations

import os

from typing import Any

import attrs

from pitstop.abc import Record, from_instant
from pitstop_mongo._messages.document import LAST_INSTANT


__all__ = ["Lease", "set_aside"]


def set_aside(error: str | None, etag: str | None = None) -> dict[str, Any]:
    """Return the update of a document that is never to be claimed again.

    Not ``$unset``: of a ``due`` that occurs twice it takes away the first one, and the second one would count.

    :param error: why. None: the document has no room for it.
    """
    fields = {"due": None, "last_error": error, "etag": etag}
    return {"$set": {name: value for name, value in fields.items() if name == "due" or value is not None}}


@attrs.frozen
class Lease:
    """One claim: its token, and from when until when it holds, by the server's clock."""

    token: str
    now: int
    until: int

    @classmethod
    def new(cls, now: int, duration: int) -> Lease:
        """A lease for ``duration`` milliseconds, with a token that nobody can guess."""
        return cls(os.urandom(16).hex(), now, min(now + duration, LAST_INSTANT))

    @property
    def update(self) -> dict[str, Any]:
        """What a claim writes."""
        # `due >= first_leased` holds in every document, so the least time of all claims is the first one.
        return {**self.renewal, "$inc": {"attempts": 1}, "$min": {"first_leased": from_instant(self.now)}}

    @property
    def renewal(self) -> dict[str, Any]:
        """What is written to put this lease in the place of one that is already ours."""
        return {"$set": {"due": from_instant(self.until), "token": self.token}}

    def of(self, record: Record) -> Record:
        """What a claim makes of a record."""
        progress = record.progress.leased(self.token, self.now, self.until)
        return Record(record.id, record.message, record.series, record.revision, progress)
