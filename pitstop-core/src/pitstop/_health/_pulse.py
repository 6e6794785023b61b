"""Pulse: whether one loop of a consumer turns, found out by samples.

A sample compares the present turn with the one of the sample before. So no clock of the loop is read, a loop that sleeps on
purpose is never late, and the time in which the whole process was stopped hardly counts.

Threads: the attendant's thread samples; the thread of the loop that is watched writes its turns.
"""

from __future__ import annotations

from collections.abc import Callable


__all__ = ["Pulse"]

_NOTHING = object()


class Pulse:
    """One loop, as the samples show it."""

    def __init__(self, name: str, turn: Callable[[], object], limit: Callable[[], float]) -> None:
        """Return a pulse without a sample.

        :param name: the loop, for people.
        :param turn: return a value that changes with each turn of the loop. None: the loop sleeps, or has nothing to do.
        :param limit: return the seconds that one turn may take.
        """
        self._name = name
        self._turn = turn
        self._limit = limit
        self._last: object = _NOTHING
        self._still = 0.0

    def sample(self, seconds: float) -> None:
        """Look whether the loop has turned.

        :param seconds: the time since the sample before.
        """
        turn = self._turn()
        if turn is None or turn != self._last:
            self._last, self._still = turn, 0.0
        else:
            self._still += seconds

    def fault(self) -> str | None:
        """Return a line about a loop that has not turned for too long; None if it turns."""
        if not self._still or self._still <= self._limit():
            return None
        return f"{self._name} has not turned for {self._still:.0f} s"
