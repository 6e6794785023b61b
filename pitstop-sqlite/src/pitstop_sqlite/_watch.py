"""Notice the commits of other connections."""

from __future__ import annotations

from pitstop.abc import Watch
from pitstop_sqlite._database import Database
from pitstop_sqlite._pauses import CHANGES


__all__ = ["SqliteWatch"]

_VERSION = "PRAGMA data_version"


class SqliteWatch(Watch):
    """Reads ``PRAGMA data_version``, which changes when another connection has committed, and only then.

    The watch shares the backend's connection. So the backend's own writes wake no listener a second time, and no further
    connection is open.
    """

    #: One poll costs some microseconds.
    pause: float = 0.02

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.turn.lock, database.turn.call(), database as connection:
            (version,) = connection.execute(_VERSION).fetchone()
            (self._pauses,) = connection.execute(CHANGES).fetchone()
            # Each connection counts by itself. After a fork another connection may have come to the same number.
            self._seen = (database.opened, version)

    def poll(self) -> int | None:
        self.paused = False
        version = self._database.glance(_VERSION)
        # None: the connection is in use, and perhaps waits for a lock of others. The next poll comes soon.
        if version is None or (seen := (self._database.opened, version)) == self._seen:
            return None
        self._seen = seen
        pauses = self._database.glance(CHANGES)
        # None: it is not known.
        self.paused = pauses != self._pauses
        self._pauses = pauses
        # Only the fact of a commit is known, not its content.
        return 0

    def close(self) -> None:
        """Do nothing: the watch holds no resources."""
