"""Wakeup: how the threads of a listener wake its background thread.

Threads: any, and any signal handler.
"""

from __future__ import annotations

from collections.abc import Callable

from pitstop.abc import Doorbell


__all__ = ["Wakeup"]


class Wakeup:
    """Wakes the background thread.

    Invariant: the thread is ``awake``, or there is nothing to do. A thread that brings something looks at ``awake`` after
    that. The background thread looks for something to do after it has reset ``awake``.
    """

    def __init__(self, start: Callable[[], bool]) -> None:
        """Return a wakeup of a thread that has not begun.

        :param start: begin the thread, if it has not begun. False: no thread can be started.
        """
        self._start = start
        self.bell = Doorbell()
        #: Set by any thread, reset by the background thread.
        self.awake = False
        #: Whether the next messages are wanted ahead. Set by any thread, reset by the thread that claims.
        self.wanted = False

    def wake(self) -> bool:
        """Have the thread look for something to do. Cheap when it is awake. Return False if no thread can be started."""
        if self.awake:
            return True
        self.awake = True
        if not self._start():
            self.awake = False
            return False
        self.bell.ring()
        return True

    def want(self) -> None:
        """Have the thread claim the next messages now."""
        self.wanted = True
        self.wake()
        self.bell.ring()

    def after_fork(self) -> None:
        """Forget the thread: it is the parent's."""
        self.bell, self.awake, self.wanted = Doorbell(), False, False
