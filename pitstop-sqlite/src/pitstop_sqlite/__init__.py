"""Pitstop on SQLite: durable, many processes on one file, no server."""

from __future__ import annotations

from pitstop_sqlite._backend import SqliteBackend
from pitstop_sqlite._config import SqliteConfig


__all__ = ["SqliteBackend", "SqliteConfig"]
