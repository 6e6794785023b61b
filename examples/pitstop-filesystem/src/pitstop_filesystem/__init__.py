"""Pitstop in a folder: one file per message, several processes, no server. POSIX only (it locks with ``flock``)."""

from __future__ import annotations

from pitstop_filesystem._backend import FilesystemBackend
from pitstop_filesystem._config import FilesystemConfig


__all__ = ["FilesystemBackend", "FilesystemConfig"]
