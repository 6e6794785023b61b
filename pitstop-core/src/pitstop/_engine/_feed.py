"""What the engine asks of a listener that a user does not: the inner side of it, for who claims on behalf of others."""

from __future__ import annotations

from datetime import timedelta

from pitstop._engine._delivery import Delivery
from pitstop._engine._listener import LEAST_REMAINDER, Listener, Visit
from pitstop._engine._outbox import Counts, Outbox


__all__ = ["Feed"]


class Feed:
    """A listener, as a source of messages for an event loop. Any thread, as the listener itself."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.store = listener._session
        self.monotonic = self.store.clock.monotonic
        #: Where acks of what it hands out go.
        self.outbox: Outbox = listener._outbox
        #: The same, unless ``prefetch=1`` has each ack written by itself: then None.
        self.batched: Outbox | None = listener._batched
        #: Milliseconds of a lease that have to be left for a message to be handed out.
        self.least_ms = int(listener._lock_time / timedelta(milliseconds=1) * LEAST_REMAINDER)
        #: One message of those in hand; None when none can be had without the store. Never blocks.
        self.at_hand = listener._at_hand
        #: One message of those in hand, whose ack goes to the outbox that is given.
        self.hand_out = listener._hand_out
        #: End it, and wait for nothing.
        self.end = listener._end
        #: Give back what is in hand, and write what is pending.
        self.settle_all = listener._settle_all
        # No thread that handles messages ever claims: then to claim ahead always pays.
        listener._hand.claimed_apart = True

    def visit(self, visit: Visit, deadline: float | None, outbox: Outbox | None) -> Delivery | None:
        """One message of those in hand, else of a claim; waits for it until ``deadline`` (None: without end)."""
        return self.hand_out(outbox) or self.listener._visit(visit, deadline, outbox)

    @property
    def unsettled(self) -> bool:
        """Whether there is something to give back, or to be written."""
        return bool(self.listener._hand or self.outbox)

    @property
    def counts(self) -> Counts:
        """What became of the deliveries."""
        return self.outbox.counts

    @property
    def given_back(self) -> int:
        """Messages that were given back unseen."""
        return self.listener._hand.given_back

    def give_back(self, deliveries: list[Delivery]) -> None:
        """These were taken, and nobody has seen them: due again, and the attempt is not counted."""
        self.listener._hand.give_back([each._emission for each in deliveries])
