"""Claimer: leases due messages, decides what becomes of them, and puts those that are to be emitted into the buffer.

It settles the rest, and gives back messages that no handler has seen. It has no thread and waits for nothing.

Threads: any; one thread of a listener claims at a time.
"""

from __future__ import annotations

import logging

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

import attrs

from pitstop._decisions._attempts import is_suspect
from pitstop._decisions._emit import Emission, decide
from pitstop._decisions._settle import release
from pitstop._engine._backoff import Backoff
from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._bugs import traceback_of
from pitstop._engine._calls import unbroken
from pitstop._engine._lease import Lease
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable
from pitstop.abc import Aside, Damaged, Outcome, Record, Settlement


__all__ = ["LEAST_REMAINDER", "Claimed", "Claimer", "Suspects"]

_log = logging.getLogger("pitstop.listener")

#: A claimed message is handed out only while this part of its lease is left; else it is given back.
LEAST_REMAINDER = 0.1


class Suspects(Protocol):
    """Keeps messages of a claim apart that may have killed the worker which had them."""

    def keep(self, leases: list[Lease]) -> list[Lease]:
        """Keep the suspects among these leases, and return the others, which go into the buffer."""
        ...


@attrs.frozen
class Claimed:
    """The result of a claim."""

    #: How many messages are in the buffer now that were not before.
    count: int
    #: Whether the next look at the store should come at once: there may be more.
    again: bool


class Claimer:
    """Claims for one listener."""

    def __init__(
        self, session: Session, buffer: ClaimBuffer, lock_time: timedelta, *, suspects: Suspects | None = None
    ) -> None:
        """Return a claimer that has not claimed yet.

        :param lock_time: how long messages are leased.
        :param suspects: gets the messages of each claim before the buffer does. None: the buffer gets them all.
        """
        self._session = session
        self._buffer = buffer
        self._lock_time = lock_time
        self._duration = lock_time // timedelta(milliseconds=1)
        self._suspects = suspects
        #: The failures in a row. Written by the threads that claim or look for the next message.
        self.backoff = Backoff(session.log.outages)
        #: When the store last answered a claim, by the monotonic clock. None: it has not yet. Written by claiming threads.
        self.last_claim: float | None = None
        # For each claim that is under way, by a key of its own: the messages that were stored or removed since it began, by id,
        # with the new revision, or None. The claiming thread adds and deletes its own dict; any thread writes to all of them.
        self._under_way: dict[object, dict[str, str | None]] = {}
        #: Messages given back so far. Any thread; CPython switches threads in no such statement.
        self.given_back = 0

    @property
    def answered(self) -> bool:
        """Whether the store has ever answered a claim."""
        return self.last_claim is not None

    @property
    def healthy(self) -> bool:
        """Whether the store answered the last look."""
        return self.backoff.healthy

    @unbroken
    def claim(self, wanted: int, elsewhere: float = 0.0) -> Claimed:
        """Lease due messages.

        :param wanted: how many will be taken at once: see :meth:`ClaimBuffer.limit`.
        :param elsewhere: seconds since the last claim for which the consumer waited for the store.
        :raises BackendUnavailable: when the store did not answer.
        """
        buffer, clock = self._buffer, self._session.clock
        buffer.measure(elsewhere)
        # Taken before the claim is sent: a claim that took long to answer has used up part of its lease, or all of it.
        begun = clock.monotonic()
        until = begun + self._lock_time.total_seconds() * (1 - LEAST_REMAINDER)
        limit = buffer.limit(wanted)
        key, versions = object(), dict[str, str | None]()
        self._under_way[key] = versions
        try:
            return self._claim(limit, begun, until, key, versions)
        finally:
            self._under_way.pop(key, None)

    def note_versions(self, versions: Mapping[str, str | None]) -> None:
        """Note messages that were stored anew or removed. A claim that is under way may bring an older version of them.

        :param versions: by id: the revision that was stored, None if the message was removed.
        """
        for each in tuple(self._under_way.values()):
            each.update(versions)

    def _claim(self, limit: int, begun: float, until: float, key: object, versions: dict[str, str | None]) -> Claimed:
        session, buffer, clock = self._session, self._buffer, self._session.clock
        leased = session.backend.lease(limit, self._duration)
        self.last_claim = now = clock.monotonic()
        self.backoff.succeeded(now)
        buffer.note_claim(limit, len(leased))
        if not leased:
            return Claimed(0, again=False)
        leases: list[Lease] = []
        unfit: list[tuple[Record | Damaged, Settlement]] = []
        aside = False
        for record in leased:
            if isinstance(record, Damaged) and record.due is None:
                # The backend could not lease it, and has set it aside by itself.
                session.events.settled(Settlement(record.id, "", Outcome.BURY, Aside(record.error)), record)
                aside = True
                continue
            decided = self._decided(record, ahead=limit > 1)
            if isinstance(decided, Emission):
                leases.append(Lease(decided, until))
            elif decided is not None:
                unfit.append((record, decided))
        in_time = clock.monotonic() < until
        if leases and not in_time:
            self._warn_of_slow_claim(now)
            self.give_back(leases)
            leases = []
        elif self._suspects is not None:
            leases = self._suspects.keep(leases)
        else:
            leases = self._confirmed(leases)
        stale: list[Lease] = []
        if versions:
            # Now, since another thread may take them as soon as they are in the buffer.
            stale = [each for each in leases if each.id in versions and each.record.revision != versions[each.id]]
            leases = [each for each in leases if each not in stale]
        buffer.put(leases, now - begun)
        # From here on a thread that stores or removes a message finds it in the buffer.
        self._under_way.pop(key, None)
        if versions:
            self.give_back([*stale, *buffer.discard(versions)], log=False)
        settled = self._settle_unfit(unfit)
        # A store that leases again and again what it does not settle is not asked without end.
        return Claimed(len(leases), again=in_time and (bool(leases) or settled or aside))

    @unbroken
    def give_back(self, leases: Sequence[Lease], *, log: bool = True) -> int:
        """Give back messages that no handler has seen: they are due again, and the attempt is not counted.

        :param log: False when the caller reports the failure.
        :return: how many messages were not given back, because the store did not answer.
        """
        if not leases or self._session.closed:
            return len(leases)
        try:
            with self._session.bounded():
                backend = self._session.backend
                now = backend.now() // 1000
                applied = backend.settle([release(each.record, now, self._duration) for each in leases])
        except BackendUnavailable as error:
            note = self._session.log.not_given_back.passes(self._session.clock.monotonic()) if log else None
            if note is not None:
                _log.warning(
                    "%d claimed messages come back only when their lease runs out: %s%s", len(leases), error, note
                )
            return len(leases)
        self.given_back += sum(applied)
        self._session.written(None)
        return 0

    def _confirmed(self, leases: list[Lease]) -> list[Lease]:
        """Return the messages that may be handed out: the attempt of each suspect is certain in the store then."""
        suspects = [each for each in leases if each.emission.ahead and is_suspect(each.record.progress)]
        if not suspects:
            return leases
        try:
            applied = self._session.backend.settle([each.extension(each.due) for each in suspects])
        except BackendUnavailable:
            self.give_back(suspects)
            applied = [False] * len(suspects)
        lost = {each for each, done in zip(suspects, applied, strict=True) if not done}
        return [each for each in leases if each not in lost]

    def _decided(self, record: Record | Damaged, *, ahead: bool) -> Emission | Settlement | None:
        """Return what becomes of a leased record. None: it stays leased, and comes back when its lease runs out."""
        try:
            return decide(record, self._session.retry, ahead=ahead)
        except Exception as error:  # noqa: BLE001 - of a recurrence by another author; the rest of the claim goes on
            note = self._session.log.not_settled.passes(self._session.clock.monotonic())
            if note is not None:
                # Without the error's text, which may hold anything.
                _log.error(
                    "%r was not emitted: its recurrence raised %s. The message comes back when its lease runs out%s%s",
                    record.id,
                    type(error).__name__,
                    traceback_of(error),
                    note,
                )
            return None

    def _settle_unfit(self, unfit: list[tuple[Record | Damaged, Settlement]]) -> bool:
        """Settle messages that were claimed and are not to be emitted. Return whether any was."""
        if not unfit:
            return False
        try:
            applied = self._session.backend.settle([settlement for _, settlement in unfit])
        except BackendUnavailable as error:
            # The claim itself has succeeded. These come back when their leases run out.
            _log.debug("%d messages that are not to be emitted could not be settled: %s", len(unfit), error)
            return False
        except Exception as bug:  # noqa: BLE001 - a bug of the backend, with one of them perhaps; the others are settled
            if len(unfit) > 1:
                return sum(self._settle_unfit([each]) for each in unfit) > 0
            note = self._session.log.not_settled.passes(self._session.clock.monotonic())
            if note is not None:
                _log.error(
                    "%r could not be settled: %s%s%s", unfit[0][0].id, type(bug).__name__, traceback_of(bug), note
                )
            return False
        for (record, settlement), done in zip(unfit, applied, strict=True):
            if done:
                self._session.events.settled(settlement, record)
        return any(applied)

    def _warn_of_slow_claim(self, now: float) -> None:
        note = self._session.log.slow_claims.passes(now)
        if note is not None:
            _log.warning(
                "a claim took about as long as its lease of %s s, so that nothing of it was emitted; "
                "configure a longer lock_time, or a smaller prefetch%s",
                self._lock_time.total_seconds(),
                note,
            )
