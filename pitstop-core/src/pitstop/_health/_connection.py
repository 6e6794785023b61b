"""Connection: one probe that is connected. It reads and writes as far as that goes without waiting.

Threads: the attendant's thread.
"""

from __future__ import annotations

import socket

from collections.abc import Sequence
from enum import Enum, auto

from pitstop._health._http import LONGEST_HEAD, Request, is_whole
from pitstop._health._ready import Readiness


__all__ = ["Connection", "Phase"]

#: Seconds that a connection has in all, from its begin to its end. A client that is slower is cut off.
_TIME = 5.0
#: Seconds for which the rest of a request is read after the answer. A close before that could destroy the answer on its way.
_LINGER = 1.0


class Phase(Enum):
    """How far a connection is."""

    READS = auto()
    #: The store is being asked.
    WAITS = auto()
    WRITES = auto()
    #: The answer is sent, and the client is to close.
    LINGERS = auto()
    OVER = auto()


class Connection:
    """A probe that is connected."""

    def __init__(self, stream: socket.socket, now: float) -> None:
        #: The socket. It does not block.
        self.socket = stream
        self.phase = Phase.READS
        #: When the connection is cut off, by the monotonic clock.
        self.ends = now + _TIME
        #: Until when an answer about the store is waited for.
        self.waits_until = 0.0
        #: The stores that are asked for the answer.
        self.asked: Sequence[Readiness] = ()
        #: Whether the answer has content.
        self.content = True
        self._read = b""
        self._left = b""

    @property
    def acts_at(self) -> float:
        """When there is something to do by the clock, by the monotonic one."""
        return min(self.ends, self.waits_until) if self.phase is Phase.WAITS else self.ends

    def read(self) -> Request | None:
        """Read what has come. Return the request, once it is whole."""
        try:
            data = self.socket.recv(LONGEST_HEAD)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.close()
            return None
        if self.phase is not Phase.READS:
            return None
        self._read += data
        if not is_whole(self._read) and len(self._read) < LONGEST_HEAD:
            return None
        return Request(self._read)

    def answer(self, content: bytes, now: float) -> None:
        """Send an answer, and let the connection end after it."""
        self.phase, self._left = Phase.WRITES, content
        self.write(now)

    def write(self, now: float) -> None:
        """Send what is left of the answer, as far as the system takes it."""
        try:
            self._left = self._left[self.socket.send(self._left) :]
            if not self._left:
                self.socket.shutdown(socket.SHUT_WR)
                self.phase, self.ends = Phase.LINGERS, min(self.ends, now + _LINGER)
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the socket. The caller removes the connection."""
        self.phase = Phase.OVER
        self.socket.close()
