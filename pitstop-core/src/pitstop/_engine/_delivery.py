"""Delivery: the user's handle on a lease, with the policy of ack, nack, extend and ``with``.

Threads: any.
"""

from __future__ import annotations

import logging

from contextlib import nullcontext
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pitstop._decisions._ending import ends_program
from pitstop._decisions._settle import checked_delay, checked_extension, error_text, lease_end
from pitstop._engine._calls import entrance, unbroken
from pitstop._engine._handling import Handling
from pitstop._engine._heartbeat import Heartbeat
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._session import Session
from pitstop._engine._transaction import ack_within, ask_after_pledge
from pitstop._engine._writer import AckWriter
from pitstop._errors import PitstopError
from pitstop._values._instant import from_instant, instant_of


__all__ = ["Delivery", "delay_of_nack", "lease_of"]

_ACK = Purpose.ACK

_log = logging.getLogger("pitstop.delivery")


class Delivery:
    """A message that was emitted, with the lease under which it is handled.

    Settle it once, with :meth:`ack` or :meth:`nack`; or use it as a context manager. At the end of its body it is
    acknowledged. If the body raises, it is nacked; if the body raises ``KeyboardInterrupt``, ``SystemExit`` or
    ``GeneratorExit``, it is given back, and is due again at once. Errors are raised again. A delivery that is never
    settled comes back when its lease runs out. It may be used and settled in another thread than the one that got it.
    """

    __slots__ = (
        "__weakref__",
        "_at_once",
        "_handling",
        "_heartbeat",
        "_lease",
        "_lock_time",
        "_session",
        "_writer",
        "msg",
    )

    #: The message, with its ``"id"``: a copy that is yours to change.
    msg: dict[str, Any]

    def __init__(
        self,
        session: Session,
        lease: Lease,
        writer: AckWriter,
        lock_time: timedelta,
        at_once: bool = False,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """Return the handle of a lease that is handed out.

        :param lock_time: for how long :meth:`extend` holds the lease if no duration is given.
        :param at_once: whether each ack is written by itself, before :meth:`ack` returns.
        :param heartbeat: the heartbeat that extends the lease.
        """
        self._session = session
        self._lease = lease
        self._writer = writer
        self._lock_time = lock_time
        self._at_once = at_once
        self._heartbeat = heartbeat
        record = lease.emission.leased
        self.msg = {"id": record.id, **record.message}

    @property
    def id(self) -> str:
        """The message's id."""
        return self._lease.id

    @property
    def kind(self) -> str:
        """The kind that was given to ``store``; empty if none was given."""
        return self._lease.emission.leased.kind

    @property
    def scheduled_for(self) -> datetime:
        """The nominal time of this occurrence. The same for all its attempts."""
        return from_instant(self._lease.emission.scheduled_for)

    @property
    def attempt(self) -> int:
        """1 at the first emission of this occurrence, 2 at the second, and so on.

        1 means that the occurrence was certainly not emitted before. After a crash it may not be known whether a message that
        was claimed together with others was emitted. Then the message comes as attempt 2, and the attempt that is not
        certain does not count against ``max_attempts``.
        """
        return self._lease.attempt

    @property
    def missed(self) -> int:
        """Earlier occurrences that were passed over in favour of this one: 0 as a rule."""
        return self._lease.emission.missed

    @property
    def last_error(self) -> str | None:
        """The text of the last failure: of an earlier attempt, or of the occurrence before if that was given up."""
        return self._lease.emission.leased.progress.last_error

    @property
    def leased_until(self) -> datetime:
        """When the lease runs out, by the store's clock. :meth:`extend` moves it."""
        return from_instant(self._lease.due)

    @property
    def key(self) -> str:
        """The occurrence's key, ``"{id}:{scheduled_for in ms}"``: the same for all its attempts.

        At least once means that a message may be handled twice. A handler that notes the keys of its work can tell.
        """
        return f"{self.id}:{self._lease.emission.scheduled_for}"

    @property
    def lost(self) -> bool:
        """Whether the lease is known to be over: another consumer may have the message. Work done now may be done twice.

        After an ack in a transaction, False until another call finds out that the transaction has not committed.
        """
        lease = self._lease
        return lease.lost or (lease.may_run_out and self._has_run_out())

    def ack(self, *, wait: bool = False, session: Any = None) -> None:
        """Acknowledge the message: a one-shot message is deleted, a recurring one goes on to its next occurrence.

        During iteration ``ack()`` returns immediately. The ack is written together with others within about 20 ms. If the
        store does not answer, the write is retried until the lease ends. A crash before the write is a redelivery. Outside
        of an iteration, and when no more messages are in hand, the ack is written before this returns.

        After the handler itself has stored or removed this message, the ack changes nothing and raises nothing.

        With a session, the ack is written in the session's transaction, and counts if and when that commits. Until then the
        delivery is open: after an abort, the ack may be written again, in another transaction or without one. At the end of the
        handler or of the ``with`` block the delivery is not acknowledged a second time. If the transaction has not committed, the
        message is nacked, and comes back.

        :param wait: return when the store has it, as durably as it is configured.
        :param session: a session of the store's driver that is in a transaction. Let all errors leave its block: some of them
            ask the driver for another try.
        :raises LeaseLost: when the lease is known to be over; nothing was changed.
        :raises Unsupported: when the store cannot do what ``session`` asks for.
        :raises BackendUnavailable: when the store did not answer; the message comes back when its lease runs out, unless
            the store did it all the same (:class:`pitstop.OutcomeUnknown`: it may have).
        :raises PitstopError: when the next occurrence cannot be computed, because a recurrence raised an error; or the
            ``session`` cannot be used. Without a session: when the message was acknowledged in a transaction that is open. Also
            raised by :meth:`nack` and :meth:`extend`, which would wait for the end of the transaction.
        """
        lease = self._lease
        if session is not None:
            self._ack_within(session)
            return
        lease.ask(_ACK, self)
        if self._at_once:
            self._writer.write_at_once(lease)
        elif wait:
            self._writer.put_and_wait(lease)
        else:
            self._writer.put(lease)

    @entrance
    def nack(self, error: BaseException | str | None = None, delay: timedelta | str | None = None) -> None:
        """Report a failure. The message comes back: after ``delay``, or as ``retry`` is configured, or when its lease runs out.

        After the handler itself has stored or removed this message, the nack changes nothing and raises nothing.

        :param error: kept with the message, for people; its text must hold no secret. An error that this delivery's own
            :meth:`ack` raised (:class:`LeaseLost`, :class:`BackendUnavailable`) is no failure of the handler: then nothing
            is done, and nothing raised.
        :param delay: when it comes back, from now: a ``timedelta`` of zero or more, or text such as ``"15m"``.
        :raises LeaseLost: when the lease is over; nothing was changed.
        :raises BackendUnavailable: when the store did not answer; the message comes back when its lease runs out, or sooner
            if the store did it all the same (:class:`pitstop.OutcomeUnknown`: it may have). The same nack may be tried again.
            A nack with another error or delay raises :class:`pitstop.OutcomeUnknown` if the first one was done.
        :raises ScheduleError: when ``delay`` is neither, is negative, or reaches beyond the year 9999.
        :raises PitstopError: when the next occurrence cannot be computed, because a recurrence raised an error.
        """
        lease = self._lease
        if isinstance(error, BaseException) and lease.is_news(error):
            return
        lease.ask(Purpose.NACK, self, error_text(error), delay_of_nack(delay, lease))
        self._writer.write_at_once(lease)
        if lease.pledge is not None and lease.purpose is _ACK:
            # The transaction with the ack has committed.
            raise lease.refusal("nacked")

    @entrance
    def extend(self, duration: timedelta | str | None = None) -> None:
        """Hold the lease for ``duration`` from now (the lock time if not given), be that longer or shorter.

        :param duration: a ``timedelta``, or text such as ``"5m"``; at least one millisecond.
        :raises LeaseLost: when the lease is over; nothing was changed.
        :raises BackendUnavailable: when the store did not answer; count on the end that the lease had.
            :class:`pitstop.OutcomeUnknown`: when an earlier ack or nack got no answer, and the lease is over, perhaps by that.
        :raises ScheduleError: when ``duration`` cannot be used.
        """
        span = (self._lease.lock_time or self._lock_time) if duration is None else checked_extension(duration)
        heartbeat = self._heartbeat
        with nullcontext() if heartbeat is None else self._session.calls.holding(heartbeat.extending):
            self._extend(span)
        if heartbeat is not None:
            heartbeat.reconsider(self._lease)

    @entrance
    def _ack_within(self, session: object) -> None:
        heartbeat = self._heartbeat
        settle_down = _nothing if heartbeat is None else heartbeat.settle_down
        ack_within(self._session, self._lease, session, settle_down, lambda: self._writer.lose(self._lease, self))

    def _extend(self, span: timedelta) -> None:
        lease, backend = self._lease, self._session.backend
        if lease.is_settling:
            raise lease.refusal("extended")
        if lease.pledge is not None:
            lease.pledge.check_over(lease.id, "extended")
        now_us = backend.now()
        settlement = lease.extension(lease_end(now_us, span))
        # The fence would refuse it after the end of the lease, too. But if the answer to that got lost, and another consumer
        # has settled the message since, a backend may take the other's write for its own.
        if not lease.is_over(now_us) and backend.settle([settlement])[0]:
            lease.extended(settlement)
            return
        if lease.lose_unasked():
            self._writer.lose(lease, self)
        raise lease.refuse_extension()

    @unbroken
    def _has_run_out(self) -> bool:
        return self._lease.is_over(self._session.backend.now())

    def __enter__(self) -> Self:
        if self._lease.pledge is not None:
            self._writer.open_pledges.discard(self._lease)
        self._handling = Handling(self._session.events, self._lease, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handling.end(error)
        if self._lease.purpose is not None:
            # The body has settled it.
            return
        if self._lease.pledge is not None:
            self._end_pledge(error)
            return
        if error is None:
            self.ack()
            return
        try:
            if ends_program(error) or isinstance(error, GeneratorExit):
                self._give_back()
            else:
                self.nack(error)
        except PitstopError as failure:
            # The caller is to see the error of the body. The message comes back when its lease runs out.
            extra = self._session.log.of("not_settled", self._lease)
            _log.debug("the failed delivery of %r could not be settled: %s", self.id, failure, extra=extra)

    @entrance
    def _end_pledge(self, error: BaseException | None) -> None:
        """Find out whether the transaction with the ack has committed. If not, the message comes back."""
        try:
            if ask_after_pledge(self._lease, self, error, self._writer.open_pledges):
                self._writer.write_at_once(self._lease)
        except PitstopError as failure:
            text = "the delivery of %r, acknowledged in a transaction, was not looked after: %s"
            _log.debug(text, self.id, failure, extra=self._session.log.of("not_settled", self._lease))

    @entrance
    def _give_back(self) -> None:
        """Have the message due again at once: the end of a program, or of a generator, is no failure of the message."""
        self._lease.ask(Purpose.GIVE_BACK, self)
        self._writer.write_at_once(self._lease)

    def __repr__(self) -> str:
        return f"<Delivery {self.id!r} attempt {self.attempt} scheduled for {self.scheduled_for.isoformat()}>"


def lease_of(delivery: Delivery) -> Lease:
    """Return the lease behind a delivery, for code of this library that was given one."""
    return delivery._lease


def _nothing() -> None:
    """Do nothing: there is no heartbeat."""


def delay_of_nack(delay: timedelta | str | None, lease: Lease) -> timedelta | None:
    """Return the delay of a nack as a plain ``timedelta``. None: none was given.

    :raises ScheduleError: when it is neither a ``timedelta`` nor such text, is negative, or reaches beyond the year 9999.
    """
    span = checked_delay(delay)
    if span is not None:
        # From the first claim, which was before now: the store need not be asked for the time.
        instant_of(span, (lease.record.progress.first_leased or 0) * 1000, "delay")
    return span
