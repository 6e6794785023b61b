"""Fixtures of the tests of the PostgreSQL backend: a database whose collation is not C, and handles on a table of its own."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from psycopg.conninfo import make_conninfo

from pitstop_postgres import PostgresBackend
from servers import postgres


@pytest.fixture(scope="session")
def uri():
    """The address of a database for these tests, dropped at the end."""
    if not postgres.available():
        pytest.skip("no PostgreSQL: set PITSTOP_TEST_POSTGRES_URI, or install it")
    name = f"pitstop_test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.uri(), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'"
        )
    yield make_conninfo(postgres.uri(), dbname=name)
    with psycopg.connect(postgres.uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def table():
    return f"m_{uuid.uuid4().hex}"


@pytest.fixture
def sql(uri):
    """A connection of the test's own, which commits each statement."""
    with psycopg.connect(uri, autocommit=True) as connection:
        yield connection


@pytest.fixture
def make(uri, table):
    """A function that opens a handle on the table. All handles are closed at the end."""
    made = []

    def make(**options):
        made.append(PostgresBackend.from_options({"uri": uri, "table": table, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def backend(make):
    return make()
