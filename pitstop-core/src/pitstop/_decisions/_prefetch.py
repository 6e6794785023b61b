"""How many messages a listener claims at once: many for a fast consumer, one for a slow one."""

from __future__ import annotations

import attrs


__all__ = ["MOST_AT_ONCE", "Pace"]

#: Messages of one claim. Beyond it a claim of MongoDB gets no faster, and whoever comes next waits the longer.
MOST_AT_ONCE = 500
#: Seconds that what is claimed at once should last.
_HORIZON = 0.05
#: Of a lease, the part that messages may wait for their turn.
_OF_LEASE = 0.1
#: Another thread claims ahead when it is done before this part of the messages in hand is: else the one that handles them
#: has to wait for it anyway, and both for Python's lock.
_WORTH = 1.5
#: Messages claimed at once from which on the next claim is made while the acks of these are written. It costs a switch of
#: threads, and then a handler may turn out to be slow.
_MANY = 16
#: Claims for which others are taken to be in the way after one that brought fewer messages than it might have.
_WARY = 50


@attrs.frozen
class Pace:
    """How fast messages are consumed, as far as is known, and what follows from it.

    A consumer shall not sit on messages that another one could take: so what it claims at once lasts it some
    milliseconds. It begins with one message, and takes twice as many from claim to claim while that holds.
    """

    #: Messages to claim at once.
    size: int = 1
    #: Seconds that one message takes: of a single consumer its handler's time, of several that divided by their number.
    #: None: not known.
    each: float | None = None
    #: For how many more claims others are taken to be in the way.
    crowded: int = 0

    def after(self, taken: int, seconds: float, lease: float) -> Pace:
        """What is known once ``taken`` messages were consumed in ``seconds``.

        :param lease: seconds for which messages are leased.
        """
        each = seconds / taken
        horizon = min(_HORIZON, lease * _OF_LEASE)
        # Not divided by what is next to nothing: the quotient may be no number any more.
        affordable = MOST_AT_ONCE if each * MOST_AT_ONCE <= horizon else int(horizon / each)
        return Pace(max(1, min(self.size * 2, affordable, MOST_AT_ONCE)), each, self.crowded)

    def after_claim(self, asked: int, brought: int) -> Pace:
        """What is known once a claim for ``asked`` messages has brought so many.

        Fewer: others took some meanwhile. None: there were no more, which is why the one before brought fewer.
        """
        crowded = 0 if brought == 0 else _WARY if brought < asked else max(self.crowded - 1, 0)
        return self if crowded == self.crowded else attrs.evolve(self, crowded=crowded)

    def slowed(self) -> Pace:
        """What is known when messages wait in hand and nobody asks for them: this one is slow, for how long is not known."""
        return Pace(crowded=self.crowded)

    def pays_ahead(self, claim: float) -> bool:
        """Whether the next messages should be claimed while those in hand are handled.

        :param claim: seconds that a claim takes.
        """
        return self.size > 1 and self.each is not None and self.each * self.size >= claim * _WORTH

    def refill_at(self, claim: float, *, apart: bool) -> int:
        """When the next messages are to be claimed: once so few are left in hand; -1: not before there are none.

        :param claim: seconds that a claim takes.
        :param apart: whether messages are handled by others than claim them, as in an event loop.
        """
        if not apart:
            if self.pays_ahead(claim):
                return self.size // 2
            # With the last one: then the store is busy with the claim and with the acks at once. Where others keep it
            # busy anyway, they would only take the same messages more often.
            return 0 if self.size >= _MANY and not self.crowded else -1
        if self.size <= 1 or self.each is None:
            return -1
        # They should last until the next ones are there.
        return self.size if self.each * self.size <= claim else max(self.size // 2, int(claim / self.each))
