"""The journal of finished work. It keeps mails from going out twice, and the monthly report counts its rows."""

from __future__ import annotations

import sqlite3

from datetime import datetime
from pathlib import Path


class Journal:
    """A table of the application's own, with one row for each finished piece of work."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        # There are no transactions: each row is written when `note` returns. A worker's thread uses the connection while the
        # main thread waits for its end.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, what TEXT NOT NULL, at REAL NOT NULL)")

    def note(self, key: str, what: str, at: datetime) -> None:
        """Note that this was done. To note it again changes nothing."""
        self._db.execute("INSERT OR IGNORE INTO done VALUES (?, ?, ?)", (key, what, at.timestamp()))

    def __contains__(self, key: str) -> bool:
        return self._db.execute("SELECT 1 FROM done WHERE key = ?", (key,)).fetchone() is not None

    def count(self, start: datetime, end: datetime) -> dict[str, int]:
        """Return how often each kind of work was done, from ``start`` to ``end``, exclusive."""
        rows = self._db.execute(
            "SELECT what, count(*) FROM done WHERE at >= ? AND at < ? GROUP BY what",
            (start.timestamp(), end.timestamp()),
        )
        return dict(rows.fetchall())

    def close(self) -> None:
        self._db.close()
