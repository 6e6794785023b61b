"""Claimed: the result of a claim, and the records of a claim after the decision about each.

Threads: any; the claiming thread writes a Decided.
"""

from __future__ import annotations

import attrs

from pitstop._engine._lease import Lease
from pitstop.abc import Damaged, Record, Settlement


__all__ = ["NOTHING", "Claimed", "Decided"]


@attrs.frozen
class Claimed:
    """The result of a claim."""

    #: How many messages can be handed out now that could not before.
    count: int
    #: Whether the next look at the store should come at once: there may be more.
    again: bool
    #: How many messages it has brought that are to be emitted.
    emitted: int = 0


#: The result of a claim that brought nothing.
NOTHING = Claimed(0, again=False)


@attrs.define
class Decided:
    """The records of a claim, after the decision about each."""

    #: Those that are to be emitted.
    leases: list[Lease] = attrs.Factory(list)
    #: The writes for those of them that ask for a lease of another length.
    relocks: dict[Lease, Settlement] = attrs.Factory(dict)
    #: Those that are not to be emitted, with their settlements.
    unfit: list[tuple[Record | Damaged, Settlement]] = attrs.Factory(list)
    #: Whether the backend has set one aside.
    aside: bool = False
