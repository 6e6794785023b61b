"""Settlements that another thread writes, while this one has a transaction of the user.

A write in this thread could wait for the end of that transaction, and so for itself.

Threads: the one that calls.
"""

from __future__ import annotations

from collections.abc import Collection

from pitstop._engine._wakeup import Wakeup
from pitstop._engine._writer import AckWriter
from pitstop.abc import Doorbell


__all__ = ["written_aside"]

#: How often to look, and seconds between two looks. The background thread writes within 20 ms.
_LOOKS, _PAUSE = 40, 0.005


def written_aside(writer: AckWriter, wakeup: Wakeup, ids: Collection[str]) -> bool:
    """Let the background thread write the settlements of these messages, and wait a moment. Return whether none is pending."""
    bell = Doorbell()
    for _ in range(_LOOKS):
        if not writer.concerns(ids):
            return True
        wakeup.wake()
        bell.wait(_PAUSE)
    return not writer.concerns(ids)
