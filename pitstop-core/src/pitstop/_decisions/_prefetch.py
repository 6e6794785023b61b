"""Decide how many messages a listener claims at once: many for a fast consumer, one for a slow one."""

from __future__ import annotations

import attrs


__all__ = ["MOST_AT_ONCE", "Pace"]

#: The most messages of one claim. A larger claim of MongoDB is no faster, and other consumers wait longer for their turn.
MOST_AT_ONCE = 500
#: Seconds for which the messages of one claim should last.
_HORIZON = 0.05
#: The part of a lease for which messages may wait for their turn.
_OF_LEASE = 0.1
#: A claim ahead pays only if the messages in hand last this many times as long as the claim takes. Else the thread that
#: handles them waits for the claim anyway, and both threads wait for Python's lock.
_WORTH = 1.5
#: From this many messages per claim on, the next claim is made while the acks of the last ones are written. It costs a switch
#: of threads, and a handler may turn out to be slow after all.
_MANY = 16
#: After a claim that brought fewer messages than it asked for, other consumers are assumed for this many claims.
_WARY = 50


@attrs.frozen
class Pace:
    """How fast messages are consumed, as far as is known, and the decisions that follow from it.

    A consumer must not sit on messages that another consumer could take. So the messages of one claim should last it some
    milliseconds. It begins with one message, and doubles the number from claim to claim while that holds.
    """

    #: Messages to claim at once.
    size: int = 1
    #: Seconds per message: the handler's time for a single consumer, that time divided by their number for several.
    #: None: unknown.
    each: float | None = None
    #: The number of further claims for which other consumers are assumed.
    crowded: int = 0

    def after(self, taken: int, seconds: float, lease: float) -> Pace:
        """Return the pace once ``taken`` messages were consumed in ``seconds``.

        :param lease: seconds for which messages are leased.
        """
        each = seconds / taken
        horizon = min(_HORIZON, lease * _OF_LEASE)
        # The division is skipped for a tiny divisor: its quotient may be infinite.
        affordable = MOST_AT_ONCE if each * MOST_AT_ONCE <= horizon else int(horizon / each)
        return Pace(max(1, min(self.size * 2, affordable, MOST_AT_ONCE)), each, self.crowded)

    def after_claim(self, asked: int, brought: int) -> Pace:
        """Return the pace once a claim for ``asked`` messages has brought ``brought`` messages.

        Fewer messages: other consumers took some meanwhile. No message: none was left, which explains the claim before as well.
        """
        crowded = 0 if brought == 0 else _WARY if brought < asked else max(self.crowded - 1, 0)
        return self if crowded == self.crowded else Pace(self.size, self.each, crowded)

    def slowed(self) -> Pace:
        """Return the pace when messages wait in hand unrequested: the consumer is slow, and for how long is unknown."""
        return Pace(crowded=self.crowded)

    def pays_ahead(self, claim: float) -> bool:
        """Whether the next messages should be claimed while those in hand are handled.

        :param claim: seconds that a claim takes.
        """
        return self.size > 1 and self.each is not None and self.each * self.size >= claim * _WORTH

    def refill_at(self, claim: float, *, apart: bool) -> int:
        """Return the number of messages left in hand at which the next claim is made; -1: only when none is left.

        :param claim: seconds that a claim takes.
        :param apart: whether the thread that handles messages is not the one that claims them, as in an event loop.
        """
        if not apart:
            if self.pays_ahead(claim):
                return self.size // 2
            # With the last message: the store then works on the claim and on the acks at once. If other consumers keep the
            # store busy anyway, this would only make them compete for the same messages more often.
            return 0 if self.size >= _MANY and not self.crowded else -1
        if self.size <= 1 or self.each is None:
            return -1
        # The messages in hand should last until the next claim returns.
        return self.size if self.each * self.size <= claim else max(self.size // 2, int(claim / self.each))
