"""LockTimes: gives messages that ask for a lease of another length that length, after the claim and before a handler gets one.

Threads: the claiming thread.
"""

from __future__ import annotations

import logging

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from pitstop._decisions._settle import relocked
from pitstop._engine._lease import Lease
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable
from pitstop._values._counted import counted
from pitstop.abc import Settlement


__all__ = ["LEAST_REMAINDER", "LockTimes", "Relocked"]

_log = logging.getLogger("pitstop.listener")

#: A claimed message is handed out only while this part of its lease is left; else it is given back.
LEAST_REMAINDER = 0.1


class Relocked(NamedTuple):
    """The result of the writes of one claim."""

    #: The leases that may be handed out.
    leases: list[Lease]
    #: The error, if the store did not answer a write.
    error: BackendUnavailable | None
    #: Whether messages were given back, because the store took as long as their lock times.
    slow: bool


class LockTimes:
    """Writes the leases of messages with lock times of their own, for one listener."""

    def __init__(
        self,
        session: Session,
        give_back: Callable[[Sequence[Lease]], int],
        give_back_later: Callable[[Iterable[Lease]], object],
        report_bug: Callable[[str, Exception, str], object],
    ) -> None:
        """Return an object without state.

        :param give_back: give back messages that no handler gets. Return how many were not.
        :param give_back_later: note messages that are to be given back at the next look.
        :param report_bug: log a bug of the backend with the message of an id.
        """
        self._session = session
        self._give_back = give_back
        self._give_back_later = give_back_later
        self._report_bug = report_bug

    def write(self, leases: list[Lease], writes: Mapping[Lease, Settlement], begun: float) -> Relocked:
        """Write the leases of another length. Return the leases that may be handed out.

        A process that dies before this write leaves the listener's length, and no handler has had the message.

        :param leases: all leases of a claim.
        :param writes: the write for each lease of another length.
        :param begun: when the claim began, by the monotonic clock.
        """
        kept_out: set[Lease] = set()
        failed: list[BackendUnavailable] = []
        try:
            # While the listener's lease still holds: after the write, the store would refuse to give these back.
            slow = self._keep_slow(writes, begun)
            if slow:
                writes = {each: write for each, write in writes.items() if each not in slow}
                kept_out.update(slow)
            if writes:
                refused = self._refused(writes, begun, failed)
                kept_out.update(refused)
                slow = [*slow, *self._keep_slow([each for each in writes if each not in refused], begun)]
                kept_out.update(slow)
        except BaseException:
            # For example Ctrl-C. No handler has a message of this claim.
            self._give_back_later(leases)
            raise
        ready = [each for each in leases if each not in kept_out] if kept_out else leases
        return Relocked(ready, failed[0] if failed else None, bool(slow))

    def _keep_slow(self, leases: Iterable[Lease], begun: float) -> list[Lease]:
        """Give back the messages whose own lock time is about over since the claim began, and return them."""
        now = self._session.clock.monotonic()
        slow = [each for each in leases if now >= _until(each, begun)]
        if slow:
            if self._give_back(slow):
                self._give_back_later(slow)
            note = self._session.log.slow_claims.passes(now)
            if note is not None:
                _log.warning(
                    "a claim took about as long as the lock_time of %s s that a message has of its own, so that %s not emitted; "
                    "store such messages with a longer lock_time%s",
                    min(map(_own, slow)) / 1000,
                    counted(len(slow), "message was", "messages were"),
                    note,
                    extra=self._session.log.fields("slow_claim"),
                )
        return slow

    def _refused(
        self, writes: Mapping[Lease, Settlement], begun: float, failed: list[BackendUnavailable]
    ) -> set[Lease]:
        """Write the leases. Return those that are not to be handed out.

        :param failed: gets the error if the store did not answer.
        """
        try:
            applied = self._session.backend.settle(list(writes.values()))
        except BackendUnavailable as error:
            messages = counted(len(writes), "message", "messages")
            extra = self._session.log.fields("not_relocked")
            _log.debug("%s with lock times of their own are given back: %s", messages, error, extra=extra)
            if self._give_back(list(writes)):
                # The attempt of a claim of one counts until it is given back.
                self._give_back_later(writes)
            failed.append(error)
            return set(writes)
        except Exception as bug:  # noqa: BLE001 - a bug of the backend, with one of them perhaps; the others are handed out
            if len(writes) > 1:
                return {lost for each, write in writes.items() for lost in self._refused({each: write}, begun, failed)}
            (lease,) = writes
            self._report_bug(lease.id, bug, "leased for its own lock time")
            return {lease}
        # Those that were stored anew or removed since the claim are refused.
        refused = {each for each, done in zip(writes, applied, strict=True) if not done}
        # The store may have written these, or not. Else no handler would have them for the whole of a long lease.
        doubtful = [each for each, done in zip(writes, applied, strict=True) if done is None]
        if doubtful and self._give_back(doubtful):
            self._give_back_later(doubtful)
        for lease, write in writes.items():
            if lease not in refused:
                _note(lease, write, begun)
        return refused


def _own(lease: Lease) -> int:
    """Return the lock time of a message that has its own, in milliseconds."""
    policy = lease.emission.policy
    assert policy is not None, "it has a lock time"
    assert policy.lock_time is not None, "it has a lock time"
    return policy.lock_time


def _until(lease: Lease, begun: float) -> float:
    """Return until when the message may be handed out under a lease of its own length, by the monotonic clock."""
    return begun + _own(lease) / 1000 * (1 - LEAST_REMAINDER)


def _note(lease: Lease, write: Settlement, begun: float) -> None:
    """Note that a lease has its own length."""
    lease.emission = relocked(lease.emission, write)
    lease.lock_time = timedelta(milliseconds=_own(lease))
    lease.move_until(_until(lease, begun))
