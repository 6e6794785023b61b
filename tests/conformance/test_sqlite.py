"""The conformance suite on the SQLite backend."""

from __future__ import annotations

import sqlite3

from contextlib import closing, contextmanager

import pytest

from pitstop.testing import BackendConformance
from pitstop_sqlite import SqliteBackend


class TestSqlite(BackendConformance):
    has_server = False

    @pytest.fixture
    def make_backend(self, tmp_path):
        self.path = tmp_path / "pitstop.db"
        # SQLite gives its lock to one of the waiting writers by chance. On a busy machine, one of four steady writers may
        # wait longer than the 5 seconds of its default.
        where = {"path": str(self.path), "busy_timeout": "1m"}
        return lambda **options: SqliteBackend.from_options({**where, **options})

    @contextmanager
    def transaction(self, backend):
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            # To close a connection rolls back.
            connection.execute("COMMIT")

    def traces(self, backend):
        with closing(sqlite3.connect(self.path, timeout=0)) as connection:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return [each.name for each in self.path.parent.iterdir()] + ["an open transaction"] * busy

    def damage(self, backend, id):
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE pitstop_messages SET msg = substr(msg, 1, length(msg) - 1) WHERE id = ?", (id,))
            assert connection.execute("SELECT changes()").fetchone() == (1,)

    def damage_kind(self, backend, id):
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE pitstop_messages SET kind = CAST(kind || x'ff' AS TEXT) WHERE id = ?", (id,))
            assert connection.execute("SELECT changes()").fetchone() == (1,)
