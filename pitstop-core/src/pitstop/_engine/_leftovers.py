"""Leftovers: messages that a listener has claimed and not handed out, and settlements that it has not written.

They are given back and written when a listener is stopped or closed, when its consumer is stuck, and when the program ends.

Threads: any; a thread of its own does it for a thread that has stopped the listener.
"""

from __future__ import annotations

import _thread

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from threading import RLock, get_ident

from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._calls import unbroken
from pitstop._engine._claimer import Claimer
from pitstop._engine._lifecycle import STOP_PATIENCE
from pitstop._engine._session import Session
from pitstop._engine._suspects import Suspects
from pitstop._engine._wakeup import Wakeup
from pitstop._engine._writer import AckWriter
from pitstop._errors import BackendUnavailable
from pitstop.abc import Doorbell


__all__ = ["Leftovers"]

#: Seconds for which a thread that leaves still tries while the store is known to be away.
_LAST_TRY = 0.5


class Leftovers:
    """The leftovers of one listener."""

    def __init__(
        self,
        session: Session,
        buffer: ClaimBuffer,
        suspects: Suspects,
        claimer: Claimer,
        writer: AckWriter,
        wakeup: Wakeup,
        wait_for_others: Callable[[int, float], None],
    ) -> None:
        """Return the leftovers of a listener that goes on.

        :param wakeup: wakes the background thread, which writes again what the store did not answer.
        :param wait_for_others: wait until no thread but the given one claims messages, for some seconds at most.
        """
        self._session = session
        self._buffer = buffer
        self._suspects = suspects
        self._claimer = claimer
        self._writer = writer
        self._wakeup = wakeup
        self._wait_for_others = wait_for_others
        # Held by the thread that gives back the buffer. Reentrant: a signal handler may close the listener meanwhile.
        self._giving_back = RLock()
        # The threads that give back messages. Each adds itself before it takes messages out of the buffer.
        self._givers: list[int] = []

    @property
    def busy(self) -> bool:
        """Whether another thread is giving back messages, which are in the buffer no more.

        It begins before that thread takes them out. So look into the buffer first.
        """
        me = get_ident()
        return any(each != me for each in tuple(self._givers))

    @unbroken
    def give_back_all(self, *, log: bool = True) -> int:
        """Give back the messages of the buffer. Return how many were not, because the store did not answer.

        :param log: False when the caller reports it.
        """
        # The list that is here now: a fork inside replaces it.
        me, givers = get_ident(), self._givers
        givers.append(me)
        try:
            # One at a time, so that a thread that closes the session comes after one that has taken messages out.
            with self._giving_back:
                buffer, unfit = self._buffer, self._claimer.unfit
                if unfit.late:
                    unfit.settle_late()
                taken = [*buffer.take_late(), *buffer.take_all(), *self._suspects.take_all()]
                return self._claimer.give_back(taken, log=log)
        finally:
            givers.remove(me)

    def settle_all(self, given_back: Doorbell | None = None, settled: Doorbell | None = None) -> None:
        """Give back the buffer, ring ``given_back``, write what is pending, ring ``settled``. If it fails, try again later."""
        with self.last_time():
            self.give_back_all()
            if given_back is not None:
                # The thread that waits for this may have interrupted the code that is writing.
                given_back.ring()
            # If the store does not answer, the write is tried again.
            with suppress(BackendUnavailable):
                self._writer.flush()
        if settled is not None:
            settled.ring()
        elif self._writer:
            self._wakeup.wake()

    def begin_stop(self) -> Doorbell | None:
        """Do as :meth:`settle_all`, for a thread that has stopped the listener. Blocks for nothing; safe in signal handlers.

        :return: rings when the messages are given back. None: there is no thread for it.
        """
        # In a thread of its own, and not waited for without end: a signal handler may have interrupted code that holds the
        # locks which this needs, Pitstop's or the driver's. Then it is done when that code goes on.
        given_back = Doorbell()
        try:
            _thread.start_new_thread(self._settle_for, (get_ident(), given_back))
        except RuntimeError:
            # The system gives no thread, or Python is about to end. Not in this one, for the same reason. Threads that are
            # inside do it, or look once more; or the close of the listener does, or the exit.
            return None
        return given_back

    def begin_exit(self) -> Doorbell | None:
        """Do as :meth:`settle_all`, at the end of the interpreter. A store that is away must not keep the program from ending.

        :return: rings when all is settled. None: it is.
        """
        settled = Doorbell()
        try:
            _thread.start_new_thread(self._settle_for, (get_ident(), Doorbell(), settled))
        except RuntimeError:
            # Python 3.12.0 and 3.12.1 begin no thread any more. https://github.com/python/cpython/issues/113964
            self.settle_all()
            return None
        return settled

    def last_time(self) -> AbstractContextManager[float]:
        """Return the context of calls by a thread that is about to leave: see :meth:`pitstop.abc.Backend.bounded`."""
        away = self._writer.failing or not self._claimer.healthy
        return self._session.bounded(_LAST_TRY if away else None)

    def after_fork(self) -> None:
        """Forget the messages, which are the parent's, and replace the lock, which a thread of the parent may hold."""
        self.forget()
        self._giving_back = RLock()
        self._givers = []

    def forget(self) -> None:
        """Forget all messages that were claimed and not handed out, without a word to the store."""
        self._buffer.clear()
        self._suspects.clear()
        self._claimer.unfit.clear()

    def _settle_for(self, thread: int, given_back: Doorbell, settled: Doorbell | None = None) -> None:
        """Write and give back everything, for a thread that has stopped the listener, and waits for a bell."""
        # First the messages that are here already, then those of a claim that is under way.
        self.give_back_all()
        self._wait_for_others(thread, STOP_PATIENCE)
        self.settle_all(given_back, settled)
