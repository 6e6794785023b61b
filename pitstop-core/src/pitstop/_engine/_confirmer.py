"""Confirmer: takes a suspect for a handler, after its attempt was written as a certain one.

Threads: threads that want messages call `take`, the feeder of an event loop calls `offer`, the background thread calls `tend`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta

import attrs

from pitstop._decisions._settle import lease_end
from pitstop._engine._backoff import Backoff
from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._calls import unbroken
from pitstop._engine._claimer import Claimer
from pitstop._engine._lease import Lease
from pitstop._engine._session import Session
from pitstop._engine._suspects import Suspects
from pitstop._engine._writer import AckWriter
from pitstop._errors import BackendUnavailable


__all__ = ["Confirmer"]

#: Seconds for which other messages in the buffer wait until a suspect is confirmed.
_PATIENCE = 1.0


class Confirmer:
    """The way of suspects to the handlers of one listener."""

    def __init__(
        self,
        session: Session,
        suspects: Suspects,
        buffer: ClaimBuffer,
        claimer: Claimer,
        writer: AckWriter,
        lock_time: timedelta,
        *,
        wake: Callable[[], None],
    ) -> None:
        """Return a confirmer that has not confirmed yet.

        :param wake: wake the threads that wait for messages.
        """
        self._session = session
        self._suspects = suspects
        self._buffer = buffer
        self._claimer = claimer
        self._writer = writer
        self._lock_time = lock_time
        self._wake = wake
        # The failures in a row. Written by threads that take suspects.
        self._backoff = Backoff(session.log.outages)

    def take(self) -> Lease | None:
        """Take a suspect that a handler may have now. None: there is none, or the store is away, which is tried again later."""
        suspects, buffer = self._suspects, self._buffer
        if not buffer.open:
            return None
        others = len(buffer) > 0
        if others and (self._writer.failing or not self._claimer.healthy):
            # The store is away. Messages that need no confirmation go first.
            return None
        self._write_ends()
        while (lease := self._next()) is not None:
            try:
                with self._session.bounded(_PATIENCE) if others else nullcontext():
                    confirmed = self._confirm(lease)
            except BackendUnavailable as error:
                suspects.put_back(lease, self._backoff.failed(error, self._session.clock.monotonic()))
                return None
            except Exception as bug:  # noqa: BLE001 - a bug of the backend, with this one perhaps; the others go on
                # It stays leased. To try it again at once would keep all others from the handlers.
                self._claimer.report_bug(lease.id, bug, "confirmed")
                confirmed = False
            except BaseException:
                suspects.put_back(lease)
                raise
            if confirmed and self._may_be_handed_out(lease):
                return lease
            suspects.end(lease)
            if confirmed:
                # The listener was stopped meanwhile, or the answer took as long as the lease.
                self._claimer.give_back([lease])
                return None
        return None

    def _next(self) -> Lease | None:
        try:
            now = self._session.backend.now()
        except BackendUnavailable as error:
            self._suspects.pause(self._backoff.failed(error, self._session.clock.monotonic()))
            return None
        return self._suspects.take(now)

    def offer(self) -> None:
        """Put the next suspect into the buffer, for a consumer that takes its messages from there alone."""
        if not self._suspects.waiting:
            return
        # Another thread may store or remove the message before it is in the buffer.
        with self._claimer.under_way.noting() as versions:
            lease = self.take()
            if lease is not None and versions.get(lease.id, lease.record.revision) == lease.record.revision:
                self._buffer.put_first(lease)
                lease = None
        if lease is not None:
            self._claimer.give_back([lease], log=False)
        self._claimer.give_back(self._buffer.discard(versions), log=False)

    def tend(self, *, offer: bool) -> None:
        """Give back suspects that wait for too long, and wake threads when one may be taken.

        :param offer: whether the consumer takes its messages from the buffer alone, and wants some.
        """
        suspects = self._suspects
        if not suspects.waiting:
            return
        if late := suspects.take_late():
            self._claimer.give_back(late)
        if suspects.ready:
            if offer:
                self.offer()
            self._wake()

    @unbroken
    def _confirm(self, lease: Lease) -> bool:
        """Write the attempt as a certain one, with a lease that begins now. Return False if the lease is over.

        :raises BackendUnavailable: when the store did not answer.
        """
        if not lease.emission.ahead:
            return True
        backend, before = self._session.backend, lease.due
        settlement = lease.extension(max(lease_end(backend.now(), lease.lock_time or self._lock_time), before))
        (applied,) = backend.settle([settlement])
        self._backoff.succeeded(self._session.clock.monotonic())
        if applied:
            lease.extended(settlement)
            lease.emission = attrs.evolve(lease.emission, ahead=False)
            # This process may estimate the store's time wrongly. So the end moves by the difference of two times of the store.
            lease.move_until(lease.until + (lease.due - before) / 1000)
        return bool(applied)

    def _may_be_handed_out(self, lease: Lease) -> bool:
        return self._buffer.open and self._session.clock.monotonic() < lease.until

    def _write_ends(self) -> None:
        """Write the settlements for which other suspects wait."""
        if ids := self._suspects.unwritten():
            # Of other listeners, too. A writer that the store does not answer tries again, and the suspects go on waiting.
            self._session.flush(ids)
