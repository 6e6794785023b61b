"""Attending: the attendants of this process, and how a consumer joins one. Consumers that give one place share its attendant.

Threads: any; signal handlers may begin a ``consume``.
"""

from __future__ import annotations

import os

from collections.abc import Callable, Sequence
from threading import RLock

from pitstop._health._attendant import Attendant, Member
from pitstop._health._place import Place
from pitstop._health._pulse import Pulse


__all__ = ["Attendance", "attend"]


class Attendance:
    """A consumer shows its health, until :meth:`end`."""

    def __init__(self, attendant: Attendant, member: Member) -> None:
        self._attendant = attendant
        self._member = member
        #: The place, with the port that was chosen.
        self.text = attendant.text

    def end(self) -> None:
        """Show it no more. The last consumer of a place closes it. Again is harmless."""
        _attendants.leave(self._attendant, self._member)


class _Attendants:
    """All attendants of this process."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        # Held while a place is opened or closed. Reentrant: for signal handlers.
        self._lock = RLock()
        self._open: list[tuple[str | None, Attendant]] = []

    def join(self, place: Place, member: Member) -> Attendant:
        with self._lock:
            name = place.shared_as
            for other, attendant in self._open:
                if other == name and name is not None:
                    attendant.join(member)
                    return attendant
            attendant = Attendant(place)
            attendant.join(member)
            attendant.start()
            self._open.append((name, attendant))
            return attendant

    def leave(self, attendant: Attendant, member: Member) -> None:
        with self._lock:
            if attendant.leave(member):
                return
            self._open = [each for each in self._open if each[1] is not attendant]
            # With the lock: the next consumer of the place opens it after that.
            attendant.close()

    def after_fork(self) -> None:
        """In the child of a fork: the consumers, the thread and the place are the parent's."""
        attendants = [each for _, each in self._open]
        # A thread of the parent may hold the lock.
        self._reset()
        for each in attendants:
            each.after_fork()


_attendants = _Attendants()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_attendants.after_fork)


def attend(place: Place, pulses: Sequence[Pulse], ping: Callable[[], object]) -> Attendance:
    """Show the health of a consumer.

    :param pulses: its loops.
    :param ping: ask its store, in a bounded time; raises if the store cannot be used.
    :raises ConfigError: if the place is taken, or cannot be used.
    :raises PitstopError: if the system gives no thread.
    """
    member = Member(pulses, ping, place.within)
    return Attendance(_attendants.join(place, member), member)
