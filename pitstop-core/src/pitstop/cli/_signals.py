"""Ctrl-C, SIGTERM and SIGHUP while listening: end in good order, and sooner when asked again."""

from __future__ import annotations

import signal
import threading

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pitstop import Listener
from pitstop.abc import SystemClock


__all__ = ["Urgency", "draining"]

#: Seconds in which a second signal is the first one once more: whoever starts programs may pass Ctrl-C on to one that
#: has got it from the terminal already.
_ECHO = 0.5


class Urgency:
    """How often the user has asked us to end."""

    def __init__(self) -> None:
        self.asked = 0
        #: A command is running: it is for :mod:`pitstop.cli._command` to hurry it up.
        self.commanding = False
        self._clock = SystemClock()
        self._last = float("-inf")

    def ask(self) -> None:
        """Note a signal.

        :raises KeyboardInterrupt: at the second one, when no command is running that could be ended instead.
        """
        now = self._clock.monotonic()
        if now - self._last < _ECHO:
            return
        self._last = now
        self.asked += 1
        if self.asked > 1 and not self.commanding:
            raise KeyboardInterrupt


@contextmanager
def draining(listener: Listener) -> Iterator[Urgency]:
    """Stop ``listener`` at a signal. In another thread than the main one there are none, and nothing is done."""
    urgency = Urgency()

    def handle(number: int, _: FrameType | None) -> None:
        listener.stop()
        if number != getattr(signal, "SIGHUP", None):
            # A terminal that is closed may send SIGHUP more than once; nobody sits there and is impatient.
            urgency.ask()

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # Under nohup SIGHUP is ignored, and is to stay so.
            if number is not None and (name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN):
                before[number] = signal.signal(number, handle)
    try:
        yield urgency
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
