"""Acks and nacks on their way to the store: written together, and again until their leases end."""

from __future__ import annotations

import logging
import sys

from collections import deque
from collections.abc import Collection, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from threading import RLock, Thread, get_ident
from typing import TYPE_CHECKING

import attrs

from pitstop._decisions._settle import was_applied
from pitstop._engine._backoff import Backoff
from pitstop._engine._calls import entrance, unbroken
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, OutcomeUnknown, PitstopError
from pitstop.abc import Doorbell, Settlement


if TYPE_CHECKING:
    from pitstop._engine._delivery import Delivery
    from pitstop._engine._pump import Pump

__all__ = ["Counts", "Outbox"]

_log = logging.getLogger("pitstop.listener")

#: Settlements that are written at once. Who brings the last one of them writes them.
_MOST = 500


@attrs.define
class Counts:
    """What became of the deliveries of one listener, once it is known to the store."""

    acked: int = 0
    nacked: int = 0
    lost: int = 0


class Outbox:
    """What is to be written of one listener's deliveries.

    Invariant: a delivery is in ``_pending``, or in the hands of the one thread that holds ``_writing``, or its outcome is
    known. One that the store did not answer for goes back into ``_pending``.
    """

    def __init__(self, store: Session, in_hand: Sized, pump: Pump) -> None:
        """An empty one.

        :param in_hand: what the listener has yet to hand out: while there is something, more acks are to come.
        :param pump: writes what nobody else does.
        """
        self._session = store
        self._in_hand = in_hand
        self._pump = pump
        self._pending: deque[Delivery] = deque()
        # Reentrant: a hook that is told of an ack may well look at the store, or settle something; and so may a signal
        # handler.
        self._writing = RLock()
        # The thread that holds it, as long as it may have something in its hands.
        self._writer: int | None = None
        # Whether the writer is about to take a batch out of what is pending. A signal handler that has interrupted it takes
        # nothing: then each delivery is in one batch.
        self._taking = False
        #: Whether nobody tries again any more what the store does not answer.
        self.unattended = False
        self.counts = Counts()
        # Tries that the store did not answer, and the last one of these.
        self._failures = 0
        self._failure: BackendUnavailable | None = None
        #: Whether the store did not answer at the last try.
        self.failing = False
        # Deliveries in the batch that is being written.
        self._sent = 0
        #: Grows with each batch that was written, or tried.
        self.tries = 0
        #: Seconds that the last one took whose ack had to be written at once.
        self.last_flush = 0.0

    def __len__(self) -> int:
        return len(self._pending)

    def after_fork(self) -> None:
        """In the child of a fork: what is on its way is the parent's."""
        self._pending.clear()
        self._writing, self._writer = RLock(), None

    def put(self, delivery: Delivery, *, blocking: bool = True) -> None:
        """Take a settlement of ``delivery`` along; write it now if nothing else is to come.

        :param blocking: whether this thread may write. If not, another one does at once what this one would.
        :raises LeaseLost: when it was written now, and too late.
        :raises BackendUnavailable: when the store did not answer, and nobody is going to ask it again.
        """
        pending = self._pending
        pending.append(delivery)
        # After that: who leaves sets it, and then writes what there is.
        if self.unattended:
            if not blocking:
                self._begin_to_write_late(delivery)
                return
        elif not blocking or (self._in_hand and len(pending) < _MOST):
            if not self._pump.awake:
                self._pump.wake()
            return
        clock = self._session.clock
        begun = clock.monotonic()
        try:
            self._flush_now()
        except BackendUnavailable as error:
            if self.unattended:
                self._fail(delivery, error)
        self.last_flush = clock.monotonic() - begun
        if delivery._told is not None:
            raise delivery._told
        if pending:
            self._pump.wake()

    @property
    def busy(self) -> bool:
        """Whether something is pending, or being written."""
        return bool(self._pending) or self._writer is not None

    def take_along(self, delivery: Delivery) -> None:
        """Take a settlement along, for one who then waits for it."""
        self._pending.append(delivery)

    def put_and_wait(self, delivery: Delivery) -> None:
        """Take a settlement along, and return when it is done.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer before the lease was over. :class:`OutcomeUnknown`: and
            may have done it all the same.
        """
        self.take_along(delivery)
        self.wait_for(delivery)

    @entrance
    def wait_for(self, delivery: Delivery) -> None:
        """Return when a settlement that was taken along is done.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer before the lease was over.
        """
        clock, backoff, bell = self._session.clock, Backoff(self._session.log.outages), Doorbell()
        ends: float | None = None
        while not delivery._known:
            try:
                # Inside of this: a store that cannot say what time it is leaves nothing pending either.
                ends = ends or clock.monotonic() + delivery._remaining()
                self.flush()
            except BackendUnavailable as error:
                pause = backoff.failed(error, clock.monotonic(), log=False)
                hopeless = error.permanent or self._gives_up or self._session.calls.interrupting
                if ends is None or hopeless or clock.monotonic() + pause >= ends:
                    self._fail(delivery, error)
                else:
                    clock.wait(bell, pause)
            else:
                if not delivery._known:
                    # Somebody gave it up meanwhile.
                    self._fail(
                        delivery, BackendUnavailable("The listener was closed before its acks could be written.")
                    )
        if delivery._told is not None:
            raise delivery._told

    @unbroken
    def flush(self, ids: Collection[str] | None = None) -> None:
        """Write what is pending, and wait for what another thread is writing.

        :param ids: only if one of these messages is among it, or if that is not known.
        :raises BackendUnavailable: when the store did not answer; it stays pending.
        """
        # In this order: what is not pending any more is known, or being written.
        if ids is not None and not (any(each.id in ids for each in tuple(self._pending)) or self._writer is not None):
            return
        if self._pending or self._writer is not None:
            failures = self._failures
            with self._alone():
                if self._failure is not None and failures != self._failures:
                    # While this waited. To ask again at once, each of those who waited in turn, would take as long each time.
                    raise self._failure
                self._write_all()

    @entrance
    def _flush_now(self) -> None:
        """Do as :meth:`flush`, for the settlement that this thread has just put."""
        self.flush()

    def close(self, seconds: float) -> int:
        """Write what is pending, for the last time, and forget the rest; say how many deliveries that are.

        :param seconds: for how long to wait for a thread that is writing. After that what it has is counted, and its own.
        """
        failures = self._failures
        if not self._wait_for_writer(seconds):
            return self._sent + len(self._pending)
        if failures == self._failures:
            with suppress(BackendUnavailable):
                self.flush()
        return self.give_up()

    def give_up(self) -> int:
        """Forget what is pending, for the store is about to be closed; say how many that were."""
        left = 0
        with self._alone(), suppress(IndexError):
            while True:
                delivery = self._pending.popleft()
                left += 1
                # For whoever waits for it.
                delivery._told = BackendUnavailable(
                    f"The settlement of {delivery.id!r} was not written before the Pitstop was closed. The message comes back "
                    f"when its lease runs out."
                )
                delivery._known = True
        return left

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """As the only thread that writes. Again, inside of it, is harmless."""
        me = get_ident()
        if self._writer == me:
            yield
            return
        with self._session.calls.holding(self._writing):
            try:
                self._writer, self._taking = me, False
                yield
            finally:
                self._writer = None

    @property
    def _gives_up(self) -> bool:
        return self._session.closed or self._session.closes_here

    def _wait_for_writer(self, seconds: float) -> bool:
        if self._writer == get_ident():
            return True
        free = self._writing.acquire(timeout=seconds)
        if free:
            self._writing.release()
        return free

    def _fail(self, delivery: Delivery, error: BackendUnavailable) -> None:
        """Nobody tries again to write it: tell, if its outcome is not known after all. Its user may try again.

        :raises BackendUnavailable: the error; or that the outcome is unknown, when the reply to an earlier try got lost.
        """
        with self._alone(), suppress(ValueError):
            self._pending.remove(delivery)
        if delivery._known:
            return
        if delivery._doubted and not isinstance(error, OutcomeUnknown):
            doubt = f"The store may have settled {delivery.id!r}: the reply was lost, and then it could not be asked."
            error = OutcomeUnknown(doubt, ids=(delivery.id,))
        delivery._told, delivery._settled = error, None
        raise error

    def _begin_to_write_late(self, delivery: Delivery) -> None:
        try:
            Thread(target=self._write_late, args=(delivery,), name="pitstop-ack", daemon=True).start()
        except RuntimeError:
            # No thread begins any more. Late in the end of the interpreter other threads may have left locks behind: there
            # the message comes back when its lease runs out.
            if not sys.is_finalizing():
                self._write_late(delivery)

    def _write_late(self, delivery: Delivery) -> None:
        """As the pump would, for a listener that was closed before."""
        try:
            self.wait_for(delivery)
        except BackendUnavailable:
            note = self._session.log.unwritten.passes(self._session.clock.monotonic())
            if note is not None:
                _log.warning("an ack could not be written: %r comes back when its lease runs out%s", delivery.id, note)
        except PitstopError:
            # LeaseLost was counted, and a settlement that cannot be computed was logged.
            pass

    def _write_all(self) -> None:
        # Not in the body of the `with` that holds the lock: in CPython 3.13.0 an interruption at the jump of a loop
        # there leaves it without giving the lock back.
        pending = self._pending
        while pending and not self._taking:
            batch: list[Delivery] = []
            try:
                self._taking = True
                while pending and len(batch) < _MOST:
                    # In this order: an interruption in between loses none.
                    batch.append(pending[0])
                    pending.popleft()
                self._taking = False
                self._sent = len(batch)
                self._write(batch)
                self.failing = False
            except BaseException as error:
                # A call that interrupts another one may be refused. That says nothing about the store.
                if isinstance(error, BackendUnavailable) and not self._session.calls.interrupting:
                    self._failures, self._failure, self.failing = self._failures + 1, error, True
                if isinstance(error, OutcomeUnknown) or not isinstance(error, BackendUnavailable):
                    # Interrupted: it may have been before the store did it, or after.
                    for each in batch:
                        each._doubted = True
                if batch and pending and pending[0] is batch[-1]:
                    batch.pop()
                # Those of which the outcome is known by now are done.
                pending.extendleft(each for each in reversed(batch) if not each._known)
                raise
            finally:
                self._taking = False
                self._sent = 0
                self.tries += 1

    def _write(self, batch: Sequence[Delivery]) -> None:
        backend = self._session.backend
        sent: list[Delivery] = []
        settlements: list[Settlement] = []
        # What fails is tried again by whoever has this flushed, and tells.
        with backend.bounded():
            now_us = backend.now()
            for each in batch:
                if (settlement := self._decided(each, now_us)) is not None:
                    sent.append(each)
                    settlements.append(settlement)
            if not sent:
                return
            applied = backend.settle(settlements)
        refused: list[tuple[Delivery, Settlement]] = []
        for each, settlement, done in zip(sent, settlements, applied, strict=True):
            if done:
                self._done(each, settlement)
            else:
                refused.append((each, settlement))
        # Last, since this asks the store, which may be away by now: what is known of the others has to be told before.
        for each, settlement in refused:
            applied_before = was_applied(settlement, each._record, backend.get(each.id)) if each._doubted else False
            if applied_before is None:
                each._leave_in_doubt()
            elif applied_before:
                self._done(each, settlement)
            else:
                each._lose()

    @staticmethod
    def _decided(delivery: Delivery, now_us: int) -> Settlement | None:
        """Return the settlement to write for a delivery; None if nothing is to be written. Then its outcome is known."""
        if not delivery._is_over(now_us):
            try:
                return delivery._decide(now_us)
            except Exception as error:  # noqa: BLE001 - of a recurrence by another author, say; the others go on
                delivery._cannot_be_settled(error)
        elif delivery._doubted:
            # Not lost: the store may have done it when it was sent first. A record that is gone does not say who settled it.
            delivery._leave_in_doubt()
        else:
            delivery._lose()
        return None

    def _done(self, delivery: Delivery, settlement: Settlement) -> None:
        if delivery._settled == "acknowledged":
            self.counts.acked += 1
        elif delivery._settled == "nacked":
            self.counts.nacked += 1
        delivery._is_done(settlement)
