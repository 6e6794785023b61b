"""Glances: long waits by real time that are made of short ones.

Threads: any, and signal handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pitstop.abc import Doorbell


__all__ = ["glance", "wait_for_all"]

#: Seconds of one of the short waits that a long one is made of.
_GLANCE = 0.05


def glance(wait: Callable[[float], bool], seconds: float) -> None:
    """Wait for ``seconds`` in short waits, until ``wait`` returns True.

    While this process is stopped, hardly any of that time passes: the threads that are waited for did not have it either.
    """
    for _ in range(max(1, round(seconds / _GLANCE))):
        if wait(_GLANCE):
            return


def wait_for_all(bells: Iterable[Doorbell | None], seconds: float) -> None:
    """Wait until all of these have rung, for ``seconds`` in all. None stands for a bell that has rung."""
    left = [each for each in bells if each is not None]

    def have_rung(pause: float) -> bool:
        while left and left[-1].wait(pause):
            left.pop()
        return not left

    glance(have_rung, seconds)
