"""Pitstop in memory: for tests, and for messages that may die with the process."""

from __future__ import annotations

from pitstop_memory._backend import MemoryBackend
from pitstop_memory._config import MemoryConfig


__all__ = ["MemoryBackend", "MemoryConfig"]
