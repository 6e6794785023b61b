"""A delivery: one emission of a message, to be acknowledged by whoever handles it."""

from __future__ import annotations

import logging

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs

from pitstop._decisions._emit import Emission
from pitstop._decisions._settle import ack, checked_delay, error_text, extend, hand_back, lease_end, nack
from pitstop._engine._calls import entrance, unbroken
from pitstop._engine._outbox import Outbox
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, LeaseLost, OutcomeUnknown, PitstopError
from pitstop._values._instant import from_instant, span_of_time
from pitstop._values._plain import shown
from pitstop.abc import Outcome, Progress, Record, Settlement


if TYPE_CHECKING:
    from collections.abc import Callable

    from pitstop._engine._heartbeat import Heartbeat

__all__ = ["Delivery"]

_log = logging.getLogger("pitstop.delivery")


class Delivery:
    """A message that was emitted, with the lease under which it is handled.

    Settle it once, with :meth:`ack` or :meth:`nack`; or use it as a context manager, which acknowledges it at the end
    of its body, or nacks it and re-raises when the body raises. A delivery that is never settled comes back when its
    lease runs out. May be used and settled in another thread than the one that got it.
    """

    __slots__ = (
        "__weakref__",
        "_doubted",
        "_emission",
        "_failure",
        "_handling",
        "_heartbeat",
        "_held_until",
        "_known",
        "_lock_time",
        "_outbox",
        "_session",
        "_settled",
        "_told",
        "_tried",
        "_uncounted",
        "msg",
    )

    _held_until: int
    #: The message, with its ``"id"``: a copy that is yours to change.
    msg: dict[str, Any]

    def __init__(self, store: Session, emission: Emission, lock_time: timedelta, outbox: Outbox | None = None) -> None:
        record = emission.record
        self._session = store
        self._emission = emission
        self._lock_time = lock_time
        # Where its ack goes; None: to the store at once.
        self._outbox = outbox
        self._settled: str | None = None
        # What this delivery's own ack raised (or nack, or extend, of a lost lease): news of the store, not of the handler.
        self._told: PitstopError | None = None
        # Taken by the thread that counts the lost lease: the handler's and the heartbeat's may find it out at one moment.
        self._uncounted = [None]
        # Of a settlement in the outbox: whether it was sent and no answer came; and whether its outcome is known.
        self._doubted = self._known = False
        # Whether an ack or nack was sent, past the outbox: whatever came of it, a heartbeat is to let go of this.
        self._tried = False
        # What extends the lease, if anything does; and until which instant, then.
        self._heartbeat: Heartbeat | None = None
        self.msg = {"id": record.id, **record.message}

    @property
    def id(self) -> str:
        """The message's id."""
        return self._emission.record.id

    @property
    def scheduled_for(self) -> datetime:
        """The nominal time of this occurrence. The same for all its attempts."""
        return from_instant(self._emission.scheduled_for)

    @property
    def attempt(self) -> int:
        """1 at the first emission of this occurrence, 2 at the second, and so on."""
        return self._emission.record.progress.attempts

    @property
    def missed(self) -> int:
        """Earlier occurrences that were passed over in favour of this one: 0 as a rule."""
        return self._emission.missed

    @property
    def last_error(self) -> str | None:
        """What the last failure said: of an earlier attempt, or of the occurrence before if that was given up."""
        return self._emission.record.progress.last_error

    @property
    def leased_until(self) -> datetime:
        """When the lease runs out, by the store's clock. :meth:`extend` moves it."""
        due = self._emission.record.progress.due
        assert due is not None, "a leased record is due when its lease ends"
        return from_instant(due)

    @property
    def key(self) -> str:
        """The occurrence's key, ``"{id}:{scheduled_for in ms}"``: the same for all its attempts.

        At least once means that a message may be handled twice: whoever notes the keys that were done can tell.
        """
        return f"{self.id}:{self._emission.scheduled_for}"

    @property
    def lost(self) -> bool:
        """Whether the lease is known to be over: somebody else may have the message. What is done now may be done twice."""
        return isinstance(self._told, LeaseLost) or (self._settled is None and self._has_run_out())

    def ack(self, *, wait: bool = False) -> None:
        """Done. A one-shot message is deleted, a recurring one goes on to its next occurrence.

        Of a listener that is iterated over, and has more messages in hand, it returns at once: the ack is written with
        others, some 20 milliseconds later at most, and again until the lease ends if the store does not answer. A crash in
        between is a redelivery. Else it is written before this returns.

        :param wait: return when the store has it, as durably as it is configured.
        :raises LeaseLost: when the lease is known to be over; nothing was changed.
        :raises BackendUnavailable: when the store did not answer; the message comes back when its lease runs out, unless
            the store did it all the same (:class:`pitstop.OutcomeUnknown`: it may have).
        :raises PitstopError: when the next occurrence cannot be computed, because a recurrence raised an error.
        """
        if self._outbox is not None:
            self._begin_to_settle("acknowledged")
            (self._outbox.put_and_wait if wait else self._outbox.put)(self)
            return
        settlement = self._computed("acknowledged", lambda: ack(self._emission))
        try:
            self._settle(settlement, "acknowledged")
        except BackendUnavailable as error:
            self._told = error
            raise
        self._is_done(settlement)

    @entrance
    def nack(self, error: BaseException | str | None = None, delay: timedelta | None = None) -> None:
        """Failed. The message comes back: after ``delay``, or as ``retry`` is configured, or when its lease runs out.

        :param error: kept with the message, for people; its text must hold no secret. What this delivery's own :meth:`ack`
            raised (:class:`LeaseLost`, :class:`BackendUnavailable`) is no failure of the handler: then nothing is done,
            and nothing raised.
        :param delay: when it comes back, from now; zero or more.
        :raises LeaseLost: when the lease is over; nothing was changed.
        :raises BackendUnavailable: when the store did not answer; the message comes back when its lease runs out, or sooner
            if the store did it all the same.
        :raises ScheduleError: when ``delay`` is no ``timedelta`` or is negative.
        :raises PitstopError: when the next occurrence cannot be computed, because a recurrence raised an error.
        """
        if error is not None and error is self._told:
            return
        self._failure = error_text(error), checked_delay(delay)
        now_us = self._session.backend.now()
        settlement = self._computed("nacked", lambda: self._decided_nack(now_us))
        self._settle(settlement, "nacked")
        self._is_done(settlement)

    @entrance
    def extend(self, duration: timedelta | None = None) -> None:
        """Hold the lease for ``duration`` from now (the lock time if not given), be that longer or shorter.

        :raises LeaseLost: when the lease is over; nothing was changed.
        :raises BackendUnavailable: when the store did not answer; count on the end that the lease had.
        """
        span = self._lock_time if duration is None else span_of_time(duration, "duration")
        if span is None or span < timedelta(milliseconds=1):
            raise PitstopError(
                f"duration={shown(duration)} cannot be used. Give a timedelta of at least one millisecond."
            )
        heartbeat = self._heartbeat
        with nullcontext() if heartbeat is None else self._session.calls.holding(heartbeat.extending):
            settlement = extend(self._emission.record, lease_end(self._session.backend.now(), span))
            self._apply(settlement, "extended")
            self._note_extension(settlement)
        if heartbeat is not None:
            heartbeat.reconsider(self)

    @unbroken
    def _settle(self, settlement: Settlement, what: str) -> None:
        self._check_unsettled(what)
        self._tried = True
        self._apply(settlement, what)
        self._settled = what

    def _apply(self, settlement: Settlement, what: str) -> None:
        self._check_unsettled(what)
        backend = self._session.backend
        # The fence would refuse it too. But if the answer to that got lost, and somebody else has done with the message
        # since, what a backend finds afterwards looks like its own work.
        applied = not self._is_over(backend.now()) and backend.settle([settlement])[0]
        if not applied:
            raise self._lost(what)

    def _check_unsettled(self, what: str) -> None:
        if self._settled is not None:
            raise LeaseLost(f"The delivery of {self.id!r} was {self._settled} before. It cannot be {what} now.")

    # What a heartbeat does with it.

    def _due(self) -> int:
        due = self._emission.record.progress.due
        assert due is not None, "a leased record is due when its lease ends"
        return due

    def _is_settling(self) -> bool:
        """Whether it was settled, or somebody is about to: what a heartbeat is told of it then counts nothing."""
        return self._settled is not None or self._tried or isinstance(self._told, LeaseLost)

    def _is_given_up(self) -> bool:
        """Whether its lease is not to be extended any further."""
        return self._due() >= self._held_until

    def _note_extension(self, settlement: Settlement) -> None:
        assert isinstance(settlement.progress, Progress)
        record = attrs.evolve(self._emission.record, progress=settlement.progress)
        self._emission = attrs.evolve(self._emission, record=record)

    def _lose_while_handled(self) -> None:
        if not self._is_settling():
            self._lost("extended")

    # What an outbox does with it.

    def _begin_to_settle(self, what: str) -> None:
        self._check_unsettled(what)
        self._settled, self._told = what, None

    def _nack_later(
        self, error: BaseException | str | None, delay: timedelta | None = None, *, blocking: bool = True
    ) -> None:
        """As :meth:`nack`, written with others."""
        assert self._outbox is not None, "made by a listener that writes together"
        self._begin_to_nack(error, delay)
        self._outbox.put(self, blocking=blocking)

    def _begin_to_nack(self, error: BaseException | str | None, delay: timedelta | None) -> None:
        self._failure = error_text(error), checked_delay(delay)
        self._begin_to_settle("nacked")

    @unbroken
    def _give_back(self) -> None:
        """Its handler was interrupted: the message is due at once.

        :raises LeaseLost: when the lease is over.
        :raises BackendUnavailable: when the store did not answer.
        """
        self._failure = None, None
        settlement = hand_back(self._emission.record, self._session.retry, self._session.backend.now() // 1000)
        self._settle(settlement, "given back")
        self._is_done(settlement)

    def _give_back_later(self) -> None:
        """As :meth:`_give_back`, written with others. Does not block."""
        assert self._outbox is not None, "made by a listener that writes together"
        self._failure = None, None
        self._begin_to_settle("given back")
        self._outbox.put(self, blocking=False)

    def _decide(self, now_us: int) -> Settlement:
        if self._settled == "acknowledged":
            return ack(self._emission)
        if self._settled == "given back":
            return hand_back(self._emission.record, self._session.retry, now_us // 1000)
        return self._decided_nack(now_us)

    def _decided_nack(self, now_us: int) -> Settlement:
        text, delay = self._failure
        return nack(self._emission, text, delay, self._session.retry, now_us)

    @property
    def _record(self) -> Record:
        return self._emission.record

    def _is_over(self, now_us: int) -> bool:
        due = self._emission.record.progress.due
        return due is not None and due <= now_us // 1000

    @unbroken
    def _has_run_out(self) -> bool:
        return self._is_over(self._session.backend.now())

    def _remaining(self) -> float:
        """Seconds that are left of the lease."""
        due = self._emission.record.progress.due
        assert due is not None, "a leased record is due when its lease ends"
        return (due * 1000 - self._session.backend.now()) / 1e6

    def _is_done(self, settlement: Settlement) -> None:
        """The store has it."""
        self._known = True
        events = self._session.events
        if self._settled == "acknowledged":
            events.acked(self)
        elif settlement.outcome is Outcome.RELEASE:
            progress = settlement.progress
            assert isinstance(progress, Progress)
            assert progress.due is not None
            events.retried(self, self._failure[0], progress.due)
        events.settled(settlement)

    def _lose(self) -> None:
        """The store refused it."""
        self._known = True
        self._lost(self._settled or "settled")

    def _cannot_be_settled(self, error: Exception) -> None:
        """The next state cannot be computed, now or later. The message comes back when its lease runs out."""
        self._known = True
        self._not_computed(self._settled or "settled", error)

    def _not_computed(self, what: str, error: Exception) -> PitstopError:
        # Without the error's text, which may hold anything.
        self._told = told = PitstopError(
            f"{self.id!r} was not {what}: {type(error).__name__} was raised while its next state was computed. The "
            f"message comes back when its lease runs out. Look at its recurrence; or store the message again, or remove it."
        )
        _log.error("%s", told)
        return told

    def _computed(self, what: str, decide: Callable[[], Settlement]) -> Settlement:
        """Return the settlement that is written at once.

        :raises PitstopError: when it cannot be computed.
        """
        try:
            return decide()
        except Exception as error:
            raise self._not_computed(what, error) from error

    def _leave_in_doubt(self) -> None:
        """The store may have done it, or not: the reply was lost, and it cannot be told any more."""
        self._known = True
        _log.debug("whether %r was %s is not known: the reply was lost", self.id, self._settled)
        self._told = OutcomeUnknown(
            f"The store may have settled {self.id!r}: the reply was lost, and it cannot be told any more. If it did not, the "
            f"message comes back.",
            ids=(self.id,),
        )

    def _lost(self, what: str) -> LeaseLost:
        if isinstance(self._told, LeaseLost):
            # It is counted already: the heartbeat found it out, or the handler did.
            return self._told
        self._told = told = LeaseLost(
            f"The lease of {self.id!r} (attempt {self.attempt}) is over: it ran out, or the message was stored anew "
            f"or removed. It was not {what}. Extend leases in long handlers, or configure a longer lock_time."
        )
        try:
            self._uncounted.pop()
        except IndexError:
            return told
        if self._outbox is not None:
            self._outbox.counts.lost += 1
        self._session.events.lost(self.id, self.attempt, self)
        return told

    def __enter__(self) -> Self:
        self._handling: list[AbstractContextManager[Any]] = self._session.events.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.events.leave(self._handling, error)
        if self._settled is not None:
            return
        if error is None:
            self.ack()
            return
        try:
            self.nack(error)
        except PitstopError as failure:
            # The caller is to see what went wrong in the body; the message comes back when its lease runs out.
            _log.debug("the failed delivery of %r could not be nacked: %s", self.id, failure)

    def __repr__(self) -> str:
        return f"<Delivery {self.id!r} attempt {self.attempt} scheduled for {self.scheduled_for.isoformat()}>"
