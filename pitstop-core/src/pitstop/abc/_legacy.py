"""What an older library left in a store, as a backend finds it. What to make of it is decided in core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from pitstop.abc._record import Record


__all__ = ["Legacy", "LegacyPage"]


@attrs.frozen
class Legacy:
    """A document of an older library, read but not judged."""

    #: Its id as it stands in the store, for people.
    name: str
    #: The text that its id becomes; None when there is none.
    id: str | None
    #: All its fields as they were found, ``_id`` included; dates are aware. Empty when it cannot be read.
    fields: Mapping[str, Any] = attrs.field(repr=False)
    #: The backend's own: by what it finds the document again, and tells whether it is still what was read.
    handle: Any = attrs.field(repr=False)
    #: Why it cannot be adopted, as far as the backend can tell. Without its values.
    problem: str | None = None
    #: An adoption that was cut short made this of it, and the document itself is gone: to be written as it is.
    record: Record | None = None


@attrs.frozen
class LegacyPage:
    """A part of a store, looked through."""

    found: Sequence[Legacy]
    #: How many documents of any kind were looked at, roughly.
    seen: int
    #: Where to go on; None: this was the last page. The backend's own.
    after: Any
