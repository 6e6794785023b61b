"""The blocks of the documentation about PostgreSQL that other tests do not run: statements, parts of the examples, a migration."""

from __future__ import annotations

import re
import types

from pathlib import Path

import psycopg
import pytest

from click.testing import CliRunner

import pitstop

from pitstop.cli._app import app
from servers import postgres


ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "in-your-transaction.md"
PAGE = ROOT / "docs" / "backends" / "postgresql.md"
#: Blocks that name a file: a part of an example, or of a project with Alembic.
_LABELLED = re.compile(r"^```python (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SQL = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLES = [ROOT / "examples" / name for name in ("django-orders", "sqlalchemy-orders")]
BLOCKS = _LABELLED.findall(HOW_TO.read_text())


@pytest.fixture
def database(postgres_uri):
    with postgres.database(postgres_uri) as uri:
        yield uri


@pytest.mark.parametrize(("name", "block"), [each for each in BLOCKS if not each[0].startswith("versions/")])
def test_a_part_of_an_example_stands_in_it(name, block):
    (path,) = [folder / name for folder in _EXAMPLES if (folder / name).exists()]

    def words(text):
        # The layout of a page is another one.
        return re.sub(r",?\s*([)\]])", r"\1", " ".join(text.split())).replace("( ", "(")

    assert words(block) in words(path.read_text())


def test_the_migration_with_alembic_makes_the_tables(database, tmp_path):
    alembic = pytest.importorskip("alembic.operations")
    from alembic.runtime.migration import MigrationContext

    sqlalchemy = pytest.importorskip("sqlalchemy")
    (block,) = [text for name, text in BLOCKS if name == "versions/messages.py"]
    config = {"type": "postgres", "uri": database, "create": False}
    printed = CliRunner().invoke(app, ["migrate", "--print", "--url", database], prog_name="pitstop")
    (tmp_path / "messages.sql").write_text(printed.stdout)
    path = tmp_path / "messages.py"
    path.write_text(block)
    module = types.ModuleType("messages")
    module.__file__ = str(path)
    exec(compile(block, str(path), "exec"), module.__dict__)
    engine = sqlalchemy.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection, alembic.Operations.context(MigrationContext.configure(connection)):
        module.upgrade()
    with pitstop.init(config) as pit:
        assert pit.get(pit.store({"text": "it works"})) is not None
    with engine.begin() as connection, alembic.Operations.context(MigrationContext.configure(connection)):
        module.downgrade()
    with pitstop.init(config) as pit, pytest.raises(pitstop.BackendUnavailable, match="does not have the tables"):
        pit.stats()
    engine.dispose()


def test_the_statements_of_the_page_can_be_executed(database):
    """The rights of the page are enough for a worker, and its queries find what they are for."""
    with psycopg.connect(database, autocommit=True) as sql:
        role = f"worker_{sql.info.dbname[-12:]}"
        sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'; CREATE SCHEMA app")
        try:
            with pitstop.init({"type": "postgres", "uri": database, "schema": "app", "table": "messages"}) as pit:
                pit.stats()
            grants, holders, sizes = _SQL.findall(PAGE.read_text())
            sql.execute(grants.replace("worker", role))
            given = {"type": "postgres", "uri": database, "user": role, "password": "p", "create": False}
            with pitstop.init({**given, "schema": "app", "table": "messages"}) as pit:
                pit.store({"id": "a"})
                assert pit.consume(lambda _: None, until_idle=True).acked == 1
            with psycopg.connect(database) as other:
                other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                other.execute("SELECT 1 FROM app.messages")
                found = [row[0] for row in sql.execute(holders)]
                assert f"session {other.info.backend_pid}" in found
            assert [row[0] for row in sql.execute(sizes)] == ["messages"]
        finally:
            sql.execute(f"DROP SCHEMA app CASCADE; DROP OWNED BY {role}; DROP ROLE {role}")
