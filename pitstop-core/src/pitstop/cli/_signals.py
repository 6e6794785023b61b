"""Ctrl-C, SIGTERM and SIGHUP while listening: end in good order, and sooner at a second signal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pitstop import Listener
from pitstop._consume import _signals


__all__ = ["Urgency", "draining"]


class Urgency(_signals.Urgency):
    """How often the user has asked us to end, and which commands are running."""

    def __init__(self) -> None:
        super().__init__()
        #: One object for each command that runs or begins. :mod:`pitstop.cli._command` ends the commands.
        self.commanding: set[object] = set()
        #: Whether the user has read that we wait for them.
        self.told = False

    def ask(self) -> bool:
        """Note a signal. Return False if it is the echo of the one before.

        :raises KeyboardInterrupt: at the second signal, if no command is running that could be ended instead.
        """
        noted = super().ask()
        if noted and self.asked > 1 and not self.commanding:
            raise KeyboardInterrupt
        return noted


@contextmanager
def draining(listener: Listener) -> Iterator[Urgency]:
    """Stop ``listener`` at a signal. Outside of the main thread there are no signals, so nothing is done there."""
    urgency = Urgency()

    def handle(number: int) -> None:
        listener.stop()
        if not _signals.is_hangup(number):
            urgency.ask()

    with _signals.catching(_signals.ENDING, handle):
        yield urgency
