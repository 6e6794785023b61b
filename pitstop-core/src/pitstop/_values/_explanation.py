"""Explanation: why a message has not come, as of one moment."""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs

from pitstop._recurrence._preview import Upcoming
from pitstop._values._entry import Entry
from pitstop._values._seen import SeenConsumer


__all__ = ["Explanation"]


@attrs.frozen(kw_only=True)
class Explanation:
    """The answer of :meth:`pitstop.Pitstop.explain`. It does not change afterwards. Ask again for the new state."""

    #: The message, as it was read.
    entry: Entry
    #: When it was read, by the clock that decides what is due.
    now: datetime
    #: Why the message has not come, and what to do, in a sentence or two. It quotes no part of the message, and no error.
    why: str
    #: When the present state began: of a due message its ``due``; of a leased one the first claim of this occurrence, if it is the only
    #: one. None: the store does not keep it.
    since: datetime | None = None
    #: The current occurrence and those after it, five at most. Empty if the message cannot be read, or its rule is broken.
    upcoming: tuple[Upcoming, ...] = ()
    #: Whether the kind of the message is paused.
    kind_paused: bool = False
    #: When the pause of the kind ends by itself; None if a person has to end it, and if there is none.
    kind_paused_until: datetime | None = None
    #: The consumers that were seen lately and take the kind of the message. None: the store does not keep which consumers run.
    consumers: tuple[SeenConsumer, ...] | None = None
    #: Those of them in which a handler has the message, as far as they have said so.
    handled_by: tuple[SeenConsumer, ...] = ()
    #: How far the clock of this machine is ahead of that of the store; negative: behind it. It decides nothing, but times in the
    #: logs of this machine differ by it from those of the store. Exact to half of the time that one question takes.
    clock_skew: timedelta
