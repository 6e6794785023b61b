"""The methods that the suite wants of the author of the PostgreSQL backend: they open it, and look past it."""

from __future__ import annotations

import uuid

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pitstop_postgres import PostgresBackend
from servers import postgres


__all__ = ["OnPostgres", "new_database"]

#: The characters of the table's name that the name of a scratch begins with, at least.
_KEPT = 20


@contextmanager
def new_database() -> Iterator[str]:
    """Make a database, yield its address, and drop it. Its collation is not C, so that a wrong order shows."""
    name = f"pitstop_test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.uri(), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'"
        )
        yield make_conninfo(postgres.uri(), dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class OnPostgres:
    """Hooks for a class of tests. It needs a fixture ``database`` with the address.

    Without ``damage_kind``: the column is a text that is not NULL, and the server refuses texts with wrong bytes.
    """

    backend_class: type[PostgresBackend] = PostgresBackend

    @pytest.fixture
    def make_backend(self, database):
        self.uri = database
        self.table = f"m_{uuid.uuid4().hex}"
        yield lambda **options: self.backend_class.from_options({"uri": database, "table": self.table, **options})
        self.execute(f"DROP TABLE IF EXISTS {self.table}, {self.table}_meta")

    @contextmanager
    def transaction(self, backend):
        with psycopg.connect(self.uri, autocommit=True) as connection, connection.transaction():
            yield connection

    def damage(self, backend, id):
        assert self.execute(f"UPDATE {self.table} SET msg = left(msg, -1) WHERE id = %s", id) == 1

    def through(self, wire, **options):
        parameters = conninfo_to_dict(self.uri)
        host, port = wire.to(parameters["host"], int(parameters["port"]))
        uri = make_conninfo(self.uri, host=host, port=port)
        return self.backend_class.from_options({"uri": uri, "table": self.table, **options})

    def server_time(self, backend):
        ((now,),) = self.fetch("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        return now

    def protected(self, password, **options):
        parameters = conninfo_to_dict(self.uri)
        where = f"{parameters['host']}:{parameters['port']}/{parameters['dbname']}"
        uri = f"postgresql://ada:{password}@{where}"
        return self.backend_class.from_options({"uri": uri, "password": password, "table": self.table, **options})

    def traces(self, backend):
        tables = self.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND starts_with(relname, %s)", self.table[:_KEPT]
        )
        open_ = self.fetch(
            "SELECT 'a transaction of process ' || pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND state LIKE %s",
            "idle in transaction%",
        )
        return [name for (name,) in [*tables, *open_]]

    def fetch(self, statement, *values):
        with psycopg.connect(self.uri, autocommit=True) as connection:
            return connection.execute(statement, values).fetchall()

    def execute(self, statement, *values):
        with psycopg.connect(self.uri, autocommit=True) as connection:
            return connection.execute(statement, values).rowcount
