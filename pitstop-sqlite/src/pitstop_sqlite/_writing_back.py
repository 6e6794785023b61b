"""Write the log back to the file: one connection at a time, and only right after a commit of its own.

SQLite before 3.51.3 (3.50.7 and 3.44.6 in their series) may lose commits and damage the file in one situation: a connection
begins to write back a log that *is* written back already, and another connection begins the log anew in that moment
(https://sqlite.org/wal.html#walresetbug). SQLite's own way, a checkpoint after each commit, comes into that situation when two
connections commit at about the same time. Here a connection first takes a lock that all processes of Pitstop heed, then commits
something, then writes the log back. Its own commit is not written back yet, so the log cannot begin anew before the connection is
done.

The log begins anew only if it is wholly written back and no reader needs it. While other processes commit all the time, the
first pass leaves their latest commits unwritten. So a second, short pass keeps other writers out and waits for readers.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct

from pitstop_sqlite._descriptors import SharedFile
from pitstop_sqlite._patience import PatientConnection


__all__ = ["WritingBack", "has_reset_bug"]

#: The byte of the log's index that the connection locks whose turn it is. It lies beyond all bytes that SQLite uses.
_TURN = 1 << 40
#: The index's header: https://www.sqlite.org/walformat.html#the_wal_index_file_format
_HEADER = 100
_FORMAT = 3007000
_FRAMES_AT, _WRITTEN_BACK_AT = 16, 96
_NUMBER = struct.Struct("=I")
#: The index is read after each eighth commit: a read costs a microsecond.
_LOOK = 8
#: If readers hold up the writing, the next try comes after the log has grown by this fraction of its usual length.
_AGAIN = 8
#: Seconds to wait for other writers. The caller's own commit is done already, and the caller waits for this.
_PATIENCE = 0.1
#: Milliseconds that the second pass waits for writers, and again for readers. Other writers wait meanwhile.
_READERS_PATIENCE = 50

_COMMIT_SOMETHING = (
    "INSERT INTO pitstop_meta (key, value) VALUES ('log_written_back', '1') "
    "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
)


def has_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether SQLite of this version has the bug that this module avoids."""
    return version < (3, 51, 3) and not (3, 50, 7) <= version < (3, 51) and not (3, 44, 6) <= version < (3, 45)


class WritingBack:
    """Decides when a connection writes the log back. The connection must write nothing back by itself.

    :param index: the log's index.
    :param frames: how many pages the log has before it is written back.
    """

    def __init__(self, index: SharedFile, frames: int) -> None:
        self._index = index
        self._frames = frames
        # How many pages must be waiting before the next try.
        self._next = frames
        # The first commit counts as the eighth, because a program may open the file anew for each commit.
        self._commits = _LOOK - 1

    @classmethod
    def knows(cls, index: SharedFile) -> bool:
        """Whether the index has the only format that this module knows."""
        header = index.read(_HEADER, 0)
        return len(header) == _HEADER and _NUMBER.unpack_from(header)[0] == _FORMAT

    def after_commit(self, connection: PatientConnection) -> None:
        """Write the log back if it is long and no other connection is about to do so. After an error of SQLite's, try later."""
        self._commits += 1
        if self._commits % _LOOK:
            return
        pages, left = self._look()
        if left < self._next:
            if pages < self._frames:
                # The log has begun anew.
                self._next = self._frames
            return
        try:
            if self._index.take(self, _TURN):
                _write_back(connection)
                pages, left = self._look()
                # Else a reader that began long ago is in the way.
                if left <= self._frames // 2 and (left or pages >= 2 * self._frames):
                    _write_back_the_rest(connection)
                    pages, left = self._look()
        finally:
            self._index.give_up(_TURN, owner=self)
        self._next = left + self._frames // _AGAIN if left else self._frames

    def _look(self) -> tuple[int, int]:
        """Return how many pages the log has, and how many of them are not written back."""
        header = self._index.read(_HEADER, 0)
        if len(header) < _HEADER:
            return 0, 0
        pages: int = _NUMBER.unpack_from(header, _FRAMES_AT)[0]
        return pages, pages - _NUMBER.unpack_from(header, _WRITTEN_BACK_AT)[0]


def _write_back(connection: PatientConnection) -> None:
    patience, connection.patience = connection.patience, min(connection.patience, _PATIENCE)
    try:
        with contextlib.suppress(sqlite3.Error):
            try:
                connection.execute("PRAGMA wal_autocheckpoint = 1")
                connection.execute(_COMMIT_SOMETHING)
            finally:
                connection.execute("PRAGMA wal_autocheckpoint = 0")
    finally:
        connection.patience = patience


def _write_back_the_rest(connection: PatientConnection) -> None:
    patience, connection.patience = connection.patience, min(connection.patience, _PATIENCE)
    try:
        with contextlib.suppress(sqlite3.Error):
            # The same commit as before: without the lock of the writers, SQLite would go on regardless.
            connection.execute(_COMMIT_SOMETHING)
            try:
                connection.execute(f"PRAGMA busy_timeout = {_READERS_PATIENCE}")
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            finally:
                connection.execute("PRAGMA busy_timeout = 0")
    finally:
        connection.patience = patience
