"""Watching: a command that looks at the store again and again, until Ctrl-C or a signal, or until its reader goes away."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pitstop import BackendUnavailable
from pitstop._consume._signals import ENDING, catching
from pitstop.abc import Doorbell, SystemClock
from pitstop.cli._output import warn
from pitstop.cli._pipe import when_stdout_closes


__all__ = ["watching"]

#: How many times as long as the last look the next pause is, at least. So the store is busy with looks for a tenth of the time at most.
_REST = 9


def watching(look: Callable[[], None], interval: timedelta) -> None:
    """Call ``look`` now and after each interval. Return after a signal, or when the reader of stdout has gone.

    While the store is away, the looks go on, and one line on stderr says so.

    :param look: asks the store, and prints.
    :param interval: the time from the end of a look to the begin of the next one. After a long look it is longer.
    :raises BackendUnavailable: if the first look fails.
    """
    clock, bell = SystemClock(), Doorbell()
    ended: list[int] = []

    def end(number: int = 0) -> None:
        ended.append(number)
        bell.ring()

    answered = told = False
    with catching(ENDING, end), when_stdout_closes(end):
        while not ended:
            began = clock.monotonic()
            try:
                look()
            except BackendUnavailable as error:
                if not answered:
                    raise
                if not told:
                    warn(f"The store does not answer: {error} The watch goes on.")
                told = True
            else:
                if told:
                    warn("The store answers again.")
                answered, told = True, False
            if not ended:
                bell.wait(max(interval.total_seconds(), _REST * (clock.monotonic() - began)))
