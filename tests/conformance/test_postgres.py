"""The conformance suite on the PostgreSQL backend, with a real server."""

from __future__ import annotations

import uuid

from contextlib import contextmanager

import psycopg
import pytest

from psycopg.conninfo import make_conninfo

from pitstop.testing import BackendConformance
from pitstop_postgres import PostgresBackend
from servers import postgres


pytestmark = [
    pytest.mark.usefixtures("fewer_sequences"),
    pytest.mark.skipif(not postgres.available(), reason="no PostgreSQL: set PITSTOP_TEST_POSTGRES_URI, or install it"),
]


@pytest.fixture(scope="module")
def database():
    """A database for all tests here, dropped at the end. Its collation is not C, so that a wrong order shows."""
    name = f"pitstop_test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.uri(), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'"
        )
        yield make_conninfo(postgres.uri(), dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class TestPostgres(BackendConformance):
    @pytest.fixture
    def make_backend(self, database):
        self.uri = database
        self.table = f"m_{uuid.uuid4().hex}"
        yield lambda **options: PostgresBackend.from_options({"uri": database, "table": self.table, **options})
        self.execute(f"DROP TABLE IF EXISTS {self.table}, {self.table}_meta")

    @contextmanager
    def transaction(self, backend):
        with psycopg.connect(self.uri, autocommit=True) as connection, connection.transaction():
            yield connection

    def damage(self, backend, id):
        assert self.execute(f"UPDATE {self.table} SET msg = left(msg, -1) WHERE id = %s", id) == 1

    def execute(self, statement, *values):
        with psycopg.connect(self.uri, autocommit=True) as connection:
            return connection.execute(statement, values).rowcount
