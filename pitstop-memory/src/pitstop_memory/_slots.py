"""A record as the memory backend keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from pitstop.abc import Progress, Record, copy_plain


__all__ = ["Slot"]


@attrs.define
class Slot:
    """A record, field by field, because the progress changes often and the rest seldom."""

    id: str
    message: dict[str, Any]
    series: Mapping[str, Any] | None
    revision: str
    progress: Progress
    #: Grows with each new id: among records with one ``due``, the id that came in first goes first.
    order: int
    kind: str
    policy: Mapping[str, Any] | None

    @property
    def record(self) -> Record:
        """The record as it is now, with the very message that is stored."""
        return Record(self.id, self.message, self.series, self.revision, self.progress, self.kind, self.policy)

    def copy(self) -> Record:
        """Return a copy of the record as it is now. No change to the copy reaches the stored record."""
        # Neither the series nor the policy must be changed by any user of the record, so they need no copy.
        message = copy_plain(self.message)
        return Record(self.id, message, self.series, self.revision, self.progress, self.kind, self.policy)
