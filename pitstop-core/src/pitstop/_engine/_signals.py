"""Ctrl-C and the like: noted once for each time that somebody asked, and handed back to whom they belong."""

from __future__ import annotations

import signal
import threading

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pitstop.abc import SystemClock


__all__ = ["ENDING", "Urgency", "catching", "disposition", "is_hangup"]

#: Signals at which a program that handles messages comes to its end in good order, where there are such.
ENDING = ("SIGINT", "SIGTERM", "SIGHUP")

#: Seconds in which a second signal is the first one once more: whoever starts programs may pass Ctrl-C on to one that
#: has got it from the terminal already.
_ECHO = 0.5


class Urgency:
    """How often the user has asked us to end."""

    def __init__(self) -> None:
        self.asked = 0
        self._clock = SystemClock()
        self._last = float("-inf")

    def ask(self) -> bool:
        """Note a signal. False when it is the echo of the one before."""
        now = self._clock.monotonic()
        if now - self._last < _ECHO:
            return False
        self._last = now
        self.asked += 1
        return True


def is_hangup(number: int) -> bool:
    """Whether this is SIGHUP. A terminal that is closed may send it more than once; nobody sits there and is impatient."""
    return number == getattr(signal, "SIGHUP", None)


def disposition(name: str) -> tuple[int, Any] | None:
    """Return the number of a signal and the Python handler that it has; None if the signal is to be left alone.

    Left alone are signals that this system has not got, signals that are ignored, and signals whose handler was installed by
    code in C. A shell ignores SIGINT for ``command &`` in a script, and nohup ignores SIGHUP: the user who started the program
    wants them to stay ignored. A handler of C code could not be put back.

    :param name: such as ``"SIGTERM"``.
    """
    number = getattr(signal, name, None)
    if number is None:
        return None
    handler = signal.getsignal(number)
    return None if handler is None or handler is signal.SIG_IGN else (number, handler)


@contextmanager
def catching(names: Iterable[str], handle: Callable[[int], None]) -> Iterator[None]:
    """Have ``handle`` called with the number of each signal of these names; then put back what was called before.

    In another thread than the main one there are none, and nothing is done.

    :param names: such as ``"SIGTERM"``. Those that :func:`disposition` leaves alone are left out.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in names:
            if (found := disposition(name)) is not None:
                number, before[number] = found
                signal.signal(number, lambda number, _: handle(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
