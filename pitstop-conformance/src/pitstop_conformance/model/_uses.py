"""The semantics of Pitstop as the simplest program: the promises to the user, without the means to keep them.

The state machine applies each operation to a store and to this model, and compares the two.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

import attrs

from pitstop import Delivery
from pitstop_conformance.model._wire import Wire


__all__ = ["NEVER", "NO_POLICIES", "Held", "Message", "Policies"]

_MILLISECOND = timedelta(milliseconds=1)


@attrs.frozen
class Policies:
    """The policies of a message. All are in milliseconds. None: it has none."""

    lock_time: int | None = None
    expires: int | None = None
    #: The delay after each nack.
    retry: int | None = None
    #: The number of attempts. Not in milliseconds.
    most: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The policies as arguments of ``store``, and as fields of an entry."""
        retry: dict[str, Any] = {}
        if self.retry is not None:
            retry |= {"delay": self.retry * _MILLISECOND, "factor": 1.0, "jitter": 0.0}
        if self.most is not None:
            retry["max_attempts"] = self.most
        return {
            "lock_time": None if self.lock_time is None else self.lock_time * _MILLISECOND,
            "expires": None if self.expires is None else self.expires * _MILLISECOND,
            "retry": retry or None,
        }


NO_POLICIES = Policies()
#: The due time of a dead message.
NEVER = 2**62


@attrs.define(eq=False)
class Held:
    """A delivery that a handler holds."""

    delivery: Delivery
    #: The connection to the store of the process that holds the delivery.
    wire: Wire
    #: The version of the delivered message.
    version: int
    #: The end of the lease as its holder knows it. The store may have another end, if the reply to an extension got lost.
    until: int
    settled: bool = False
    #: Whether the reply to an ack or nack of it got lost, so that another one may find that it was done.
    doubted: bool = False

    def __repr__(self) -> str:
        return f"<delivery of {self.delivery.id!r}>"


@attrs.define
class Message:
    """A stored message. All times are instants."""

    #: A new version at each store.
    version: int
    content: dict[str, Any]
    start: int
    #: The end of a series, exclusive. None: no end.
    end: int | None = None
    #: The interval in milliseconds. None: a one-shot.
    every: int | None = None
    #: ``latest`` or ``all``.
    catch_up: str = "latest"
    kind: str = ""
    policies: Policies = NO_POLICIES
    #: The occurrence that a person has moved, and the time from which ``expires`` counts for it.
    moved: tuple[int, int] | None = None

    #: The first occurrence that is neither acknowledged nor skipped.
    pending: int = attrs.field(default=attrs.Factory(lambda self: self.start, takes_self=True))
    #: The earliest time of the next emission: the scheduled time, the end of a running lease, or the time that a nack set.
    due: int = attrs.field(default=attrs.Factory(lambda self: self.start, takes_self=True))
    #: The occurrence that was emitted and not acknowledged, and the number of occurrences skipped for it. Retries keep both.
    chosen: tuple[int, int] | None = None
    #: The number of emissions of that occurrence.
    attempts: int = 0
    holder: Held | None = None
    #: Whether an unseen claim may have taken the message: a listener that claims ahead, or a claim whose reply got lost.
    #: The message comes back, but its time and its attempt depend on that claim.
    unseen: bool = False
    #: Whether its attempts are used up, so that it is not emitted any more.
    dead: bool = False

    def choice(self, now: int) -> tuple[int, int]:
        """Return the occurrence of a first emission now, and the number of earlier occurrences that it skips."""
        if self.every is None or self.catch_up == "all":
            return (self.pending, 0)
        until = now if self.end is None else min(now, self.end - 1)
        # A message that a person has moved forward comes before its nominal time.
        missed = max((until - self.pending) // self.every, 0)
        return (self.pending + missed * self.every, missed)

    def may_come_as(self, occurrence: int, missed: int, now: int) -> bool:
        """Whether the message may be emitted now as that occurrence."""
        if self.chosen is not None:
            return (occurrence, missed) == self.chosen
        latest = self.choice(now)
        if not self.unseen:
            return (occurrence, missed) == latest
        # An unseen claim chose the latest occurrence of its own time, and its choice holds.
        return occurrence == self.pending + missed * (self.every or 0) and 0 <= missed <= latest[1]

    def is_of(self, kinds: Collection[str] | None) -> bool:
        return kinds is None or self.kind in kinds

    def is_too_late(self, occurrence: int, now: int) -> bool:
        """Whether this occurrence must not be emitted any more."""
        expires = self.policies.expires
        if expires is None:
            return False
        if self.moved is not None and self.moved[0] == self.pending:
            occurrence = max(occurrence, self.moved[1])
        return now > occurrence + expires

    def may_expire(self, now: int) -> bool:
        """Whether a claim now may end the current occurrence as too late."""
        occurrence = self.pending if self.unseen else (self.chosen or self.choice(now))[0]
        return self.due <= now and self.is_too_late(occurrence, now)

    def after_expiry(self, now: int) -> int | None:
        """Return the occurrence that follows one which a claim ends as too late. None: there is none."""
        assert self.policies.expires is not None, "only a message with a limit expires"
        if self.every is None:
            return None
        # The first one that is not too late.
        late = now - self.policies.expires - self.start
        following = self.start + max(-(-late // self.every), 0) * self.every
        return following if self.end is None or following < self.end else None

    def expired(self, following: int) -> None:
        """Go on with this occurrence."""
        self.pending = self.due = following
        self.chosen, self.attempts, self.holder, self.unseen = None, 0, None, False

    def emitted(self, held: Held, chosen: tuple[int, int], attempt: int) -> None:
        self.chosen, self.attempts, self.holder = chosen, attempt, held
        self.due, self.unseen = held.until, False

    def is_used_up(self) -> bool:
        """Whether the message has had all its attempts. The present one may still be acknowledged."""
        most = self.policies.most
        return most is not None and not self.unseen and self.attempts >= most

    def given_up(self) -> None:
        """End the occurrence whose attempts are used up: a series goes on, and a message without a next occurrence is dead."""
        if not self.acked():
            self.dead, self.due, self.holder = True, NEVER, None

    def revived(self, now: int) -> None:
        """Let a dead message come now, as a redrive does."""
        self.dead, self.due, self.chosen, self.attempts = False, now, None, 0

    def is_held_by(self, held: Held, now: int) -> bool:
        """Whether that delivery may still settle the message."""
        return self.holder is held and now < min(held.until, self.due) and not held.settled

    def acked(self) -> bool:
        """Go on with the next occurrence. Return False if there is none, so that the message is gone."""
        assert self.chosen is not None, "an emitted message has a chosen occurrence"
        if self.every is None:
            return False
        following = self.chosen[0] + self.every
        if self.end is not None and following >= self.end:
            return False
        self.pending = self.due = following
        self.chosen, self.attempts, self.holder = None, 0, None
        return True

    def nacked(self, due: int) -> None:
        """Let the same occurrence come back."""
        self.due, self.holder = due, None
