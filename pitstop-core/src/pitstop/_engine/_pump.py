"""The thread of a listener: writes acks that wait for others, claims ahead, gives back what nobody asks for."""

from __future__ import annotations

import logging

from collections.abc import Callable
from threading import RLock, Thread
from typing import Any
from weakref import WeakMethod

from pitstop._engine._backoff import Backoff
from pitstop._engine._hand import Hand
from pitstop._engine._outbox import Outbox
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable
from pitstop.abc import Doorbell


__all__ = ["Pump"]

_log = logging.getLogger("pitstop.listener")

#: Seconds between two looks while there is something to do. By real time, whatever clock the store goes by: it is about
#: the work of a machine, and not about when messages are due. An ack waits for one or two of these.
_TICK = 0.01
#: Looks in a row, in which nobody asked for a message, after which those in hand are given back.
_PATIENCE = 10


class Pump:
    """Begun when there is first something to do. It sleeps without end while there is nothing.

    Invariant: it is ``awake``, or there is nothing to do. Whoever brings something looks at ``awake`` after that, and the
    thread looks for something to do after it said that it is not.
    """

    def __init__(self, store: Session) -> None:
        self._session = store
        self._bell = Doorbell()
        # Reentrant: for signal handlers.
        self._lock = RLock()
        self._thread: Thread | None = None
        self._ended = False
        self.awake = False
        #: Whether the next messages are wanted ahead.
        self.wanted = False
        self._tries = -1
        self._handed_out = -1
        self._still = 0
        self._backoff = Backoff(store.log.outages)

    def wake(self) -> None:
        """There is something to do. Cheap when it is awake anyway."""
        if self.awake:
            return
        self.awake = True
        if self._thread is None:
            self._begin()
        self._bell.ring()

    def want(self) -> None:
        """Claim the next messages now."""
        self.wanted = True
        self.wake()
        self._bell.ring()

    def begin(self, hand: Hand, outbox: Outbox, claim_ahead: Callable[[], None]) -> None:
        """Say whose pump it is: the listener's whose method ``claim_ahead`` is."""
        self._hand = hand
        self._outbox = outbox
        # Weak, so that a listener that was dropped without close() ends it.
        self._claim_ahead: WeakMethod[Any] = WeakMethod(claim_ahead, lambda _: self.end())

    def end(self) -> None:
        """End the thread, soon. It leaves nothing to do, and whoever has an ack later writes it."""
        self._ended = self._outbox.unattended = True
        self._bell.ring()

    def after_fork(self) -> None:
        """In the child of a fork: the thread is the parent's."""
        self._lock, self._thread, self.awake, self.wanted = RLock(), None, False, False
        self._bell = Doorbell()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._ended:
                # Before its start: a signal handler that comes here meanwhile begins no other one.
                self._thread = thread = Thread(target=self._run, name="pitstop-pump", daemon=True)
                try:
                    thread.start()
                except BaseException:
                    # As many threads as the system lets us have: whoever brings something next tries again.
                    self._thread, self.awake = None, False
                    raise

    def _run(self) -> None:
        while not self._ended:
            try:
                pause = self._work()
            except Exception as error:  # noqa: BLE001 - whatever it was: a thread that died of it would write no ack any more
                now = self._session.clock.monotonic()
                pause = self._backoff.failed(error, now, log=False)
                # A bug: :meth:`_work` catches the failures of the store. So an outage must not keep it out of the log.
                if (note := self._session.log.not_worked.passes(now)) is not None:
                    _log.exception("acks could not be written, or messages not claimed ahead; trying again%s", note)
            if pause is None:
                self.awake = False
                if not self._has_work():
                    self._bell.wait(None)
                self.awake = True
            else:
                self._bell.wait(pause)
        # What a listener that was dropped leaves: others may have what it held, and it has acks that nobody else writes.
        self._hand.give_back_all()
        while (pause := self._flush()) is not None:
            self._bell.wait(pause)

    def _has_work(self) -> bool:
        return self.wanted or bool(self._outbox) or self._hand.may_bore

    def _work(self) -> float | None:
        """Do what is to be done; say how long to wait then, None for without end."""
        if self.wanted:
            self.wanted = False
            claim_ahead = self._claim_ahead()
            if claim_ahead is not None:
                claim_ahead()
            # It may be the last one to hold the listener.
            del claim_ahead
        if self._outbox and self._tries == self._outbox.tries:
            # As at the last look: nobody else has written meanwhile.
            pause = self._flush()
            if pause is not None:
                return pause
        self._tries = self._outbox.tries
        if not self._hand.may_bore or self._hand.handed_out != self._handed_out:
            self._handed_out, self._still = self._hand.handed_out, 0
        else:
            self._still += 1
            if self._still >= _PATIENCE:
                self._still = 0
                self._hand.slow_down()
        return _TICK if self._has_work() else None

    def _flush(self) -> float | None:
        """Write what is pending. When the store does not answer: seconds until the next try."""
        clock = self._session.clock
        try:
            self._outbox.flush()
        except BackendUnavailable as error:
            if self._session.closed:
                return None
            return self._backoff.failed(error, clock.monotonic())
        self._backoff.succeeded(clock.monotonic())
        return None
