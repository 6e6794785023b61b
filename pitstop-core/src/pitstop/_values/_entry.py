"""The user's view of a stored message, and of a whole store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import attrs

from pitstop._recurrence._base import Recurrence
from pitstop._recurrence._every import Every
from pitstop._recurrence._preview import Upcoming, check_count, upcoming
from pitstop._values._instant import floor_instant


__all__ = ["Entry", "State", "Stats"]

#: ``scheduled``: its time has not come. ``due``: it can be claimed now. ``leased``: a listener has it. ``dead``: it is
#: kept, but not emitted until :meth:`pitstop.Pitstop.redrive`. ``paused``: it is not emitted until :meth:`pitstop.Pitstop.resume`,
#: or until the pause ends by itself.
State = Literal["scheduled", "due", "leased", "dead", "paused"]


@attrs.frozen(kw_only=True)
class Entry:
    """A stored message at the moment of reading. It does not change afterwards. Read the message again for its new state."""

    #: The message's id.
    id: str
    #: A copy of the message, with its ``"id"``. Its body is left out of the repr: it may be large, or private.
    message: dict[str, Any] = attrs.field(repr=False)
    state: State
    #: The kind that was given to ``store``; empty if none was given.
    kind: str = ""
    #: When the message may next be claimed: its time; the lease's end while leased; the retry's time after a nack; None if dead.
    #: Of a paused message: when its pause ends by itself, or its time if that is later; None if a person has to end it.
    due: datetime | None
    #: The nominal time of the current occurrence. None if the stored document is damaged.
    scheduled_for: datetime | None
    #: The recurrence as it was given to ``store``; None for a one-shot message.
    every: timedelta | Recurrence | None = None
    #: The (exclusive) end of the recurrence; None if it never ends.
    end: datetime | None = None
    #: The start of the series, from which its occurrences are counted; None for a one-shot message.
    start: datetime | None = None
    #: The rule for missed occurrences; None for a one-shot message.
    catch_up: Literal["latest", "all", "skip"] | None = None
    #: How late an occurrence may be and still be emitted.
    grace: timedelta | None = None
    #: The most time by which an occurrence is delayed; None without jitter, and for a one-shot message.
    jitter: timedelta | None = None
    #: The retry of this message alone, durations as ``timedelta``; None if none was given.
    retry: Mapping[str, Any] | None = None
    #: How long this message is leased; None if nothing was given.
    lock_time: timedelta | None = None
    #: How late an occurrence may be and still be emitted; None if nothing was given.
    expires: timedelta | None = None
    #: How often the current occurrence was emitted so far.
    attempts: int = 0
    #: The error text of the last failed attempt.
    last_error: str | None = None
    #: Globally unique, and another one after each change of the stored message: a store, a claim, a settlement, a redrive. An
    #: opaque text, for ``store(..., if_revision=entry.revision)``.
    revision: str | None = None
    #: When the current lease runs out; None if the message is not leased.
    leased_until: datetime | None = None
    #: When the pause ends by itself; None if a person has to end it, and if there is none. A leased message may have a pause.
    paused_until: datetime | None = None

    def upcoming(self, n: int = 5) -> list[Upcoming]:
        """Return the current occurrence and those after it, ``n`` at most. Jitter is not counted.

        :raises PitstopError: if ``n`` is not from 1 to 10,000.
        :raises ScheduleError: if the rule is broken.
        """
        check_count(n)
        if self.scheduled_for is None:
            return []
        if self.every is None or self.start is None:
            return [Upcoming(self.scheduled_for, self.scheduled_for, "UTC")]
        rule = self.every if isinstance(self.every, Recurrence) else Every(self.every)
        end = None if self.end is None else floor_instant(self.end)
        return upcoming(rule, floor_instant(self.start), end, n, since=floor_instant(self.scheduled_for))


@attrs.frozen(kw_only=True)
class Stats:
    """The number of messages in each state, and the due time of the oldest due message."""

    scheduled: int
    due: int
    leased: int
    dead: int
    #: The due time of the message that has been waiting longest; None if no message is due.
    oldest_due: datetime | None
    #: The number of paused messages. One whose pause began while a listener had it counts as soon as its time comes.
    paused: int = 0
