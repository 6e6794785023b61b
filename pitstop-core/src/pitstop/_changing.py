"""Changing: the methods of the facade that change a stored message in place, under its id.

Threads: the one that calls.
"""

from __future__ import annotations

from pitstop._decisions._settle import redrive
from pitstop._engine._calls import entrance
from pitstop._engine._session import Session
from pitstop._errors import MessageError
from pitstop._values._id import valid_id
from pitstop.abc import Damaged


__all__ = ["Changing"]


class Changing:
    """A part of :class:`pitstop.Pitstop`."""

    _session: Session

    @entrance
    def redrive(self, id: str) -> bool:
        """Make a dead message due now, and count its attempts from zero. Return True if it was dead.

        :raises MessageError: if ``id`` cannot be an id, or the stored document is damaged.
        """
        backend, id = self._session.backend, valid_id(id)
        stored = backend.get(id)
        if isinstance(stored, Damaged):
            raise MessageError(f"{id!r} cannot be redriven. {stored.error}")
        if stored is None or stored.progress.due is not None or stored.progress.token is None:
            return False
        (applied,) = backend.settle([redrive(stored, backend.now() // 1000)])
        self._session.written(None)
        return applied
