"""The one place at which the tools for tests look behind the public methods of a Pitstop."""

from __future__ import annotations

from pitstop._engine._session import Session
from pitstop._pitstop import Pitstop


__all__ = ["session_of"]


def session_of(pit: Pitstop) -> Session:
    """Return the session of a Pitstop: its backend, its clock, its hooks and its listeners."""
    return pit._session
