"""What becomes of a message, in the plainest words: what its user may count on, and nothing of how it is done.

This is the semantics of Pitstop as a program. The state machine does each thing to a store and to this, and compares.
"""

from __future__ import annotations

from typing import Any

import attrs

from pitstop import Delivery
from pitstop_conformance.model._wire import Wire


__all__ = ["Held", "Message"]


@attrs.define(eq=False)
class Held:
    """A delivery in somebody's hands."""

    delivery: Delivery
    #: The way to the store of the process that has it.
    wire: Wire
    #: The version of the message that it is of.
    version: int
    #: The end of the lease as its holder knows it. The store may know another one, when the reply to an extension got lost.
    until: int
    settled: bool = False

    def __repr__(self) -> str:
        return f"<delivery of {self.delivery.id!r}>"


@attrs.define
class Message:
    """A stored message. Times are instants."""

    #: New at each store.
    version: int
    content: dict[str, Any]
    start: int
    #: Exclusive. None: never ends.
    end: int | None = None
    #: Milliseconds. None: a one-shot.
    every: int | None = None
    #: ``latest`` or ``all``.
    catch_up: str = "latest"

    #: The first occurrence that was not dealt with.
    pending: int = attrs.field(default=attrs.Factory(lambda self: self.start, takes_self=True))
    #: Not to be emitted before: its time; the lease's end while somebody has it; the time that a nack said.
    due: int = attrs.field(default=attrs.Factory(lambda self: self.start, takes_self=True))
    #: The occurrence that was emitted and not acknowledged, and how many were passed over for it: its retries keep to it.
    chosen: tuple[int, int] | None = None
    #: How often that was.
    attempts: int = 0
    holder: Held | None = None
    #: Somebody may have claimed it whom nobody saw: a listener ahead of its turn, or a claim whose reply got lost.
    #: It comes back, but when, and as which attempt, depends on that.
    unseen: bool = False

    def choice(self, now: int) -> tuple[int, int]:
        """The occurrence that a first emission now is of, and how many earlier ones are passed over for it."""
        if self.every is None or self.catch_up == "all":
            return (self.pending, 0)
        until = now if self.end is None else min(now, self.end - 1)
        missed = (until - self.pending) // self.every
        return (self.pending + missed * self.every, missed)

    def may_come_as(self, occurrence: int, missed: int, now: int) -> bool:
        """Whether it may be emitted now as that occurrence."""
        if self.chosen is not None:
            return (occurrence, missed) == self.chosen
        latest = self.choice(now)
        if not self.unseen:
            return (occurrence, missed) == latest
        # A claim that nobody saw chose what was the latest then, and that holds.
        return occurrence == self.pending + missed * (self.every or 0) and 0 <= missed <= latest[1]

    def emitted(self, held: Held, chosen: tuple[int, int], attempt: int) -> None:
        self.chosen, self.attempts, self.holder = chosen, attempt, held
        self.due, self.unseen = held.until, False

    def is_held_by(self, held: Held, now: int) -> bool:
        """Whether that delivery may still settle it."""
        return self.holder is held and now < min(held.until, self.due) and not held.settled

    def acked(self) -> bool:
        """It goes on with its next occurrence; False: there is none, it is done with."""
        assert self.chosen is not None, "what was emitted was chosen"
        if self.every is None:
            return False
        following = self.chosen[0] + self.every
        if self.end is not None and following >= self.end:
            return False
        self.pending = self.due = following
        self.chosen, self.attempts, self.holder = None, 0, None
        return True

    def nacked(self, due: int) -> None:
        """The same occurrence comes back."""
        self.due, self.holder = due, None
