"""``pitstop migrate`` on PostgreSQL: the printed statements are those that an administrator executes."""

from __future__ import annotations

import psycopg
import pytest

from click.testing import CliRunner

import pitstop

from pitstop import BackendUnavailable
from pitstop.cli._app import app


def test_the_printed_statements_make_the_tables_as_they_stand(uri, table, sql):
    url = psycopg.conninfo.conninfo_to_dict(uri)
    named = f"postgresql://{url['user']}@{url['host']}:{url['port']}/{url['dbname']}?table={table}&create=false"
    with pitstop.init(named) as pit, pytest.raises(BackendUnavailable, match="create is false"):
        pit.stats()
    result = CliRunner().invoke(app, ["migrate", "--print"], env={"PITSTOP_URL": named}, prog_name="pitstop")
    assert result.exit_code == 0
    assert "\\n" not in result.stdout
    assert result.stdout.endswith(";\n")
    # As psql does, which sends what stands in the file.
    sql.execute(result.stdout)
    with pitstop.init(named) as pit:
        assert pit.get(pit.store({"text": "it works"})).message["text"] == "it works"
