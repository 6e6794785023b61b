"""Heartbeat: extends the leases of messages that are being handled, from a thread that handlers cannot starve.

All held leases go into one batch, whenever a third of a lease has passed. Deliveries are held by weak references: a delivery
that was dropped without being settled is not extended for ever. (Code in C that keeps Python's lock for as long as a lease
starves this thread like any other.)

Threads: its own thread runs ``_beat``; any thread calls the rest.
"""

from __future__ import annotations

import logging

from collections.abc import Callable
from datetime import timedelta
from threading import RLock, Thread
from weakref import ref

from pitstop._decisions._settle import lease_end
from pitstop._engine._backoff import Backoff
from pitstop._engine._bugs import traceback_of
from pitstop._engine._calls import unbroken
from pitstop._engine._lease import Lease
from pitstop._engine._lifecycle import Component
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, ConfigError
from pitstop._values._instant import LAST_INSTANT
from pitstop.abc import Doorbell


__all__ = ["Heartbeat"]

_log = logging.getLogger("pitstop.listener")

#: Of a lease, the part that passes before it is extended.
_BEAT = 1 / 3
#: Of a lease, the part that has to be gone for it to be taken along when another one is extended.
_ALONG = 1 / 6

#: Seconds.
_MOMENT = 0.2

#: A lease, and the instant until which it may be extended.
_Held = tuple[Lease, int]


class Heartbeat(Component):
    """The heartbeat of one listener. Its thread begins with the first lease that it holds, and sleeps while it holds none.

    Invariant: the thread looks at all held leases no later than ``_next_look``. A thread that adds a lease which has to be
    extended before that rings the bell.
    """

    def __init__(
        self,
        session: Session,
        lock_time: timedelta,
        max_lease: timedelta | None,
        lose: Callable[[Lease, object], None],
    ) -> None:
        """Return a heartbeat that holds nothing.

        :param max_lease: for how long a lease is held, from when the message was handed out. None: without end.
        :param lose: called with a lease that could not be extended because it was over, and with its delivery.
        :raises ConfigError: when ``max_lease`` is shorter than a lease.
        """
        if max_lease is not None and max_lease < lock_time:
            raise ConfigError(
                f"max_lease={max_lease} is shorter than lock_time, {lock_time}, so that nothing would ever be "
                f"extended. Give a longer one, a shorter lock_time, or no heartbeat."
            )
        self._session = session
        self._max_lease = max_lease
        self._lose = lose
        self._lock_time = lock_time
        # In milliseconds.
        self._lease = lock_time / timedelta(milliseconds=1)
        # By the delivery. Any thread adds and discards in one step each, also in the middle of anything, when a delivery is
        # dropped: no lock.
        self._held: dict[ref[object], _Held] = {}
        #: Held by the thread that extends leases: this heartbeat's, or a handler's.
        # Both locks are reentrant, for signal handlers.
        self.extending = RLock()
        self._beginning = RLock()
        self._bell = Doorbell()
        # Written under the lock `_beginning`.
        self._thread: Thread | None = None
        # Written once, by any thread.
        self._ended = self._closed = False
        # The instant, in milliseconds by the store's clock, of the next look. Infinite: the bell is rung for it. Written by
        # the heartbeat's thread, as is the next one.
        self._next_look = float("inf")
        # Whether something was held at the last look.
        self._busy = False

    @unbroken
    def hold(self, lease: Lease, delivery: object) -> None:
        """Extend a lease that is handed out now, until it is settled or its delivery is dropped."""
        until = LAST_INSTANT
        if self._max_lease is not None:
            until = lease_end(self._now(lease), self._max_lease)
        self._held[ref(delivery, self._drop)] = lease, until
        self.reconsider(lease)

    def reconsider(self, lease: Lease) -> None:
        """Look at this lease before the next look, if it has to be extended before that."""
        if self._beat_at(lease) < self._next_look:
            if self._thread is None:
                self._begin()
            else:
                self._bell.ring()

    def settle_down(self) -> None:
        """Wait a moment for an extension that is under way. An ack in a transaction would conflict with it."""
        # Not longer: on SQLite the extension may wait for the end of this very transaction.
        if self.extending.acquire(timeout=_MOMENT):
            self.extending.release()

    def end(self) -> None:
        """End once nothing is held any more: messages that were handed out stay with their handlers."""
        self._ended = True
        self._bell.ring()

    def close(self) -> None:
        """End: the session is about to be closed, so that nothing can be extended any more."""
        self._closed = True
        self._bell.ring()

    def after_fork(self) -> None:
        """Forget the leases and the thread: they are the parent's."""
        self._held = {}
        self.extending, self._beginning, self._bell, self._thread = RLock(), RLock(), Doorbell(), None
        self._next_look = float("inf")

    def _drop(self, delivery: ref[object]) -> None:
        self._held.pop(delivery, None)

    def _begin(self) -> None:
        with self._beginning:
            if self._thread is None:
                self._session.add(self)
                self._thread = thread = Thread(target=self._run, name="pitstop-heartbeat", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    # The system gives no thread now. The next lease tries again, for all of them.
                    self._thread = None
                    self._report_no_thread(error)
                except BaseException:
                    self._thread = None
                    raise

    def _now(self, lease: Lease) -> int:
        try:
            return self._session.backend.now()
        except BackendUnavailable:
            # The message was handed out a little later than it was claimed.
            return round(self._begun_at(lease) * 1000)

    def _report_no_thread(self, error: RuntimeError) -> None:
        note = self._session.log.not_extended.passes(self._session.clock.monotonic())
        if note is not None:
            extra = self._session.log.fields("not_extended")
            _log.warning("leases are not extended until the system gives a thread: %s%s", error, note, extra=extra)

    def _run(self) -> None:
        log, clock = self._session.log, self._session.clock
        backoff = Backoff(log.outages)
        while not self._closed:
            try:
                pause = self._beat()
                backoff.succeeded(clock.monotonic())
            except Exception as error:  # noqa: BLE001 - whatever it was: without this thread leases would run out unseen
                if self._closed:
                    break
                now = clock.monotonic()
                pause = backoff.failed(error, now, log=isinstance(error, BackendUnavailable))
                if not isinstance(error, BackendUnavailable) and (note := log.not_extended.passes(now)) is not None:
                    # Without the error's text, which may hold anything.
                    told = type(error).__name__, note, traceback_of(error)
                    extra = log.fields("not_extended")
                    _log.error("leases could not be extended: %s; trying again%s%s", *told, extra=extra)
            if pause is not None:
                clock.wait(self._bell, pause)
            elif self._ended:
                break
            else:
                self._bell.wait(None)
        self._session.discard(self)

    def _beat(self) -> float | None:
        """Extend the leases that have to be. Return how many seconds later to look again; None: when the bell rings."""
        # From now on everything is news.
        self._next_look = float("inf")
        with self.extending:
            held = self._handled()
            now_us = self._session.backend.now()
            now = now_us / 1000
            if any(self._beat_at(lease) <= now for _, (lease, _) in held):
                along = [each for each in held if self._begun_at(each[1][0]) + self._length(each[1][0]) * _ALONG <= now]
                # The write would wait for the end of the user's transaction, and the other leases with it.
                self._extend([each for each in along if not each[1][0].in_transaction], now_us)
        held = self._handled()
        if not held and not self._busy:
            return None
        # Not to sleep without end at once: a fast handler would wake this thread with each message.
        self._busy = bool(held)
        # A thread that holds one more from here on compares with this. A thread that did so before rang.
        beats = [self._look_at(lease, now) for _, (lease, _) in held]
        self._next_look = min(beats, default=now + self._lease * _BEAT)
        return max(0.0, self._next_look - now) / 1000

    def _handled(self) -> list[tuple[ref[object], _Held]]:
        """Return the leases that are to be extended still. The others are dropped."""
        handled = []
        # A copy is made in one step. A walk through the dict itself is not.
        for delivery, held in self._held.copy().items():
            lease, until = held
            if delivery() is None or lease.is_settling or lease.due >= until:
                self._drop(delivery)
            else:
                handled.append((delivery, held))
        return handled

    def _extend(self, held: list[tuple[ref[object], _Held]], now_us: int) -> None:
        sent, settlements = [], []
        for delivery, (lease, longest) in held:
            until = min(lease_end(now_us, lease.lock_time or self._lock_time), longest)
            if lease.is_over(now_us):
                # Late: the store was away, or this process was stopped. Another consumer may have had it since.
                self._lost(lease, delivery)
            elif until > lease.due:
                sent.append((lease, delivery))
                settlements.append(lease.extension(until))
        if not sent:
            return
        try:
            applied = self._session.backend.settle(settlements)
        except BackendUnavailable:
            raise
        except Exception:
            if len(held) == 1:
                raise
            self._extend_one_by_one(held, now_us)
            return
        for (lease, delivery), settlement, done in zip(sent, settlements, applied, strict=True):
            if done:
                lease.extended(settlement)
            else:
                self._lost(lease, delivery)

    def _extend_one_by_one(self, held: list[tuple[ref[object], _Held]], now_us: int) -> None:
        """Extend leases of which one may be the reason for a bug of the backend. The others must not run out by that."""
        bug: Exception | None = None
        for each in held:
            try:
                self._extend([each], now_us)
            except BackendUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - raised below, and logged by the thread
                bug = error
        if bug is not None:
            raise bug

    def _lost(self, lease: Lease, delivery: ref[object]) -> None:
        self._drop(delivery)
        if lease.lose_unasked():
            self._lose(lease, delivery())

    def _begun_at(self, lease: Lease) -> float:
        return lease.due - self._length(lease)

    def _beat_at(self, lease: Lease) -> float:
        length = self._length(lease)
        return lease.due - length + length * _BEAT

    def _look_at(self, lease: Lease, now: float) -> float:
        beat = self._beat_at(lease)
        # It is late only in a transaction of the user, which may have ended by the next look.
        return beat if beat > now else now + self._length(lease) * _ALONG

    def _length(self, lease: Lease) -> float:
        """Return the length of a lease in milliseconds."""
        return self._lease if lease.lock_time is None else lease.lock_time / timedelta(milliseconds=1)
