"""The loops of a consumer that are watched: the threads of the engine, and the event loop.

A thread of the engine is at fault if it does not come back from the store. A store that is away answers every call with an error,
in a time that its backend bounds. So the limit is several times this bound. A worker in a handler is not watched: handlers may
take long.

Threads: the attendant's thread; the event loop calls ``_back``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from pitstop._engine._intake import Intake
from pitstop._health._pulse import Pulse


__all__ = ["engine_pulses", "loop_pulse"]

#: The most calls of the store that follow one another in one turn, times the runs of a write whose outcome is not known.
_CALLS = 8


class EventLoop(Protocol):
    """The part of an asyncio loop that is used here, so that programs without asyncio need not load it."""

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> object: ...


def engine_pulses(intakes: Callable[[], Sequence[Intake]], within: float) -> list[Pulse]:
    """Return the pulses of the threads that claim messages, and of those that write acks, of one ``consume``.

    :param intakes: return the intakes that are open now.
    """

    def limit() -> float:
        return within + _CALLS * max((_longest_call(each) for each in intakes()), default=0.0)

    return [
        Pulse("the thread that claims messages", lambda: _oldest(each.waiting.turn for each in intakes()), limit),
        Pulse("the thread that writes acks", lambda: _oldest(each.background.turn_now for each in intakes()), limit),
    ]


def _oldest(turns: Iterable[int | None]) -> int | None:
    """Return the turn that began first: turns are numbered, and each of them may be the one that does not end."""
    return min((each for each in turns if each is not None), default=None)


def _longest_call(intake: Intake) -> float:
    with intake.session.bounded() as seconds:
        return seconds


def loop_pulse(loop: EventLoop, within: float) -> Pulse:
    """Return the pulse of an event loop, which is asked to call a function at each sample."""
    return Pulse("the event loop", _Asked(loop).turn, lambda: within)


class _Asked:
    """Asks an event loop to turn. Never more than one call waits in the loop."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._turns = 0
        # Written by the loop's thread; reset before the loop is asked.
        self._came_back = True

    def turn(self) -> int | None:
        if self._came_back:
            self._came_back = False
            self._turns += 1
            try:
                self._loop.call_soon_threadsafe(self._back)
            except RuntimeError:
                # The loop is closed, and this consumer is about to end.
                self._came_back = True
                return None
        return self._turns

    def _back(self) -> None:
        self._came_back = True
