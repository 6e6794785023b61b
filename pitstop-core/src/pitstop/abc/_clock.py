"""Clocks, and the bell that ends a wait: the only module that reads the time or sleeps."""

from __future__ import annotations

import time

from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX
from typing import Protocol


__all__ = ["Clock", "Doorbell", "SystemClock"]


_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Doorbell:
    """Wakes one waiting thread; a ring with nobody waiting is kept for the next wait.

    Made of a ``SimpleQueue`` because its ``put`` is reentrant: ``threading.Event.set`` in a signal handler deadlocks
    when the signal interrupts the same event's lock. https://docs.python.org/3/library/queue.html#simplequeue-objects
    """

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """End the present or the next wait. Safe in any thread and in signal handlers."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, seconds: float | None) -> bool:
        """Block until a ring, or for ``seconds`` (None: without end). True when it was rung.

        More seconds than the system can wait at once, 49 days on Windows, are cut to that: who waits looks again.
        """
        try:
            self._rings.get(timeout=None if seconds is None else min(max(seconds, 0.0), TIMEOUT_MAX))
        except Empty:
            return False
        return True


class Clock(Protocol):
    """What tells the time, and waits by it. Thread-safe."""

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        """Block until ``bell`` rings or ``seconds`` have passed by this clock. True when it was rung."""
        ...


class SystemClock:
    """This machine's clock."""

    def time_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        # A lease goes on while a machine is suspended, so this has to go on, too; time.monotonic() on Linux does not.
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        return bell.wait(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"
