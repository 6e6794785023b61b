"""HandledSuspects: the suspects that handlers have, of all listeners of one session. No I/O.

A crash ends the leases of all of them, whichever listener has claimed them. So the listeners take their suspects in one order.

Threads: those that call :class:`pitstop._engine._suspects.Suspects`; `after_fork` runs in the child of a fork.
"""

from __future__ import annotations

from threading import RLock
from typing import NamedTuple
from weakref import ref

from pitstop._engine._lease import Lease


__all__ = ["Handled", "HandledSuspects"]


class Handled(NamedTuple):
    """A suspect that a handler has, or will have when its attempt is certain.

    The reference is weak: a dropped delivery must not keep the others waiting.
    """

    lease: ref[Lease]
    #: The listener's suspects, which this one was among.
    owner: object
    #: Whether no other suspect is handled as long as this one is.
    alone: bool
    #: Whether the message dies after a number of attempts.
    limited: bool


class HandledSuspects:
    """The suspects that handlers have. All fields are written under :attr:`lock`."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Forget all: the handlers are the parent's. So may be the thread that holds the lock."""
        # Reentrant: for signal handlers.
        self.lock = RLock()
        #: Replaced, never changed: any thread reads it.
        self.entries: tuple[Handled, ...] = ()
        #: When a suspect was last taken, by the monotonic clock.
        self.taken_at = float("-inf")

    def add(self, handled: Handled, now: float) -> None:
        """Note that a handler gets a suspect now. It is noted once."""
        with self.lock:
            others = [each for each in self.entries if each.lease != handled.lease]
            self.entries, self.taken_at = (*others, handled), now

    def end(self, lease: Lease) -> None:
        """Note that no handler has this suspect."""
        with self.lock:
            self.entries = tuple([each for each in self.entries if each.lease() is not lease])

    def end_all(self, owner: object) -> None:
        """Note that no handler has a suspect of this owner."""
        if self.entries:
            with self.lock:
                self.entries = tuple([each for each in self.entries if each.owner is not owner])

    def forget_ended(self, now_us: int | None) -> None:
        """Forget those that a crash would not harm any more.

        :param now_us: the store's time. None: no lease has run out since the last call.
        """
        if self.entries:
            with self.lock:
                self.entries = tuple([each for each in self.entries if _is_handled(each.lease(), now_us)])


def _is_handled(lease: Lease | None, now_us: int | None) -> bool:
    """Whether a crash would still end the lease of this suspect without a settlement."""
    if lease is None or (now_us is not None and lease.is_over(now_us)):
        return False
    return not lease.is_settling or not lease.known
