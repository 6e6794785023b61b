"""The conformance suite on the PostgreSQL backend, with a real server."""

from __future__ import annotations

import psycopg
import pytest

from conformance.mutants.hooks import OnPostgres, new_database
from pitstop.testing import BackendConformance
from pitstop_conformance._records import put_due
from servers import postgres


pytestmark = [
    pytest.mark.usefixtures("fewer_sequences"),
    pytest.mark.skipif(not postgres.available(), reason="no PostgreSQL: set PITSTOP_TEST_POSTGRES_URI, or install it"),
]


@pytest.fixture(scope="module")
def database():
    with new_database() as uri:
        yield uri


class TestPostgres(OnPostgres, BackendConformance):
    def test_the_server_refuses_a_kind_that_is_no_text(self, backend):
        """So there is no ``damage_kind``, and its tests show nothing here."""
        put_due(backend, "a")

        for value in ("NULL", "convert_from('\\xff', 'UTF8')"):
            with pytest.raises((psycopg.errors.NotNullViolation, psycopg.errors.CharacterNotInRepertoire)):
                self.execute(f"UPDATE {self.table} SET kind = {value}")
