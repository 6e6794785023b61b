"""The suite on each mutant, and on the backends that they were made of: a class of tests for each, by its name.

Collected when the file is named, with those that are asked for, as :mod:`conformance.mutants.run` does.
"""

from __future__ import annotations

import os
import sqlite3
import uuid

from contextlib import closing, contextmanager

import pytest

from conformance.mutants.catalogue import MUTANTS, RIGHT
from conformance.mutants.hooks import OnPostgres
from conformance.mutants.on_postgres import ON_POSTGRES
from conformance.mutants.run import DATABASE, TIME_LIMIT
from conformance.mutants.served import ServedBackend, address
from pitstop.abc import Backend
from pitstop.testing import BackendConformance
from pitstop_conformance._shifting import real_time_us
from pitstop_memory import MemoryBackend
from pitstop_postgres import PostgresBackend
from pitstop_sqlite import SqliteBackend


class _Memory:
    has_server = False
    backend_class: type[Backend] = MemoryBackend

    @pytest.fixture
    def make_backend(self):
        name = uuid.uuid4().hex
        return lambda **options: self.backend_class.from_options({"name": name, **options})


class _Sqlite:
    has_server = False
    backend_class: type[Backend] = SqliteBackend

    @pytest.fixture
    def make_backend(self, tmp_path):
        self.path = tmp_path / "pitstop.db"
        return lambda **options: self.backend_class.from_options({"path": str(self.path), **options})

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


class _Served:
    backend_class: type[Backend] = ServedBackend

    @pytest.fixture
    def make_backend(self):
        self.store = uuid.uuid4().hex
        return lambda **options: self.backend_class.from_options({"store": self.store, **options})

    def through(self, wire, **options):
        host, port = wire.to(*address())
        return self.backend_class.from_options({"store": self.store, "host": host, "port": port, **options})

    def server_time(self, backend):
        return real_time_us()

    def protected(self, password, **options):
        return self.backend_class.from_options({"store": self.store, "password": password, **options})


class _Postgres(OnPostgres):
    """With the hooks of the tests of the backend itself. Its database is given by the run."""

    backend_class: type[Backend] = PostgresBackend

    @pytest.fixture(scope="module")
    def database(self):
        return os.environ[DATABASE]


_BASES = ((SqliteBackend, _Sqlite), (ServedBackend, _Served), (PostgresBackend, _Postgres), (MemoryBackend, _Memory))


def _class(backend: type[Backend]) -> type:
    base = next(base for origin, base in _BASES if issubclass(backend, origin))
    return type(
        f"Test{backend.__name__}",
        (base, BackendConformance),
        {
            "backend_class": backend,
            "time_limit": float(os.environ.get(TIME_LIMIT, "120")),
            "__module__": __name__,
        },
    )


_BACKENDS = [*RIGHT.values(), *(each.backend for each in MUTANTS.values())]
if DATABASE in os.environ:
    _BACKENDS += [PostgresBackend, *(each.backend for each in ON_POSTGRES.values())]

globals().update({f"Test{each.__name__}": _class(each) for each in _BACKENDS})
