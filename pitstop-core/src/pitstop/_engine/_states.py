"""The purposes and the states of a settlement: see :mod:`pitstop._engine._lease`.

Threads: none.
"""

from __future__ import annotations

from enum import Enum


__all__ = ["Purpose", "State"]


class Purpose(Enum):
    """The purpose of a settlement; the value is the participle that errors use."""

    ACK = "acknowledged"
    NACK = "nacked"
    #: The handler was interrupted by no fault of the message, which is due again at once.
    GIVE_BACK = "given back"


class State(Enum):
    """How far the settlement of a lease has come."""

    #: No settlement is under way.
    HELD = "held"
    #: The settlement waits to be written.
    ASKED = "asked"
    #: The settlement is being written.
    SENT = "sent"
    #: The store has it.
    DONE = "done"
    #: The lease was over before. Nothing was changed.
    LOST = "lost"
    #: As LOST, because the handler itself stored or removed the message.
    SUPERSEDED = "superseded"
    #: The store may have done it. That cannot be found out any more.
    UNKNOWN = "unknown"
    #: The settlement cannot be worked out, or it was not written before the Pitstop was closed.
    FAILED = "failed"
