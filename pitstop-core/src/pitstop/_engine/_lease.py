"""Lease: a message that was claimed, until when it may be handed out, and the states of its settlement.

No I/O, and no locks of others. The states::

    HELD ── ask ──> ASKED ── decide ──> SENT ── done ──────> DONE         the store has it
      ^               ^ ^                │ ├─── lose ──────> LOST         the lease is over, nothing was changed
      │               │ └── postpone ────┘ ├─── lose ──────> SUPERSEDED   the handler itself stored or removed the message
      └── hand_back ──┘                    ├─── doubt ─────> UNKNOWN      the store may have done it, and cannot say
                                           └─── fail ──────> FAILED       it cannot be worked out, or will not be written

One settlement is under way at a time.

Threads: any. The thread that calls :meth:`Lease.ask` gets the right to settle; it passes this right
on to the thread that writes. Only the thread that has the right changes the state.
"""

from __future__ import annotations

from datetime import timedelta

import attrs

from pitstop._decisions._attempts import number
from pitstop._decisions._emit import Emission
from pitstop._decisions._settle import ack, extend, hand_back, nack, was_applied
from pitstop._engine._pledge import Pledge
from pitstop._engine._states import Purpose, State
from pitstop._errors import LeaseLost, OutcomeUnknown, PitstopError
from pitstop.abc import Damaged, Progress, Record, Retry, Settlement


__all__ = ["Lease", "Purpose", "State"]


#: A settlement as the caller asked for it: its purpose, and the error and the delay of a nack.
_Request = tuple[Purpose | None, str | None, timedelta | None]

# Looked up once: members of an Enum are slow to get at, and each message needs some.
_HELD, _ASKED, _SENT, _DONE = State.HELD, State.ASKED, State.SENT, State.DONE
_ACK, _NACK = Purpose.ACK, Purpose.NACK
_NEVER = float("inf")


class Lease:
    """One claimed message.

    Fields that say "with the right" are written by the thread that has the right to settle.
    """

    #: For observers. With the right; None unless a settlement is under way, so that the two do not refer to each other.
    delivery: object
    #: Of a nack: the text of the error, and the delay. With the right.
    error: str | None
    delay: timedelta | None
    # The settlement that is being written. With the right. decide() sets it first, and ask() the three above: that is faster.
    _sent: Settlement

    __slots__ = (
        "__weakref__",
        "_doubts",
        "_right",
        "_sent",
        "delay",
        "delivery",
        "emission",
        "error",
        "expiry",
        "lock_time",
        "pledge",
        "purpose",
        "state",
        "superseded",
        "told",
        "until",
    )

    def __init__(self, emission: Emission, until: float) -> None:
        """Return the lease of a message that was just claimed.

        :param until: the time by the monotonic clock until which the message may be handed out.
        """
        #: Replaced by the thread that extends the lease, which holds the lock for that.
        self.emission = emission
        #: Written by the claiming thread, and by the one that confirms a suspect, before the lease is handed out.
        self.until = until
        #: When the message expires, by the monotonic clock; `until` is no later. Written by the claiming thread, before the lease
        #: is handed out.
        self.expiry = _NEVER
        #: For how long the message is leased, if it has asked for another time than its listener's. Written by the claiming
        #: thread, before the lease is handed out.
        self.lock_time: timedelta | None = None
        #: With the right.
        self.state = _HELD
        #: With the right. None: no settlement was asked for.
        self.purpose: Purpose | None = None
        #: The error that the present settlement raises to its caller, or raised. With the right; and by the caller of an
        #: extension that failed.
        self.told: PitstopError | None = None
        #: The last ack in a transaction of the user. None: there is none. With the right.
        self.pledge: Pledge | None = None
        #: Whether the handler has stored or removed this message. Written by the handler's thread; reset if a transaction shows
        #: that this was undone.
        self.superseded = False
        # The right to settle: the thread that deletes the attribute has it. To delete it is one step, which no other thread
        # or signal handler comes between.
        self._right = None
        # The first settlement of each request that was written without an answer. None: each write was answered. Written by the
        # thread that has the right.
        self._doubts: dict[_Request, Settlement] | None = None

    # Values.

    @property
    def id(self) -> str:
        """The message's id."""
        return self.emission.leased.id

    @property
    def record(self) -> Record:
        """The record as it was leased, with the lease's present end."""
        return self.emission.record

    @property
    def attempt(self) -> int:
        """1 at the first emission of this occurrence, 2 at the second, and so on."""
        return number(self.emission.record.progress)

    @property
    def due(self) -> int:
        """The instant at which the lease ends."""
        due = self.emission.leased.progress.due
        assert due is not None, "a leased record is due when its lease ends"
        return due

    def is_over(self, now_us: int) -> bool:
        """Whether the lease has run out, at that time in microseconds."""
        due = self.emission.leased.progress.due
        return due is not None and due * 1000 <= now_us

    @property
    def is_settling(self) -> bool:
        """Whether a settlement is under way, or was done or refused: the lease is not to be extended any more."""
        return self.state is not _HELD

    @property
    def settled(self) -> bool:
        """Whether the handler, or code on its behalf, has settled this: the end of the handler settles nothing any more."""
        return self.purpose is not None

    @property
    def may_run_out(self) -> bool:
        """Whether the end of the lease means that it is lost: nothing has settled it, and no transaction may have done so."""
        return self.purpose is None and (self.pledge is None or self.pledge.failed)

    @property
    def known(self) -> bool:
        """Whether no settlement is under way any more."""
        state = self.state
        return state is not _ASKED and state is not _SENT

    @property
    def doubted(self) -> bool:
        """Whether an earlier write got no answer, so that the store may have done it."""
        return self._doubts is not None

    @property
    def lost(self) -> bool:
        """Whether the store has refused to settle or to extend this."""
        return self.state is State.LOST

    @property
    def _request(self) -> _Request:
        return self.purpose, self.error, self.delay

    def is_news(self, error: BaseException | None) -> bool:
        """Whether an error was raised by the settlement of this lease: it says nothing of the handler."""
        return error is not None and error is self.told

    # When it may be handed out.

    def expire(self, expiry: float) -> None:
        """Let the message be handed out only before it expires, by the monotonic clock."""
        self.expiry, self.until = expiry, min(self.until, expiry)

    def move_until(self, until: float) -> None:
        """Let the message be handed out until then, but no longer than until it expires."""
        self.until = min(until, self.expiry)

    # Transitions.

    def supersede(self) -> None:
        """Note that the handler stores or removes this message: its settlement may come too late, without a word."""
        self.superseded = True

    def ask(
        self,
        purpose: Purpose,
        delivery: object = None,
        error: str | None = None,
        delay: timedelta | None = None,
    ) -> None:
        """Take the right to settle, and ask for a settlement.

        :param delivery: given to the observers of what comes of it.
        :param error: of a nack: the text that is kept with the message.
        :param delay: of a nack: when the message comes back, from when this is written.
        :raises LeaseLost: when the lease was settled before, or is over.
        :raises PitstopError: when a transaction of the user, which is open still, has acknowledged this.
        """
        if self.pledge is not None:
            self.pledge.check_over(self.id, purpose.value)
        try:
            del self._right
        except AttributeError:
            raise self.refusal(purpose.value) from None
        self.purpose, self.delivery, self.error, self.delay, self.told = purpose, delivery, error, delay, None
        self.state = _ASKED

    def pledge_ack(self, pledge: Pledge) -> None:
        """Take the right to settle, and note an ack that is about to be written in a transaction of the user.

        :raises LeaseLost: when the lease was settled before, or is over.
        """
        try:
            del self._right
        except AttributeError:
            raise self.refusal("acknowledged") from None
        self.pledge, self.told = pledge, None

    def refuse_pledge(self, before: Pledge | None, *, stands: bool) -> bool:
        """Note that the fence refused the ack in the transaction. Return whether that is the first news of the lost lease.

        :param before: the ack in an earlier transaction, which may have committed.
        :param stands: whether the handler stored or removed the message, and the transaction sees that it did.
        """
        # A store in an earlier transaction was undone if that was aborted.
        self.superseded = stands
        if stands:
            return False
        self.pledge, self.told = before, self.over("acknowledged")
        if before is not None and not before.failed:
            self._right = None
            return False
        self.state = State.LOST
        return True

    def end_pledge(self, settlement: Settlement) -> None:
        """Give the right back, if this ack took it: the transaction may abort, and the ack may be written again."""
        if self.state is _HELD and self.pledge is not None and self.pledge.settlement is settlement:
            self._right = None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction of the user, which is open still, has acknowledged this."""
        return self.pledge is not None and self.pledge.is_open()

    def refusal(self, participle: str) -> PitstopError:
        """Return the error of a second settlement, or of an extension after a settlement."""
        if self.told is not None and (self.state is State.UNKNOWN or self.purpose is None):
            return self.told
        before = "settled" if self.purpose is None else self.purpose.value
        return LeaseLost(f"The delivery of {self.id!r} was {before} before. It cannot be {participle} now.")

    def decide(self, now_us: int, retry: Retry) -> Settlement | None:
        """Return the settlement to write. The state is SENT then. None: the lease has run out, and the state is as before.

        :raises Exception: when it cannot be worked out: a recurrence of another author raised an error.
        """
        emission = self.emission
        # As is_over() does, without one more call for each message.
        due = emission.leased.progress.due
        if due is not None and due * 1000 <= now_us:
            return None
        if self.purpose is _ACK:
            settlement = ack(emission)
        elif self.purpose is _NACK:
            # Also at the end of a handler that acknowledged in a transaction. If that has committed, this is refused.
            settlement = nack(emission, self.error, self.delay, retry, now_us)
        else:
            settlement = hand_back(emission.record, now_us // 1000)
        self._sent, self.state = settlement, _SENT
        return settlement

    def done(self) -> object:
        """Note that the store has it. Return the delivery, for its observers, and let it go."""
        delivery, self.delivery, self.state = self.delivery, None, _DONE
        return delivery

    def was_done(self, stored: Record | Damaged | None) -> bool | None:
        """Whether an earlier write without an answer did the present request, by the record that is stored now.

        :return: None if that cannot be said. It is also None if the record shows that another request was done: an ack, or
            a nack with another error or delay.
        :raises AssertionError: without such a write.
        """
        assert self._doubts is not None, "an earlier write got no answer"
        leased = self.emission.record
        applied = {each: was_applied(sent, leased, stored) for each, sent in self._doubts.items()}
        mine = applied.pop(self._request, False)
        # The record may look the same after both: a series goes on after an ack, and after a nack that gave up.
        if True in applied.values():
            return None
        return None if not mine and None in applied.values() else mine

    def lose(self) -> bool:
        """The lease is over. Return False if that is no news: the handler itself stored or removed the message."""
        if self.superseded:
            self.state = State.SUPERSEDED
            return False
        self.state = State.LOST
        self.told = self.over("settled" if self.purpose is None else self.purpose.value)
        return True

    def lose_unasked(self) -> bool:
        """The lease is over, as a failed extension shows. Return True if that is news, and :attr:`told` is its error.

        It is no news if the handler itself stored or removed the message, if a settlement is under way or known, or if an
        earlier settlement got no answer: the store may have done that one.
        """
        if self.superseded or self.doubted or self.pledge is not None:
            return False
        try:
            del self._right
        except AttributeError:
            return False
        self.told, self.state = self.over("extended"), State.LOST
        return True

    def doubt(self) -> None:
        """The store may have done it. It cannot be asked, or cannot say."""
        self.state, self.told = State.UNKNOWN, self._unknown()

    def fail(self, error: PitstopError) -> None:
        """The settlement cannot be worked out, or will not be written. The message comes back when its lease runs out."""
        self.state, self.told = State.FAILED, error

    def postpone(self, *, doubtful: bool) -> None:
        """The store did not answer: write it again.

        :param doubtful: whether the store may have done it all the same.
        """
        if self.state is _SENT:
            if doubtful:
                self._doubts = self._doubts or {}
                self._doubts.setdefault(self._request, self._sent)
            self.state = _ASKED

    def hand_back(self, error: PitstopError | None) -> None:
        """Give the right to settle back to the caller, who is told ``error`` and may try again."""
        self.state, self.purpose, self.delivery, self.told = _HELD, None, None, error
        self._right = None

    def report(self) -> None:
        """The caller is told :attr:`told`. It may settle a lease that could not be settled in another way."""
        if self.state is State.FAILED:
            self.hand_back(self.told)
        elif self.state is State.LOST:
            # Another try raises the same error.
            self.purpose = None

    def release(self) -> None:
        """Let the delivery go, after its observers were told."""
        self.delivery = None

    # Extensions.

    def extension(self, until: int) -> Settlement:
        """Return the write that moves the end of the lease."""
        return extend(self.emission.record, until)

    def extended(self, settlement: Settlement) -> None:
        """Note the new end of the lease, by the thread that holds the lock for extensions."""
        assert isinstance(settlement.progress, Progress), "an extension writes progress"
        record = attrs.evolve(self.emission.record, progress=settlement.progress)
        self.emission = self.emission.with_record(record)

    def refuse_extension(self) -> PitstopError:
        """Return the error of an extension that the store refused, after :meth:`lose_unasked`. Called by the thread that asked for it."""
        if self.state is not _HELD:
            return self.told or self.refusal("extended")
        # Noted, so that it does not count as a failure of the handler that lets it out.
        self.told = self._unknown() if self.doubted and not self.superseded else self.over("extended")
        return self.told

    def _unknown(self) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"The store may have settled {self.id!r}: the reply was lost, and it cannot be told any more. If it did not, the "
            f"message comes back.",
            ids=(self.id,),
        )

    def over(self, participle: str) -> LeaseLost:
        """Return the error of a lease that is over."""
        return LeaseLost(
            f"The lease of {self.id!r} (attempt {self.attempt}) is over: it ran out, or the message was stored anew "
            f"or removed. It was not {participle}. Extend leases in long handlers, or configure a longer lock_time."
        )

    def __repr__(self) -> str:
        return f"<Lease of {self.id!r} {self.state.value}>"
