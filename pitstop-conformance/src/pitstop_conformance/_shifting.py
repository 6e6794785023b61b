"""A clock of this process that is wrong: the functions of the module ``time`` that tell the time of day, shifted."""

from __future__ import annotations

import time

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


__all__ = ["real_time_us", "shifted_clock"]

#: Taken before any shift.
_real_time_ns = time.time_ns
_real_time = time.time
_real_clock_gettime = getattr(time, "clock_gettime", None)
_real_clock_gettime_ns = getattr(time, "clock_gettime_ns", None)


def real_time_us() -> int:
    """Return microseconds since the epoch by the machine's clock, whatever is shifted."""
    return _real_time_ns() // 1000


@contextmanager
def shifted_clock(seconds: float) -> Iterator[None]:
    """Shift the time of day of this process, and leave its monotonic clocks alone."""
    nanoseconds = round(seconds * 1e9)
    changed: dict[str, Any] = {
        "time": lambda: _real_time() + seconds,
        "time_ns": lambda: _real_time_ns() + nanoseconds,
    }
    if _real_clock_gettime is not None and _real_clock_gettime_ns is not None:
        real, real_ns = _real_clock_gettime, _real_clock_gettime_ns
        changed["clock_gettime"] = lambda clock: real(clock) + seconds * (clock == time.CLOCK_REALTIME)
        changed["clock_gettime_ns"] = lambda clock: real_ns(clock) + nanoseconds * (clock == time.CLOCK_REALTIME)
    with mock.patch.multiple(time, **changed):
        yield
