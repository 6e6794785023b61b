"""LockTimes: gives messages that ask for a lease of another length that length, after the claim and before a handler gets one.

Threads: the claiming thread.
"""

from __future__ import annotations

import logging

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

import attrs

from pitstop._engine._lease import Lease
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable
from pitstop._values._counted import counted
from pitstop.abc import Progress, Settlement


__all__ = ["LEAST_REMAINDER", "LockTimes"]

_log = logging.getLogger("pitstop.listener")

#: A claimed message is handed out only while this part of its lease is left; else it is given back.
LEAST_REMAINDER = 0.1


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

    def write(self, leases: list[Lease], writes: Mapping[Lease, Settlement], begun: float) -> list[Lease]:
        """Write the leases of another length. Return the leases that may be handed out.

        A process that dies before this write leaves the listener's length, and no handler has had the message.

        :param leases: all leases of a claim.
        :param writes: the write for each lease of another length.
        :param begun: when the claim began, by the monotonic clock.
        """
        try:
            refused = self._refused(writes, begun)
        except BaseException:
            # For example Ctrl-C. No handler has a message of this claim.
            self._give_back_later(leases)
            raise
        return [each for each in leases if each not in refused] if refused else leases

    def _refused(self, writes: Mapping[Lease, Settlement], begun: float) -> set[Lease]:
        """Write them. Return the leases that are not to be handed out."""
        try:
            applied = self._session.backend.settle(list(writes.values()))
        except BackendUnavailable as error:
            messages = counted(len(writes), "message", "messages")
            _log.debug("%s with lock times of their own are given back: %s", messages, error)
            if self._give_back(list(writes)):
                # The attempt of a claim of one counts until it is given back.
                self._give_back_later(writes)
            return set(writes)
        except Exception as bug:  # noqa: BLE001 - a bug of the backend, with one of them perhaps; the others are handed out
            if len(writes) > 1:
                return {lost for each, write in writes.items() for lost in self._refused({each: write}, begun)}
            (lease,) = writes
            self._report_bug(lease.id, bug, "leased for its own lock time")
            return {lease}
        # Those that were stored anew or removed since the claim are refused.
        refused = {each for each, done in zip(writes, applied, strict=True) if not done}
        for lease, write in writes.items():
            if lease not in refused:
                _note(lease, write, begun)
        return refused


def _note(lease: Lease, write: Settlement, begun: float) -> None:
    """Note that a lease has its own length."""
    policy = lease.emission.policy
    assert isinstance(write.progress, Progress), "an extension writes progress"
    assert policy is not None, "it has a lock time"
    assert policy.lock_time is not None, "it has a lock time"
    leased = attrs.evolve(lease.emission.leased, progress=write.progress)
    lease.emission = attrs.evolve(lease.emission, leased=leased)
    lease.lock_time = timedelta(milliseconds=policy.lock_time)
    lease.move_until(begun + policy.lock_time / 1000 * (1 - LEAST_REMAINDER))
