"""The documents that an older library left in a store, as a backend finds them. Core decides what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from pitstop.abc._record import Record


__all__ = ["Legacy", "LegacyPage"]


@attrs.frozen
class Legacy:
    """A document of an older library, read but not yet judged."""

    #: The document's id as it stands in the store, for people.
    name: str
    #: The text that the id becomes; None if there is none.
    id: str | None
    #: All fields as they were found, ``_id`` included; dates are aware. Empty if the document cannot be read.
    fields: Mapping[str, Any] = attrs.field(repr=False)
    #: Private to the backend: it finds the document again by this, and sees whether the document is still as it was read.
    handle: Any = attrs.field(repr=False)
    #: Why the document cannot be adopted, as far as the backend knows. The text holds no values of the document.
    problem: str | None = None
    #: The record that an adoption made before it was cut short; the document itself is gone. Write the record as it is.
    record: Record | None = None


@attrs.frozen
class LegacyPage:
    """A part of a store that was searched."""

    found: Sequence[Legacy]
    #: Roughly how many documents of any kind were read.
    seen: int
    #: Where to go on, private to the backend; None: this was the last page.
    after: Any
