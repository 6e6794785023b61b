"""Noticing what other connections commit."""

from __future__ import annotations

from pitstop.abc import Watch
from pitstop_sqlite._database import Database


__all__ = ["SqliteWatch"]

_VERSION = "PRAGMA data_version"


class SqliteWatch(Watch):
    """Looks at ``PRAGMA data_version``, which moves when another connection has committed, and only then.

    It shares the backend's connection: so what the backend itself writes wakes nobody twice, and nothing more is open.
    """

    #: One look costs some microseconds.
    pause: float = 0.02

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.turn.lock, database.turn.call(), database as connection:
            (version,) = connection.execute(_VERSION).fetchone()
            # Each connection counts for itself: after a fork another one may have come to the same number.
            self._seen = (database.opened, version)

    def poll(self) -> int | None:
        version = self._database.glance(_VERSION)
        # None: the connection is in use, perhaps waits for somebody's lock. There is another look soon.
        if version is None or (seen := (self._database.opened, version)) == self._seen:
            return None
        self._seen = seen
        # That something was committed is all that there is to know.
        return 0

    def close(self) -> None:
        """There is nothing to give back."""
