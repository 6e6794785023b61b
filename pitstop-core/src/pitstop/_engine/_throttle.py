"""Throttle: a rate at which messages are claimed, shared by the listeners of one ``consume`` or of one kind. No I/O.

Messages count when they are claimed for a handler, retries included. The others stay in the store, without a lease, where other
consumers may take them.

Threads: any. Claiming threads call ``admit`` and ``settle``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock

from pitstop._decisions._spacing import Spacing
from pitstop._values._rate import Rate


__all__ = ["Throttle", "admitted", "pause_of", "settle"]


class Throttle:
    """One rate."""

    def __init__(self, rate: Rate) -> None:
        """Return a throttle that has let nothing through."""
        # Under the lock.
        self._spacing = Spacing(rate)
        # Under the lock: wake the threads that were refused while others had the messages that they may not need.
        self._refused: list[Callable[[], object]] = []
        # Reentrant: for signal handlers.
        self._lock = RLock()

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = RLock()
        self._refused = []

    def admit(self, most: int, now_us: int, wake: Callable[[], object], at_once: int = 1) -> int:
        """Count messages that are about to be claimed. Return how many: at most ``most``, and 0 if the time has not come.

        :param wake: called if fewer than that come, and this has refused the caller meanwhile.
        :param at_once: how many messages a handler gets at most at a time. The time has come for all of them when it has come for
            the first. The next message waits for as long as all of them take.
        """
        with self._lock:
            allowed = self._spacing.allowed(now_us)
            admitted = min(most, max(allowed, at_once)) if allowed else 0
            if admitted:
                self._spacing = self._spacing.after(admitted, now_us)
            elif wake not in self._refused:
                self._refused.append(wake)
            return admitted

    def settle(self, unused: int) -> None:
        """Note how many of the messages that were counted are not handed out; if negative, how many more are."""
        if not unused:
            return
        with self._lock:
            self._spacing = self._spacing.without(unused)
            refused: list[Callable[[], object]] = []
            if unused > 0:
                refused, self._refused = self._refused, []
        for each in refused:
            each()

    def pause(self, now_us: int) -> int:
        """Return the microseconds until a message may be claimed; 0: now."""
        with self._lock:
            return self._spacing.pause(now_us)


def admitted(
    throttles: Sequence[Throttle], most: int, now_us: int, wake: Callable[[], object], at_once: int = 1
) -> int:
    """Return how many messages all throttles admit: see :meth:`Throttle.admit`. Each has counted that number."""
    for number, throttle in enumerate(throttles):
        fewer = throttle.admit(most, now_us, wake, at_once)
        if fewer < most:
            for before in throttles[:number]:
                before.settle(most - fewer)
            most = fewer
        if not most:
            break
    return most


def settle(throttles: Sequence[Throttle], unused: int) -> None:
    """Note of all throttles how many messages that were counted are not handed out: see :meth:`Throttle.settle`."""
    for throttle in throttles:
        throttle.settle(unused)


def pause_of(throttles: Sequence[Throttle], now_us: int) -> int:
    """Return the microseconds until all throttles admit a message; 0: now."""
    return max(throttle.pause(now_us) for throttle in throttles)
