"""A delivery in an event loop.

Threads: the loop's thread; ``_give_back`` runs in one of the pool.
"""

from __future__ import annotations

import asyncio
import logging

from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pitstop._aio._feeder import Feeder
from pitstop._aio._hands import Hands
from pitstop._aio._within import do_within
from pitstop._decisions._ending import ends_program
from pitstop._decisions._settle import error_text
from pitstop._engine._delivery import Delivery, delay_of_nack
from pitstop._engine._handling import Handling
from pitstop._engine._intake import Intake
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._transaction import ask_after_pledge
from pitstop._errors import PitstopError


__all__ = ["AsyncDelivery", "current_task", "is_interruption"]

_ACK = Purpose.ACK

_log = logging.getLogger("pitstop.delivery")


class AsyncDelivery:
    """A message that was emitted: :class:`pitstop.Delivery`, with all its properties, for an event loop.

    ``async with delivery:`` acknowledges it at the end of its body. When the body raises it is nacked, and when it is
    cancelled it is given back, to come back at once; both re-raise. None of its properties asks the store.
    """

    __slots__ = ("__weakref__", "_at_once", "_delivery", "_feeder", "_handling", "_hands", "_lease")

    def __init__(
        self, lease: Lease, delivery: Delivery, feeder: Feeder, hands: Hands, *, at_once: bool = False
    ) -> None:
        """Return the handle of a lease that is handed out.

        :param delivery: the handle for threads.
        :param at_once: whether each ack is written by itself, before :meth:`ack` returns.
        """
        self._lease = lease
        self._delivery = delivery
        self._at_once = at_once
        self._feeder = feeder
        self._hands = hands

    @property
    def msg(self) -> dict[str, Any]:
        """The message, with its ``"id"``: a copy that is yours to change."""
        return self._delivery.msg

    @property
    def id(self) -> str:
        """The message's id."""
        return self._delivery.id

    @property
    def kind(self) -> str:
        """The kind that was given to ``store``; empty if none was given."""
        return self._delivery.kind

    @property
    def scheduled_for(self) -> datetime:
        """The nominal time of this occurrence. The same for all its attempts."""
        return self._delivery.scheduled_for

    @property
    def attempt(self) -> int:
        """1 at the first emission of this occurrence, 2 at the second, and so on."""
        return self._delivery.attempt

    @property
    def missed(self) -> int:
        """Earlier occurrences that were passed over in favour of this one: 0 as a rule."""
        return self._delivery.missed

    @property
    def last_error(self) -> str | None:
        """Text of the last failure: of an earlier attempt, or of the occurrence before if that was given up."""
        return self._delivery.last_error

    @property
    def leased_until(self) -> datetime:
        """When the lease runs out, by the store's clock. :meth:`extend` moves it."""
        return self._delivery.leased_until

    @property
    def key(self) -> str:
        """The occurrence's key, ``"{id}:{scheduled_for in ms}"``: the same for all its attempts."""
        return self._delivery.key

    @property
    def lost(self) -> bool:
        """Whether the lease is known to be over: see :attr:`pitstop.Delivery.lost`."""
        lease = self._lease
        return lease.lost or (lease.may_run_out and self._feeder.is_past(lease.due))

    @property
    def _intake(self) -> Intake:
        intake = self._feeder.intake
        assert intake is not None, "the delivery came from it"
        return intake

    async def ack(self, *, wait: bool = False, session: Any = None) -> None:
        """Acknowledge the message: see :meth:`pitstop.Delivery.ack`. The ack is written with others, within about 20 ms.

        For a message of ``listener.get(timeout=0)``, with ``prefetch=1``, and after the listener was closed, the ack is written
        before this returns.

        :param wait: return when the store has it. To be cancelled ends the wait, and not the ack.
        :param session: a session of the store's driver that is in a transaction: see :meth:`pitstop.Delivery.ack`. The ack is
            written in the transaction before this returns. To be cancelled ends the ack, too.
        :raises LeaseLost: when the lease is known to be over; nothing was changed.
        :raises BackendUnavailable: when the store did not answer; the message comes back when its lease runs out, unless
            the store did it all the same.
        """
        if session is not None:
            await do_within(self._hands, self._delivery.ack, session=session)
            return
        self._lease.ask(_ACK, self._delivery)
        await self._write(wait=wait)

    async def nack(self, error: BaseException | str | None = None, delay: timedelta | str | None = None) -> None:
        """Report a failure: see :meth:`pitstop.Delivery.nack`. It is written as by :meth:`ack`.

        :raises LeaseLost: when the delivery was settled before, or, where it is written at once, when the lease is over.
        :raises BackendUnavailable: where it is written at once, when the store did not answer.
        :raises ScheduleError: when ``delay`` cannot be used.
        """
        lease = self._lease
        if isinstance(error, BaseException) and lease.is_news(error):
            return
        lease.ask(Purpose.NACK, self._delivery, error_text(error), delay_of_nack(delay, lease))
        await self._write()

    async def _write(self, *, wait: bool = False) -> None:
        """Write the settlement that was asked for. It was asked for in this thread, so a cancellation does not undo it."""
        writer = self._intake.writer
        if self._at_once:
            await self._feeder.waits.written_at_once(writer, self._lease)
        elif wait or writer.unattended:
            # Of a listener that was closed each ack is written by itself, and is not tried again.
            await self._feeder.waits.written(writer, self._lease)
        else:
            writer.put(self._lease, blocking=False)

    async def extend(self, duration: timedelta | str | None = None) -> None:
        """Hold the lease for ``duration`` from now: see :meth:`pitstop.Delivery.extend`. Returns when the store has it.

        :raises LeaseLost: when the lease is over; nothing was changed.
        :raises BackendUnavailable: when the store did not answer; count on the end that the lease had.
        """
        await self._hands.do(self._delivery.extend, duration)

    async def __aenter__(self) -> Self:
        if self._lease.pledge is not None:
            self._intake.writer.open_pledges.discard(self._lease)
        self._handling = Handling(self._intake.session.events, self._lease, self._delivery)
        return self

    async def __aexit__(
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
            await self.ack()
            return
        try:
            if not is_interruption(error) and not ends_program(error):
                await self.nack(error)
                return
            self._lease.ask(Purpose.GIVE_BACK, self._delivery)
            if self._at_once:
                # Not waited for, since a task that was cancelled is to end. The close of the listener waits for it.
                self._hands.leave(self._give_back)
            else:
                self._intake.writer.put(self._lease, blocking=False)
        except PitstopError as failure:
            # The caller is to see the error of the body. The message comes back when its lease runs out.
            self._log_unsettled("the failed delivery of %r could not be settled: %s", failure)

    def _end_pledge(self, error: BaseException | None) -> None:
        """Find out whether the transaction with the ack has committed. If not, the message comes back. Nothing is waited for."""
        try:
            writer, interrupted = self._intake.writer, error is not None and is_interruption(error)
            if ask_after_pledge(self._lease, self._delivery, error, writer.open_pledges, interrupted=interrupted):
                writer.put(self._lease, blocking=False)
        except PitstopError as failure:
            self._log_unsettled("the delivery of %r, acknowledged in a transaction, was not looked after: %s", failure)

    def _log_unsettled(self, text: str, failure: PitstopError) -> None:
        _log.debug(text, self.id, failure, extra=self._intake.session.log.of("not_settled", self._lease))

    def _give_back(self) -> None:
        try:
            self._intake.writer.write_at_once(self._lease)
        except PitstopError as failure:
            self._log_unsettled("the interrupted delivery of %r could not be given back: %s", failure)

    def __repr__(self) -> str:
        return f"<AsyncDelivery {self.id!r} attempt {self.attempt} scheduled for {self.scheduled_for.isoformat()}>"


def current_task() -> asyncio.Task[Any] | None:
    """Return the task that runs in this thread; None if no event loop does."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def is_interruption(error: BaseException, task: asyncio.Task[Any] | None = None) -> bool:
    """Whether the present task, which handles a message, was cancelled, or its coroutine closed.

    Any other ``CancelledError`` comes from something that the handler awaited, and any other ``GeneratorExit`` from the
    handler itself. Both are failures: a message that came back at once, without its attempt counted, would be tried for ever.

    :param task: the task in which the handler began. While it runs, its coroutine cannot be closed. None: the code may be
        part of an async generator, which is closed in the midst of a task; then any ``GeneratorExit`` is an interruption.
    """
    if isinstance(error, asyncio.CancelledError):
        running = current_task()
        return running is None or running.cancelling() > 0
    return isinstance(error, GeneratorExit) and (task is None or current_task() is not task)
