"""Opening: a file that is made, shared with other tables, or refused with a reason."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

from contextlib import closing
from datetime import timedelta

import attrs
import pytest

import pitstop

from pitstop import BackendUnavailable, ConfigError
from pitstop.abc import Progress
from pitstop_sqlite import _database


def run(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        return [connection.execute(statement).fetchall() for statement in statements]


def test_makes_the_file_and_the_tables(path, backend):
    ((names,), (strict,)) = run(
        path,
        "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name)",
        "SELECT count(*) FROM pragma_table_list WHERE name LIKE 'pitstop%' AND strict",
    )
    assert names == ("pitstop_messages pitstop_messages_due pitstop_meta",)
    assert strict == (2,)


def test_an_empty_file_is_a_new_one(path, open_backend, record):
    path.touch()
    backend = open_backend()
    backend.put([record()])
    assert backend.get("a") is not None


def test_shares_a_file_with_the_tables_of_the_application(path, open_backend, record):
    run(path, "CREATE TABLE orders (id INTEGER)", "INSERT INTO orders VALUES (1)")
    open_backend().put([record()])
    assert run(path, "SELECT * FROM orders") == [[(1,)]]


def test_an_index_that_was_dropped_is_made_again(path, open_backend):
    open_backend().close()
    run(path, "DROP INDEX pitstop_messages_due")
    open_backend()
    assert run(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'pitstop_messages_due'") == [[(1,)]]


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            ["CREATE TABLE pitstop_messages (id TEXT, body TEXT)"],
            "pitstop_messages that is not Pitstop's: it has no column",
        ),
        (
            ["CREATE TABLE Pitstop_Messages (id TEXT, body TEXT)"],
            "pitstop_messages that is not Pitstop's: it has no column",
        ),
        (
            ["CREATE VIEW pitstop_messages AS SELECT 1 AS id"],
            "it is a view. Rename that table or index, or give the path of another",
        ),
        (["CREATE TABLE pitstop_meta (name TEXT)"], "pitstop_meta that is not Pitstop's: it has no column key, value"),
        (
            [
                "CREATE TABLE pitstop_meta (key TEXT, value TEXT)",
                "INSERT INTO pitstop_meta VALUES ('schema_version', 'x')",
            ],
            "its schema_version is 'x'",
        ),
        (["CREATE TABLE pitstop_meta (key TEXT, value TEXT)"], "its schema_version is None"),
        (["CREATE TABLE pitstop_messages_due (x TEXT)"], "pitstop_messages_due that is not Pitstop's: it is a table"),
        (
            ["CREATE TABLE mine (x TEXT)", "CREATE INDEX Pitstop_messages_kind_due ON mine (x)"],
            "pitstop_messages_kind_due that is not Pitstop's: it is an index of the table mine",
        ),
    ],
)
def test_foreign_tables_are_refused_and_left_alone(path, open_backend, statements, said):
    run(path, *statements)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=said) as caught:
        open_backend()
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before, "the file was changed, perhaps its journal mode"


def test_tables_without_their_version_are_refused(path, open_backend):
    open_backend().close()
    run(path, "DROP TABLE pitstop_meta")
    with pytest.raises(ConfigError, match="there is no table pitstop_meta beside it"):
        open_backend()


def test_a_newer_version_is_refused(path, open_backend):
    open_backend().close()
    run(path, "UPDATE pitstop_meta SET value = '2' WHERE key = 'schema_version'")
    with pytest.raises(
        ConfigError, match=r"in version 2; this pitstop-sqlite knows version 1\. Upgrade pitstop-sqlite"
    ):
        open_backend()


ADDED = ("unsettled", "ahead", "excused", "kind", "policy")


def make_older(path):
    """Take away the columns that the first releases did not make."""
    run(path, *(f"ALTER TABLE pitstop_messages DROP COLUMN {name}" for name in ADDED))


@pytest.mark.parametrize("create", [True, False])
def test_a_file_of_an_older_release_gets_the_new_columns_and_keeps_its_messages(path, open_backend, record, create):
    old = open_backend()
    stored = [record("a"), record("b", attempts=3, token="old", first_leased=5)]
    old.put(stored)
    old.close()
    make_older(path)

    backend = open_backend(create=create)

    assert [backend.get(each.id) for each in stored] == stored
    counts = [(each.progress.attempts, each.progress.unsettled, each.progress.ahead) for each in backend.lease(9, 1000)]
    assert counts == [(1, 1, 1), (4, 1, 1)]
    assert run(path, "SELECT value FROM pitstop_meta WHERE key = 'schema_version'") == [[("1",)]]


def test_a_file_that_a_process_of_an_older_release_has_open_gets_the_new_columns(path, open_backend, record):
    """It goes on with its own statements, which name no column that it does not know."""
    open_backend().close()
    make_older(path)
    columns = "id, due, scheduled_for, attempts, first_leased, last_error, token, revision, series, msg"
    row = "'a', 0, 0, 0, NULL, NULL, NULL, 'r', NULL, '{}'"
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute(f"INSERT INTO pitstop_messages ({columns}) VALUES ({row})")
        backend = open_backend()
        older.execute(f"INSERT INTO pitstop_messages ({columns}) VALUES ({row.replace('a', 'b')})")
        older.execute("UPDATE pitstop_messages SET due = 5, attempts = attempts + 1, token = 't' WHERE id = 'b'")
        assert [backend.get(id).progress for id in "ab"] == [Progress(0, 0), Progress(5, 0, 1, None, None, "t")]
        assert [(backend.get(id).kind, backend.get(id).policy) for id in "ab"] == [("", None)] * 2


def test_a_process_of_an_older_release_stores_beside_the_index_of_the_kinds(path, open_backend, record):
    backend = open_backend()
    backend.put([attrs.evolve(record("a"), kind="mail")])
    assert [each.id for each in backend.lease(5, 1000, ["mail"])] == ["a"]
    columns = "id, due, scheduled_for, attempts, first_leased, last_error, token, revision, series, msg"
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute(
            f"INSERT INTO pitstop_messages ({columns}) VALUES ('b', 0, 0, 0, NULL, NULL, NULL, 'r', NULL, '{{}}')"
        )
    assert [each.id for each in backend.lease(5, 1000, [""])] == ["b"]


def test_the_index_of_the_kinds_is_made_by_the_first_claim_that_needs_it_and_again_if_it_is_dropped(
    path, open_backend, record
):
    def indexes():
        (rows,) = run(
            path, "SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE 'pitstop%' ORDER BY name"
        )
        return [name for (name,) in rows]

    backend = open_backend()
    backend.put([attrs.evolve(record("a"), kind="mail")])
    backend.next_due()
    assert len(backend.lease(5, 1)) == 1
    assert indexes() == ["pitstop_messages_due"]
    for _ in range(2):
        backend.put([attrs.evolve(record("a"), kind="mail")])
        assert [each.id for each in backend.lease(5, 1000, ["mail"])] == ["a"]
        assert indexes() == ["pitstop_messages_due", "pitstop_messages_kind_due"]
        run(path, "DROP INDEX pitstop_messages_kind_due")


def test_several_handles_that_open_an_older_file_add_the_columns_once(path, open_backend):
    open_backend().close()
    make_older(path)
    backends = [open_backend() for _ in range(3)]
    names = run(path, "SELECT name FROM pragma_table_info('pitstop_messages')")[0]
    assert len(set(names)) == len(names) == 16
    assert [each.tally().due for each in backends] == [0, 0, 0]


@pytest.mark.parametrize("content", [b"hello", b"This is a text about pit stops.\n" * 200, b"\0" * 5000])
def test_no_database_is_refused_and_left_alone(path, open_backend, content):
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no SQLite database"):
        open_backend()
    assert path.read_bytes() == content


def test_a_missing_folder_is_named(tmp_path, open_backend):
    with pytest.raises(ConfigError, match=f"there is no folder '{tmp_path}/nowhere'. Make the folder first"):
        open_backend(path=tmp_path / "nowhere" / "x.db")


def test_home_is_not_expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'~' is not expanded"):
        pitstop.init("sqlite:///~/x.db")


def test_a_folder_is_no_file(tmp_path, open_backend):
    with pytest.raises(
        ConfigError, match=f"is a folder. Give the path of a file in it, such as '{tmp_path}/pitstop.db'"
    ):
        open_backend(path=tmp_path)


def test_a_file_is_no_folder(path, open_backend):
    path.touch()
    with pytest.raises(ConfigError, match=f"'{path}' is no folder"):
        open_backend(path=path / "x.db")


def test_no_permission(shared_folder, open_backend, as_nobody):
    file = shared_folder / "x.db"
    open_backend(path=file).close()
    file.chmod(0o000)
    with as_nobody(), pytest.raises(ConfigError, match=r"cannot be opened\. Let this user read and write"):
        open_backend(path=file)


@pytest.mark.parametrize("name", ["x.db", "in/x.db"])
def test_a_folder_that_this_user_may_not_enter(shared_folder, open_backend, as_nobody, name):
    (shared_folder / "closed" / "in").mkdir(parents=True)
    (shared_folder / "closed").chmod(0o700)
    path = shared_folder / "closed" / name
    with (
        as_nobody(),
        pytest.raises(ConfigError, match=r"^path='.*/x\.db' cannot be used: this user may not enter '.*closed"),
    ):
        open_backend(path=path)


@pytest.mark.parametrize("name", ["n" * 248, "n" * 300, "f/" * 200 + "f" * 200, "p" * 5000])
def test_a_path_that_is_too_long(tmp_path, open_backend, name):
    with pytest.raises(
        ConfigError, match=r"^path='.*'…? is too long\. .* at most 504 bytes, with a name of at most 247\.$"
    ) as caught:
        open_backend(path=tmp_path / name)
    assert len(str(caught.value)) < 500


def test_a_name_as_long_as_it_may_be(tmp_path, open_backend, record):
    open_backend(path=tmp_path / ("n" * 247)).put([record()])


def test_a_link_that_leads_to_itself(tmp_path, open_backend):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=r"^path='.*/loop/x\.db' cannot be used: Too many levels of symbolic links"):
        open_backend(path=tmp_path / "loop" / "x.db")


def test_a_read_only_file(shared_folder, open_backend, as_nobody):
    file = shared_folder / "x.db"
    open_backend(path=file).close()
    file.chmod(0o444)
    shared_folder.chmod(0o777)
    with as_nobody(), pytest.raises(BackendUnavailable, match=r"cannot be written to .* Let this user write"):
        open_backend(path=file)


def test_a_read_only_folder(shared_folder, open_backend, as_nobody):
    shared_folder.chmod(0o555)
    with as_nobody(), pytest.raises(ConfigError, match=r"cannot be opened\. Let this user read and write"):
        open_backend(path=shared_folder / "x.db")
    assert not list(shared_folder.iterdir())


def test_a_read_only_folder_with_a_file_that_is_not(shared_folder, open_backend, as_nobody):
    file = shared_folder / "x.db"
    open_backend(path=file).close()
    file.chmod(0o666)
    shared_folder.chmod(0o555)
    with as_nobody(), pytest.raises((BackendUnavailable, ConfigError), match=r"Let this user (read and )?write"):
        open_backend(path=file)


def test_locked_for_longer_than_the_busy_timeout(path, open_backend, start_child):
    open_backend().close()
    child = start_child("lock", path)
    assert child.read() == "locked"
    with pytest.raises(BackendUnavailable, match=r"is locked: .* for 0.05 s \(busy_timeout\)"):
        open_backend(busy_timeout="50ms")
    child.write("go on")
    child.finish()
    open_backend()


def test_locked_before_it_was_ever_ours(path, open_backend):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE orders (id INTEGER)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BackendUnavailable, match="is locked"):
            open_backend(busy_timeout="50ms")
        other.execute("COMMIT")
        other.execute("BEGIN")
        other.execute("SELECT * FROM orders").fetchall()
        with pytest.raises(BackendUnavailable, match="is locked"):
            open_backend(busy_timeout="50ms")
    open_backend()


def test_a_file_that_is_cut_off(path, open_backend, record):
    backend = open_backend()
    backend.put([record(f"{number}") for number in range(500)])
    backend.close()
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(BackendUnavailable, match=r"is damaged .*restore a backup"):
        open_backend()


def test_needs_a_recent_sqlite(path, open_backend, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    with pytest.raises(ConfigError, match=r"linked with SQLite 3\.36\.0; Pitstop needs 3\.37\.0 or later"):
        open_backend()
    assert not path.exists()


def test_needs_a_filesystem_with_shared_memory(path, open_backend, monkeypatch):
    """SQLite's own VFS for filesystems without locks has no shared memory either."""
    connect = sqlite3.connect

    def connect_without_shared_memory(file, **options):
        return connect(f"file:{file}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(_database.sqlite3, "connect", connect_without_shared_memory)
    with pytest.raises(
        ConfigError, match=r"cannot be used with a write-ahead log .* Give the path of a file on a local"
    ):
        open_backend()


def test_many_processes_make_one_file(path, start_child):
    children = [start_child("open_and_store", path, number) for number in range(6)]
    for child in children:
        assert child.read() == "ready"
    for child in children:
        child.write("go")
    for child in children:
        child.finish()
    with pitstop.init({"type": "sqlite", "path": path}) as pit:
        assert sorted(entry.id for entry in pit.entries()) == ["0", "1", "2", "3", "4", "5"]
        assert pit.stats().scheduled == 6
        assert pit.now() < pit.entries()[0].due <= pit.now() + timedelta(hours=1)


def test_the_end_of_a_program_that_closes_nothing_leaves_one_file_also_beside_an_older_store(path):
    """The listener of the older store is notified of that end last. The acks of the younger store are written before it is closed."""
    program = f"""
import datetime, pitstop
memory = pitstop.init("memory://")
other = memory.listen()
pit = pitstop.init({{"type": "sqlite", "path": {str(path)!r}}})
pit.store_many([({{"id": f"{{number}}"}}, datetime.timedelta(0)) for number in range(3)])
listener = pit.listen()
for delivery in listener:
    delivery.ack()
    if delivery.id == "1":
        break
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)
    assert [each.name for each in path.parent.iterdir()] == ["pitstop.db"]
    with pitstop.init({"type": "sqlite", "path": path}) as pit:
        assert [each.id for each in pit.entries()] == ["2"]
