"""Commands that only read or change messages make no store: a mistyped path is an error and leaves nothing behind."""

from __future__ import annotations

import sqlite3

from contextlib import closing

import pytest


COMMANDS = [
    ("list",),
    ("list", "--json"),
    ("show", "a"),
    ("stats",),
    ("ping",),
    ("check",),
    ("remove", "a"),
    ("redrive", "a"),
    ("reschedule", "a", "1h"),
    ("emit-now", "a"),
    ("release", "a"),
    ("pause", "a"),
    ("resume", "a"),
    ("pause", "--kind", "mail"),
    ("resume", "--kind", "mail"),
    ("redrive", "--all"),
    ("adopt",),
    ("listen", "--once"),
]
each_command = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


@each_command
def test_a_file_that_is_not_there_is_refused_in_one_line_and_not_made(invoke, tmp_path, command):
    result = invoke(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: There is no file '{tmp_path}/test.db', and none is made here (create=False). Check whether the path is right. "
        f"'pitstop store' makes a new file, and so does pitstop.init() without create=False.\n"
    )
    assert list(tmp_path.iterdir()) == []


@each_command
def test_a_database_without_messages_of_pitstops_is_left_alone(invoke, tmp_path, command):
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    before = path.read_bytes()
    result = invoke(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"'{path}' does not have Pitstop's tables" in result.stderr
    assert path.read_bytes() == before


def test_store_makes_it(invoke, tmp_path):
    assert invoke("store", '{"id": "a"}').exit_code == 0
    assert '"a"' in invoke("list", "--json").stdout
    assert [each.name for each in tmp_path.iterdir()] == ["test.db"]


def test_a_consumer_may_be_started_before_the_first_message_is_stored(spawn, tmp_path, invoke):
    process = spawn("listen")
    while not (tmp_path / "test.db").exists():
        assert process.poll() is None
    invoke("store", '{"id": "a"}')
    assert '"id":"a"' in process.stdout.readline()


@pytest.mark.parametrize("command", [("list",), ("stats",), ("ping",)], ids=" ".join)
def test_a_store_that_is_always_there_is_none_of_this(invoke, command):
    assert invoke("--url", "memory://", *command).exit_code == 0
