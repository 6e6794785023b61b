"""AckWriter: settlements on their way to the store, written together, and again until their leases end.

Threads: any thread asks; one thread of a listener writes at a time.
"""

from __future__ import annotations

import logging
import sys

from collections import deque
from collections.abc import Collection, Iterator, Sized
from contextlib import contextmanager, suppress
from itertools import chain
from threading import RLock, Thread, get_ident

from pitstop._engine._backoff import Backoff
from pitstop._engine._calls import entrance, unbroken
from pitstop._engine._lease import Lease
from pitstop._engine._session import Session
from pitstop._engine._settler import Counts, Settler
from pitstop._engine._transaction import OpenPledges
from pitstop._engine._wakeup import Wakeup
from pitstop._errors import BackendUnavailable, OutcomeUnknown, PitstopError
from pitstop.abc import Doorbell


__all__ = ["AckWriter"]

_log = logging.getLogger("pitstop.listener")

#: Settlements that are written at once. The thread that brings the last of them writes them.
_MOST = 500


class AckWriter:
    """The settlements of one listener's deliveries. Any thread asks for them; one thread writes at a time.

    Invariant: a lease that was asked to settle is in ``_pending``, or in the hands of the one thread that holds ``_writing``,
    or its outcome is known. A lease for which the store did not answer goes back into ``_pending``. Only
    :meth:`write_at_once` goes past that, for the thread that calls it.
    """

    def __init__(self, session: Session, settler: Settler, in_hand: Sized, wakeup: Wakeup) -> None:
        """Return a writer with nothing to write.

        :param settler: writes each batch.
        :param in_hand: messages that were claimed and not handed out yet: while there are some, more acks are to come.
        :param wakeup: wakes the thread that calls :meth:`flush` soon.
        """
        self._session = session
        self._write = settler.write
        self._settler = settler
        self._in_hand = in_hand
        self._wakeup = wakeup
        #: Deliveries that may have to be settled once a transaction has ended.
        self.open_pledges = OpenPledges(session, wakeup)
        # Any thread appends. The writing thread takes out.
        self._pending: deque[Lease] = deque()
        # Reentrant: an observer of an ack, and a signal handler, may look at the store or settle something.
        self._writing = RLock()
        # The thread that holds the lock, as long as it may have something in its hands. Written by that thread.
        self._writer: int | None = None
        # Whether the writing thread is taking a batch out of what is pending. A signal handler that has interrupted it
        # takes nothing, so that each lease is in one batch. Written by that thread.
        self._taking = False
        #: Whether no thread writes again what the store did not answer. Written by the thread that closes the listener.
        self.unattended = False
        # Writes without an answer, and the text of the last of their errors, and whether that is permanent. Not the error: its
        # traceback holds the listener, which could not be dropped then. Written by the writing thread, as the next three.
        self._failures = 0
        self._failure: tuple[str, bool] = "", False
        #: Whether the store did not answer the last write.
        self.failing = False
        # The batches that are being written: several if an observer or a signal handler settles something meanwhile. The writing
        # thread replaces the tuple, and appends to the last list.
        self._batches: tuple[list[Lease], ...] = ()
        #: Grows with each batch that was written, or tried.
        self.tries = 0
        #: Seconds that the last write took for which a handler had to wait. Written by that handler's thread.
        self.last_flush = 0.0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def counts(self) -> Counts:
        """How the deliveries ended so far."""
        return self._settler.counts

    @property
    def busy(self) -> bool:
        """Whether something is pending, or being written."""
        return bool(self._pending) or self._writer is not None

    def after_fork(self) -> None:
        """Forget what is on its way: it is the parent's."""
        self._pending.clear()
        self.open_pledges.clear()
        self._writing, self._writer = RLock(), None

    # Ways to have a settlement written. Each lease was asked to settle before.

    def put(self, lease: Lease, *, blocking: bool = True) -> None:
        """Write the settlement together with others; now, if no others are to come.

        :param blocking: whether the calling thread may write. If not, another thread writes as soon as this one would.
        :raises LeaseLost: when it was written now, and too late.
        :raises BackendUnavailable: when the store did not answer, and will not be asked again.
        """
        pending = self._pending
        pending.append(lease)
        # After that: the thread that closes the listener sets the flag first, and then writes what is pending.
        if self.unattended:
            if not blocking:
                self._begin_to_write_late(lease)
                return
        elif (not blocking or (self._in_hand and len(pending) < _MOST)) and (
            # If no thread can be started, this one writes, unless it may not.
            self._wakeup.awake or self._wakeup.wake() or not blocking
        ):
            return
        clock = self._session.clock
        begun = clock.monotonic()
        try:
            self._flush_now()
        except BackendUnavailable as error:
            if self.unattended:
                self._give_up_on(lease, error)
        except BaseException:
            # The background thread writes the rest.
            self._wakeup.wake()
            raise
        self.last_flush = clock.monotonic() - begun
        if lease.told is not None:
            self._raise(lease)
        if pending:
            self._wakeup.wake()

    def take_along(self, lease: Lease) -> None:
        """Write the settlement together with others. The caller calls :meth:`wait_for` afterwards."""
        self._pending.append(lease)

    def put_and_wait(self, lease: Lease) -> None:
        """Write the settlement, and return when the store has it.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer before the lease was over. :class:`OutcomeUnknown`: and
            may have done it all the same.
        """
        self.take_along(lease)
        self.wait_for(lease)

    @entrance
    def wait_for(self, lease: Lease) -> None:
        """Return when a settlement that was taken along is done.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer before the lease was over.
        """
        session = self._session
        clock, backoff, bell = session.clock, Backoff(session.log.outages), Doorbell()
        ends: float | None = None
        while not lease.known:
            try:
                # Inside of this: if the store cannot say what time it is, nothing is left pending either.
                ends = ends or clock.monotonic() + (lease.due * 1000 - session.backend.now()) / 1e6
                self.flush()
            except BackendUnavailable as error:
                pause = backoff.failed(error, clock.monotonic(), log=False)
                hopeless = error.permanent or session.closed or session.closes_here or session.calls.interrupting
                if ends is None or hopeless or clock.monotonic() + pause >= ends:
                    self._give_up_on(lease, error)
                else:
                    clock.wait(bell, pause)
            else:
                if not lease.known:
                    # Another thread gave up on it meanwhile.
                    self._give_up_on(
                        lease, BackendUnavailable("The listener was closed before its acks could be written.")
                    )
        if lease.told is not None:
            self._raise(lease)

    @unbroken
    def write_at_once(self, lease: Lease) -> None:
        """Write the settlement by itself, in this thread, without waiting for other writes.

        :raises LeaseLost: when it came too late.
        :raises BackendUnavailable: when the store did not answer.
        :raises PitstopError: when the settlement cannot be worked out.
        """
        try:
            self._write((lease,))
        except BaseException as error:
            if not lease.known:
                lease.postpone(doubtful=_is_doubtful(error))
                if isinstance(error, BackendUnavailable):
                    self._hand_back(lease, error)
                lease.hand_back(None)
            raise
        if lease.told is not None:
            self._raise(lease)

    # Writing what is pending.

    @unbroken
    def flush(self, ids: Collection[str] | None = None) -> None:
        """Write what is pending, and wait for what another thread is writing.

        :param ids: only if one of these messages is among it.
        :raises BackendUnavailable: when the store did not answer; it stays pending.
        """
        self.take_ended()
        if ids is not None and not self.concerns(ids):
            return
        if self._pending or self._writer is not None:
            failures = self._failures
            with self._alone():
                if failures != self._failures:
                    # While this waited. If each of the threads that waited asked again, each would take as long.
                    text, permanent = self._failure
                    raise BackendUnavailable(text, permanent=permanent)
                self._write_all()

    def take_ended(self) -> None:
        """Write the settlements of transactions that were open at the end of their handlers, together with others."""
        self._pending.extend(self.open_pledges.ended())

    def concerns(self, ids: Collection[str]) -> bool:
        """Whether a settlement of one of these messages is pending, or being written.

        Another write is not waited for: on SQLite it may wait for the end of a transaction of the calling thread.
        """
        while True:
            tries = self.tries
            # In this order: a lease that is not pending any more is in the batch, or it comes back before `tries` grows.
            if any(each.id in ids for each in tuple(self._pending)) or any(
                each.id in ids for each in chain(*self._batches)
            ):
                return True
            if tries == self.tries:
                return False

    @entrance
    def _flush_now(self) -> None:
        """Do as :meth:`flush`, for the settlement that this thread has just put."""
        self.flush()

    def close(self, seconds: float) -> int:
        """Write what is pending for the last time, and forget the rest. Return how many leases that are.

        :param seconds: for how long to wait for a thread that is writing. After that, its batch is counted, and left to it.
        """
        failures = self._failures
        if not self._wait_for_writer(seconds):
            # Batches twice: meanwhile the thread that writes may move leases into its batch, or back.
            parts = (*self._batches, tuple(self._pending), *self._batches)
            return len({id(each) for part in parts for each in tuple(part)})
        if failures == self._failures:
            with suppress(BackendUnavailable):
                self.flush()
                # A settlement that came after that is written by the thread that asked for it.
                return 0
        return self.give_up()

    def give_up(self) -> int:
        """Forget what is pending, for the store is about to be closed. Return how many leases that were."""
        left = 0
        with self._alone(), suppress(IndexError):
            while True:
                lease = self._pending.popleft()
                left += 1
                # For threads that wait for it.
                if lease.doubted:
                    lease.doubt()
                    lease.release()
                    continue
                lease.fail(
                    BackendUnavailable(
                        f"The settlement of {lease.id!r} was not written before the Pitstop was closed. The message comes "
                        f"back when its lease runs out."
                    )
                )
                lease.release()
        return left

    def lose(self, lease: Lease, delivery: object) -> None:
        """Count and report a lease that is over. Any thread that finds it out."""
        self._settler.lose(lease, delivery)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only thread that writes. Again, inside of it, is harmless."""
        if self._writer == (me := get_ident()):
            yield
            return
        with self._session.calls.holding(self._writing):
            try:
                self._writer, self._taking = me, False
                yield
            finally:
                self._writer = None

    def _wait_for_writer(self, seconds: float) -> bool:
        if self._writer == get_ident():
            return True
        free = self._writing.acquire(timeout=seconds)
        if free:
            self._writing.release()
        return free

    def _give_up_on(self, lease: Lease, error: BackendUnavailable) -> None:
        """Raise an error for a lease that is written no more, unless its outcome became known. The caller may settle it again.

        :raises BackendUnavailable: the error, or :class:`OutcomeUnknown`.
        """
        with self._alone(), suppress(ValueError):
            self._pending.remove(lease)
        if not lease.known:
            self._hand_back(lease, error)

    @staticmethod
    def _hand_back(lease: Lease, error: BackendUnavailable) -> None:
        if lease.doubted and not isinstance(error, OutcomeUnknown):
            doubt = f"The store may have settled {lease.id!r}: the reply was lost, and then it could not be asked."
            error = OutcomeUnknown(doubt, ids=(lease.id,))
        lease.hand_back(error)
        raise error

    @staticmethod
    def _raise(lease: Lease) -> None:
        error = lease.told
        assert error is not None, "the caller has looked"
        lease.report()
        raise error

    def _begin_to_write_late(self, lease: Lease) -> None:
        try:
            Thread(target=self._write_late, args=(lease,), name="pitstop-ack", daemon=True).start()
        except RuntimeError:
            # No thread can be started any more. Late in the end of the interpreter other threads may have left locks
            # behind: then the message comes back when its lease runs out.
            if not sys.is_finalizing():
                self._write_late(lease)

    def _write_late(self, lease: Lease) -> None:
        """Write a settlement of a listener that was closed before."""
        try:
            self.wait_for(lease)
        except BackendUnavailable:
            note = self._session.log.unwritten.passes(self._session.clock.monotonic())
            if note is not None:
                text = "an ack could not be written: %r comes back when its lease runs out%s"
                if lease.doubted:
                    text = "an ack may not have been written: %r comes back when its lease runs out, if it was not%s"
                _log.warning(text, lease.id, note, extra=self._session.log.of("ack_not_written", lease))
        except PitstopError:
            # LeaseLost was counted, and a settlement that cannot be worked out was logged.
            pass

    def _write_all(self) -> None:
        # Not in the body of the `with` that holds the lock: in CPython 3.13.0 an interruption at the jump of a loop
        # there leaves it without giving the lock back.
        pending = self._pending
        while pending and not self._taking:
            batch: list[Lease] = []
            outer, self._batches = self._batches, (*self._batches, batch)
            try:
                self._taking = True
                while pending and len(batch) < _MOST:
                    # In this order: an interruption in between loses none.
                    batch.append(pending[0])
                    pending.popleft()
                self._taking = False
                self._write(batch)
                self.failing = False
            except BaseException as error:
                # A call that interrupts another one may be refused. That says nothing about the store.
                if isinstance(error, BackendUnavailable) and not self._session.calls.interrupting:
                    self._failure = str(error), error.permanent
                    self._failures, self.failing = self._failures + 1, True
                if batch and pending and pending[0] is batch[-1]:
                    batch.pop()
                doubtful = _is_doubtful(error)
                for each in batch:
                    each.postpone(doubtful=doubtful)
                # Those of which the outcome is known by now are done.
                pending.extendleft(each for each in reversed(batch) if not each.known)
                raise
            finally:
                self._taking = False
                self._batches = outer
                self.tries += 1


def _is_doubtful(error: BaseException) -> bool:
    """Whether the store may have done what it was asked to, although this was raised."""
    # An interruption may have come before the store did it, or after.
    return isinstance(error, OutcomeUnknown) or not isinstance(error, BackendUnavailable)
