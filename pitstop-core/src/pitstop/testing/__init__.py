"""Tools for tests: a clock in the hand, and the suite that a backend has to pass."""

from __future__ import annotations

from pitstop.testing._clock import ManualClock


__all__ = ["ManualClock"]
