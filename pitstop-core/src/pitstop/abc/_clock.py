"""Clocks, and the bell that ends a wait: the only module that reads the time or sleeps."""

from __future__ import annotations

import time

from contextlib import suppress
from functools import partial
from threading import TIMEOUT_MAX, Lock
from typing import Protocol


__all__ = ["Clock", "Doorbell", "SystemClock"]


_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Doorbell:
    """Wakes one waiting thread. A ring while no thread waits is kept for the next wait.

    It is a lock that a ring releases and a wait takes, which is safe in signal handlers. ``threading.Event.set`` deadlocks
    when its signal interrupts the same event's lock. ``SimpleQueue.get`` of CPython 3.11 and 3.12 may wait without end
    despite its timeout, if a signal or a busy machine uses up the time before the wait begins.
    """

    def __init__(self) -> None:
        self._silence = Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """End the present or the next wait. Safe in any thread and in signal handlers."""
        if self._silence.locked():
            # Another thread may ring at the same moment. Both rings then count as one.
            with suppress(RuntimeError):
                self._silence.release()

    def wait(self, seconds: float | None) -> bool:
        """Block until a ring, or for ``seconds`` (None: without end). Return True if it was rung.

        A time that is longer than the system can wait at once (49 days on Windows) is cut to that. The caller checks and
        waits again.
        """
        return self._silence.acquire(timeout=-1 if seconds is None else min(max(seconds, 0.0), TIMEOUT_MAX))


class Clock(Protocol):
    """Gives the time, and waits by it. Thread-safe."""

    def time_us(self) -> int:
        """Return microseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment. The value never goes back."""
        ...

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        """Block until ``bell`` rings or ``seconds`` have passed by this clock. Return True if it was rung."""
        ...


class SystemClock:
    """This machine's clock."""

    def time_us(self) -> int:
        return time.time_ns() // 1000

    # A lease runs on while a machine is suspended. This clock has to run on, too; time.monotonic() on Linux does not. Not a
    # function of Python, because each claim asks several times.
    monotonic = staticmethod(time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME))

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        return bell.wait(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"
