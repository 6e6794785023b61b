"""Hints: the notifications by which listeners of other processes wake up for a record that is due soon.

A notification takes a lock of the whole server when its transaction commits. So a record that is due later than the listeners
look anyway has none. The payload is ``<writer>:<due>``, or ``<writer>:paused``.
"""

from __future__ import annotations

import os

from collections.abc import Iterable
from datetime import timedelta

from pitstop import BackendUnavailable
from pitstop_postgres._database import Database


__all__ = ["PAUSED", "Hints"]

#: Other listeners look again within this multiple of their ``loop_time``, which is assumed to equal ours.
_LONGEST_PAUSE = 1.5
PAUSED = "paused"


class Hints:
    """Writes the payloads of one handle, and reads those of others."""

    def __init__(self, database: Database, loop_time: timedelta, *, muted: bool = False) -> None:
        """Make the hints of a handle.

        :param muted: whether there are none, because no other process uses the tables.
        """
        self._database = database
        self._horizon = int(loop_time / timedelta(milliseconds=1) * _LONGEST_PAUSE)
        self._muted = muted
        self._me, self._owner = os.urandom(6).hex(), os.getpid()

    @property
    def channel(self) -> str:
        """The channel of the notifications."""
        return self._database.names.channel

    def of_records(self, dues: Iterable[int | None]) -> str | None:
        """Return the payload for records with these ``due``; None if no listener needs it."""
        due = min((each for each in dues if each is not None), default=None)
        if due is None or self._muted:
            return None
        try:
            soon = due < self._database.now_us() // 1000 + self._horizon
        except BackendUnavailable:
            # The write will fail, or not. It is only a hint.
            soon = True
        return f"{self._name()}:{due}" if soon else None

    def of_pauses(self) -> str:
        """Return the payload after a change of the paused kinds."""
        return f"{self._name()}:{PAUSED}"

    def heard(self, payload: str) -> str | None:
        """Return what another writer says; None for a hint of this handle."""
        writer, _, text = payload.partition(":")
        return None if writer == self._name() else text

    def _name(self) -> str:
        if self._owner != os.getpid():
            self._me, self._owner = os.urandom(6).hex(), os.getpid()
        return self._me
