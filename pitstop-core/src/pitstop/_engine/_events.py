"""Events: the messages that were settled, advanced, buried or lost, and the observers to whom they are reported.

Threads: any. Observers run in the thread that reports.
"""

from __future__ import annotations

import logging

from collections import Counter
from collections.abc import Callable, Collection, Sized
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias

import attrs

from pitstop._decisions._attempts import uncounted
from pitstop._decisions._describe import describe
from pitstop._decisions._logs import StoreLog
from pitstop._decisions._settle import LEFT_FOR
from pitstop._engine._calls import Inside
from pitstop._engine._lease import Lease
from pitstop._errors import BackendUnavailable
from pitstop._values._instant import from_instant
from pitstop._values._plugin import Plugin
from pitstop.abc import Aside, Clock, Damaged, Outcome, Record, Settlement


__all__ = ["Entered", "Events", "Observers"]

_log = logging.getLogger("pitstop.delivery")

#: Contexts that were entered, each with the implementation that made it.
Entered: TypeAlias = list[tuple[AbstractContextManager[Any], Callable[..., Any]]]
#: The outcomes by which a series goes on.
_ADVANCES = frozenset({Outcome.RESCHEDULE, Outcome.EXPIRE})


class Observers(Protocol):
    """The hooks of plugins, as :class:`pitstop._plugins._hooks.Hooks` has them. An empty hook has no observer."""

    clock: Clock

    @property
    def strict(self) -> bool: ...
    @property
    def plugins(self) -> list[Plugin]: ...
    @property
    def takes_entries(self) -> bool: ...
    @property
    def stored(self) -> Sized: ...
    @property
    def takes_lateness(self) -> bool: ...
    @property
    def leased(self) -> Sized: ...
    @property
    def settled(self) -> Sized: ...
    @property
    def opened(self) -> Sized: ...
    @property
    def store_failed(self) -> Sized: ...
    @property
    def acked(self) -> Sized: ...
    @property
    def retried(self) -> Sized: ...
    @property
    def dead(self) -> Sized: ...
    @property
    def lease_lost(self) -> Sized: ...
    @property
    def advanced(self) -> Sized: ...
    @property
    def expired(self) -> Sized: ...
    @property
    def handling(self) -> Sized: ...

    def notify(self, calls: Any, arguments: tuple[Any, ...]) -> None: ...
    def enter(self, delivery: Any) -> Entered: ...
    def leave(self, entered: Entered, error: BaseException | None) -> None: ...
    def raise_kept(self) -> None: ...


class Events:
    """The hooks of one session, its counters, and the tap of its tests."""

    def __init__(
        self,
        hooks: Observers,
        clock: Clock,
        log: StoreLog,
        calls: Inside,
        wake: Callable[[int | None, Collection[str] | None], None],
    ) -> None:
        """Return the events of a session that has not reported any.

        :param wake: called with the ``due`` and the kind of each message that was put back.
        """
        #: The plugins' hooks, as they stood at ``init``.
        self.hooks = hooks
        #: Whether a plugin puts a context around handlers: see :meth:`enter`.
        self.observes_handling = bool(hooks.handling)
        #: Whether :meth:`stored` has an observer.
        self.observes_stored = bool(hooks.stored)
        #: The handlings that last: see :class:`pitstop._engine._handling.Handling`. The thread of each adds and removes it.
        self.running: dict[Any, None] = {}
        self._clock = clock
        self._log = log
        self._calls = calls
        self._wake = wake
        #: How often an event happened, by name: ``lease_lost``, ``superseded`` and ``expired``. Counted by the thread that reports
        #: the event.
        self.counters: Counter[str] = Counter()
        #: Called with each settlement that was applied, and with the record if no handler has seen it. Tests that drive
        #: this session set it.
        self.tap: Callable[[Settlement, Record | Damaged | None], None] | None = None

    @property
    def observes_leased(self) -> bool:
        """Whether :meth:`leased` is to be called."""
        return bool(self.hooks.leased) or self.hooks.strict

    def stored(self, record: Record, now: int) -> None:
        """Report a message that was stored. ``now`` is the time of the store, in milliseconds."""
        # An entry has a copy of the message, which costs several times as much as the rest.
        hooks = self.hooks
        entry = describe(record, now) if hooks.takes_entries else None
        self._calls.call_out(hooks.notify, hooks.stored, (entry, record.id, record.kind))

    @property
    def observes_acks(self) -> bool:
        """Whether :meth:`acked` has an observer."""
        return bool(self.hooks.acked or self.hooks.settled)

    def opened(self, pit: object) -> None:
        """Report a Pitstop that was made."""
        if self.hooks.opened:
            self._notify(self.hooks.opened, pit)

    def store_failed(self, error: BackendUnavailable) -> None:
        """Report a failure of the store, once, however many callers see the error."""
        if self.hooks.store_failed and not error.reported:
            error.reported = True
            self._notify(self.hooks.store_failed, error)

    def leased(self, delivery: object, lease: Lease) -> None:
        """Report a message that is handed out.

        :raises PluginFailed: see :meth:`raise_kept`.
        """
        hooks = self.hooks
        if hooks.leased:
            lateness = self._lateness(lease) if hooks.takes_lateness else None
            self._calls.call_out(hooks.notify, hooks.leased, (delivery, lateness))
        if hooks.strict:
            hooks.raise_kept()

    def raise_kept(self) -> None:
        """Raise the error of an observer, if there is one and the plugins are strict. Call it where nothing is left half done.

        :raises PluginFailed: if an observer has raised since the last call.
        """
        if self.hooks.strict:
            self.hooks.raise_kept()

    def acked(self, delivery: object, lease: Lease) -> None:
        """Report an ack that was written."""
        hooks = self.hooks
        if hooks.acked:
            self._calls.call_out(hooks.notify, hooks.acked, (delivery,))
        if hooks.settled:
            self._calls.call_out(hooks.notify, hooks.settled, (lease.id, lease.emission.leased.kind, "acked"))

    def nacked(self, lease: Lease) -> None:
        """Report a nack that was written and did not bury the message."""
        self._settled(lease.id, lease.emission.leased.kind, "nacked")

    def retried(self, delivery: object, error: str | None, due: int) -> None:
        """Report a nack that was written: the message comes back at the instant ``due``."""
        if self.hooks.retried:
            self._notify(self.hooks.retried, delivery, error, from_instant(due))

    def lost(self, id: str, attempt: int, delivery: object, *, kind: str, ran_out: bool) -> None:
        """Report a lease that was over before its delivery was settled.

        :param ran_out: whether its time was over, which an operator has to know. Else another program has stored, removed, released
            or claimed the message. This is normal, so it is logged at debug level.
        """
        self.counters["lease_lost"] += 1
        note = self._log.ran_out.passes(self._clock.monotonic()) if ran_out else None
        extra = self._log.fields("lease_lost", id, kind=kind, attempt=attempt)
        if note is None:
            _log.debug("lease lost: %r attempt %d", id, attempt, extra=extra)
        else:
            of_kind = f" of kind {kind!r}" if kind else ""
            _log.warning(
                "the lease of %r%s (attempt %d) ran out before the message was settled, so that it is handled again; "
                "configure a longer lock_time, or a heartbeat%s",
                *(id, of_kind, attempt, note),
                extra=extra,
            )
        if self.hooks.lease_lost:
            self._notify(self.hooks.lease_lost, delivery)
        self._settled(id, kind, "lost")

    def superseded(self, id: str) -> None:
        """Report a delivery whose handler stored or removed the message itself."""
        self.counters["superseded"] += 1
        _log.debug("superseded by its own handler: %r", id, extra=self._log.fields("superseded", id))

    def settled(
        self, settlement: Settlement, unseen: Record | Damaged | None = None, *, kind: str | None = None
    ) -> None:
        """Report a settlement that was applied.

        :param unseen: the record that was leased, when it was settled without having been handed out.
        :param kind: the kind of the message. None: it is not known.
        """
        if self.tap is not None:
            self.tap(settlement, unseen)
        progress = settlement.progress
        if settlement.outcome is Outcome.EXPIRE:
            self._expired(settlement.id, unseen)
        if progress is None:
            return
        if settlement.outcome is Outcome.BURY:
            self._buried(settlement.id, progress.last_error, kind)
        if isinstance(progress, Aside):
            return
        if settlement.outcome in _ADVANCES and self.hooks.advanced:
            self._advanced(settlement.id, from_instant(progress.scheduled_for), progress.last_error, kind)
        if progress.due is not None:
            self._wake(progress.due, None if kind is None else (kind,))

    def left_to_newer(self, id: str, error: Exception) -> None:
        """Report a message that was claimed and is left to processes with a later release, which has stored it."""
        note = self._log.newer.passes(self._clock.monotonic())
        if note is not None:
            told = id, error, LEFT_FOR // 1000, note
            extra = self._log.fields("left_to_newer", id)
            _log.warning("%r was not emitted: %s It is due again in %s s%s", *told, extra=extra)

    def enter(self, delivery: object) -> Entered:
        """Enter the contexts that plugins put around a handler. Give them to :meth:`leave` later."""
        return self.hooks.enter(delivery)

    def leave(self, entered: Entered, failure: BaseException | None) -> None:
        """Leave the contexts of a handler that raised ``failure``. None: it returned."""
        self.hooks.leave(entered, failure)

    def _buried(self, id: str, error: str | None, kind: str | None) -> None:
        # Without the error: its text is the user's, and may hold anything.
        note = self._log.dead.passes(self._clock.monotonic())
        if note is not None:
            extra = self._log.fields("message_dead", id, kind=kind)
            _log.warning("message %r is dead; its last_error says why%s", id, note, extra=extra)
        if self.hooks.dead:
            self._notify(self.hooks.dead, id, error, kind)
        self._settled(id, kind or "", "dead")

    def _expired(self, id: str, unseen: Record | Damaged | None) -> None:
        self.counters["expired"] += 1
        kind = unseen.kind if isinstance(unseen, Record) else ""
        _log.debug("expired: %r", id, extra=self._log.fields("message_expired", id, kind=kind))
        self._settled(id, kind, "expired")
        if self.hooks.expired and isinstance(unseen, Record):
            # As it was before this claim: due, and without the attempt that the claim has counted.
            due = unseen.progress.scheduled_for
            before = attrs.evolve(uncounted(unseen.progress), due=due, token=None)
            self._notify(self.hooks.expired, describe(attrs.evolve(unseen, progress=before), due))

    def _advanced(self, id: str, scheduled_for: datetime, last_error: str | None, kind: str | None) -> None:
        self._notify(self.hooks.advanced, id, scheduled_for, last_error, kind)

    def _settled(self, id: str, kind: str, outcome: str) -> None:
        if self.hooks.settled:
            self._notify(self.hooks.settled, id, kind, outcome)

    def _lateness(self, lease: Lease) -> timedelta | None:
        emission = lease.emission
        due_at = emission.due_at
        # The first claim is the first attempt, which the attempt itself takes longer to say.
        if due_at is None or (emission.leased.progress.attempts > 1 and lease.attempt != 1):
            return None
        # A message that was let come before its time is not late.
        return timedelta(seconds=max(0.0, self._clock.monotonic() - due_at))

    def _notify(self, calls: Any, *arguments: Any) -> None:
        self._calls.call_out(self.hooks.notify, calls, arguments)
