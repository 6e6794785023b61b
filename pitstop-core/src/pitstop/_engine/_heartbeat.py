"""The heartbeat of a listener: extends the leases of what is being handled, from a thread that handlers cannot starve.

All that is held goes into one batch, whenever a third of a lease has passed. By weak references: what was dropped without
being settled is not held for ever. (Code in C that keeps Python's lock for as long as a lease starves this thread as any
other.)
"""

from __future__ import annotations

import logging

from datetime import timedelta
from threading import RLock, Thread
from typing import TYPE_CHECKING
from weakref import ref

from pitstop._decisions._settle import extend, lease_end
from pitstop._engine._backoff import Backoff
from pitstop._engine._calls import unbroken
from pitstop._engine._lifecycle import Component
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, ConfigError
from pitstop._values._instant import LAST_INSTANT
from pitstop.abc import Doorbell


if TYPE_CHECKING:
    from pitstop._engine._delivery import Delivery
    from pitstop._engine._listener import Listener

__all__ = ["Heartbeat"]

_log = logging.getLogger("pitstop.listener")

#: Of a lease, the part that passes before it is extended.
_BEAT = 1 / 3
#: Of a lease, the part that has to be gone for it to be taken along when another one is extended.
_ALONG = 1 / 6


class Heartbeat(Component):
    """Begun when something is first held; it sleeps without end while nothing is.

    Invariant: the thread looks at all that is held no later than ``_next_look``, and whoever adds something that has to be
    extended before that rings.
    """

    def __init__(self, store: Session, max_lease: timedelta | None) -> None:
        self._session = store
        self._max_lease = max_lease
        self._lease = 0.0
        # Added to and discarded from in one step each, also in the middle of anything, when an object goes: no lock.
        self._held: set[ref[Delivery]] = set()
        #: Held while leases are extended: by this, or by a handler.
        # Both reentrant: for signal handlers.
        self.extending = RLock()
        self._beginning = RLock()
        self._bell = Doorbell()
        self._thread: Thread | None = None
        self._ended = self._closed = False
        # The instant, in milliseconds by the store's clock, of the next look. Infinite: when it is rung for.
        self._next_look = float("inf")
        # Whether something was held at the last look.
        self._busy = False

    def begin(self, listener: Listener, lock_time: timedelta) -> None:
        """Say whose heartbeat it is.

        :raises ConfigError: when ``max_lease`` is shorter than a lease.
        """
        if self._max_lease is not None and self._max_lease < lock_time:
            raise ConfigError(
                f"max_lease={self._max_lease} is shorter than lock_time, {lock_time}, so that nothing would ever be "
                f"extended. Give a longer one, a shorter lock_time, or no heartbeat."
            )
        self._lease = lock_time / timedelta(milliseconds=1)
        # Weak, so that a listener that was dropped without close() ends it.
        self._listener = ref(listener, lambda _: self.end())

    @unbroken
    def hold(self, delivery: Delivery) -> None:
        """Extend the lease of this one, which is handed out now, until it is settled or dropped."""
        delivery._heartbeat = self
        delivery._held_until = LAST_INSTANT
        if self._max_lease is not None:
            delivery._held_until = lease_end(self._session.backend.now(), self._max_lease)
        self._held.add(ref(delivery, self._held.discard))
        self.reconsider(delivery)

    def reconsider(self, delivery: Delivery) -> None:
        """This one may have to be extended before the next look."""
        if self._beat_at(delivery) < self._next_look:
            if self._thread is None:
                self._begin()
            else:
                self._bell.ring()

    def end(self) -> None:
        """End once nothing is held any more: what was handed out stays with its handler."""
        self._ended = True
        self._bell.ring()

    def close(self) -> None:
        """The store is about to be closed: nothing can be extended any more."""
        self._closed = True
        self._bell.ring()

    def after_fork(self) -> None:
        """In the child of a fork: what is held is the parent's, and so is the thread."""
        self._held = set()
        self.extending, self._beginning, self._bell, self._thread = RLock(), RLock(), Doorbell(), None
        self._next_look = float("inf")

    def _begin(self) -> None:
        with self._beginning:
            if self._thread is None:
                self._session.add(self)
                self._thread = Thread(target=self._run, name="pitstop-heartbeat", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        log = self._session.log
        backoff = Backoff(log.outages)
        while not self._closed:
            try:
                pause = self._beat()
                backoff.succeeded(self._session.clock.monotonic())
            except Exception as error:  # noqa: BLE001 - whatever it was: without this thread leases would run out unseen
                if self._closed:
                    break
                now = self._session.clock.monotonic()
                pause = backoff.failed(error, now, log=isinstance(error, BackendUnavailable))
                if not isinstance(error, BackendUnavailable) and (note := log.not_extended.passes(now)) is not None:
                    _log.exception("leases could not be extended; trying again%s", note)
            if pause is not None:
                self._session.clock.wait(self._bell, pause)
            elif self._ended:
                break
            else:
                self._bell.wait(None)
        self._session.discard(self)

    def _beat(self) -> float | None:
        """Extend what has to be; say how many seconds later to look again, None: when it is rung for."""
        # From now on everything is news.
        self._next_look = float("inf")
        with self.extending:
            held = self._handled()
            now_us = self._session.backend.now()
            now = now_us / 1000
            if any(self._beat_at(each) <= now for each in held):
                self._extend([each for each in held if self._begun_at(each) + self._lease * _ALONG <= now], now_us)
        held = self._handled()
        if not held and not self._busy:
            return None
        # Not to sleep without end at once: who handles messages fast would wake this with each of them.
        self._busy = bool(held)
        # Who holds one more from here on compares with this; who did before rang.
        self._next_look = min(map(self._beat_at, held), default=now + self._lease * _BEAT)
        return max(0.0, self._next_look - now) / 1000

    def _handled(self) -> list[Delivery]:
        """Those that are to be extended still; the others are let go of."""
        handled = []
        # A copy is made in one step; to go through the set itself is not.
        for each in self._held.copy():
            delivery = each()
            if delivery is None or delivery._is_settling() or delivery._is_given_up():
                self._held.discard(each)
            else:
                handled.append(delivery)
        return handled

    def _extend(self, deliveries: list[Delivery], now_us: int) -> None:
        lease = timedelta(milliseconds=self._lease)
        sent, settlements = [], []
        for each in deliveries:
            due = each._due()
            until = min(lease_end(now_us, lease), each._held_until)
            if due <= now_us // 1000:
                # Late: the store was away, or this process was stopped. Somebody else may have had it since.
                each._lose_while_handled()
            elif until > due:
                sent.append(each)
                settlements.append(extend(each._emission.record, until))
        if not sent:
            return
        applied = self._session.backend.settle(settlements)
        for each, settlement, done in zip(sent, settlements, applied, strict=True):
            if done:
                each._note_extension(settlement)
            else:
                each._lose_while_handled()

    def _begun_at(self, delivery: Delivery) -> float:
        return delivery._due() - self._lease

    def _beat_at(self, delivery: Delivery) -> float:
        return self._begun_at(delivery) + self._lease * _BEAT
