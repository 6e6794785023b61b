"""The tables, their creation, and how they are distinguished from tables of other programs."""

from __future__ import annotations

import sqlite3

from pitstop import ConfigError


__all__ = ["VERSION", "create", "needs_creation"]

#: The version of the tables that this code reads and writes.
VERSION = 1

# `seq` is the order in which ids came in. It is a column of its own because VACUUM renumbers a rowid without a name.
# Columns that decide about a message precede long ones, so that counting never reads on into a message's further pages.
_COLUMNS = (
    ("seq", "INTEGER PRIMARY KEY"),
    ("due", "INTEGER"),
    ("token", "TEXT"),
    ("id", "TEXT NOT NULL UNIQUE"),
    ("revision", "TEXT NOT NULL"),
    ("scheduled_for", "INTEGER NOT NULL"),
    ("attempts", "INTEGER NOT NULL"),
    ("first_leased", "INTEGER"),
    ("series", "TEXT"),
    ("last_error", "TEXT"),
    ("msg", "TEXT NOT NULL"),
)
_CREATE = (
    "CREATE TABLE IF NOT EXISTS pitstop_meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT",
    f"CREATE TABLE IF NOT EXISTS pitstop_messages ({', '.join(' '.join(column) for column in _COLUMNS)}) STRICT",
    "CREATE INDEX IF NOT EXISTS pitstop_messages_due ON pitstop_messages (due)",
)
_KINDS = {"pitstop_meta": "table", "pitstop_messages": "table", "pitstop_messages_due": "index"}


def needs_creation(connection: sqlite3.Connection, path: str) -> bool:
    """Whether a table or index of Pitstop's is missing. The function only reads.

    :raises ConfigError: if a table or index of that name is not Pitstop's, or is newer than this code.
    """
    found = _texts(
        connection,
        "SELECT lower(name), type FROM sqlite_schema WHERE lower(name) IN (?, ?, ?)",
        *_KINDS,
    )
    for name, kind in found:
        if _KINDS[name] != kind:
            raise _foreign(path, name, f"it is a {kind}")
    there = {name for name, _ in found}
    if "pitstop_messages" in there:
        _check_columns(connection, path, "pitstop_messages", [name for name, _ in _COLUMNS])
        if "pitstop_meta" not in there:
            raise _foreign(path, "pitstop_messages", "there is no table pitstop_meta beside it")
    if "pitstop_meta" in there:
        _check_columns(connection, path, "pitstop_meta", ["key", "value"])
        _check_version(connection, path)
    return there != _KINDS.keys()


def create(connection: sqlite3.Connection) -> None:
    """Create the missing tables and the index, inside a transaction of the caller's."""
    for statement in _CREATE:
        connection.execute(statement)
    connection.execute("INSERT OR IGNORE INTO pitstop_meta (key, value) VALUES ('schema_version', ?)", (str(VERSION),))


def _check_columns(connection: sqlite3.Connection, path: str, table: str, wanted: list[str]) -> None:
    found = {name for (name,) in _texts(connection, "SELECT name FROM pragma_table_info(?)", table)}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise _foreign(path, table, f"it has no column {', '.join(missing)}")


def _check_version(connection: sqlite3.Connection, path: str) -> None:
    rows = _texts(connection, "SELECT value FROM pitstop_meta WHERE key = 'schema_version'")
    version = rows[0][0] if rows else None
    if version == str(VERSION):
        return
    if version is not None and version.isdecimal() and int(version) > VERSION:
        raise ConfigError(
            f"{path!r} holds Pitstop's tables in version {version}; this pitstop-sqlite knows version {VERSION}. "
            f"Upgrade pitstop-sqlite, or give another path."
        )
    raise _foreign(path, "pitstop_meta", f"its schema_version is {version!r:.40}")


def _foreign(path: str, table: str, why: str) -> ConfigError:
    return ConfigError(
        f"{path!r} has a {table} that is not Pitstop's: {why}. Rename that table or index, or give the path of another file."
    )


def _texts(connection: sqlite3.Connection, statement: str, *values: str) -> list[tuple[str, ...]]:
    rows = connection.execute(statement, values).fetchall()
    return [tuple(value.decode("utf-8", "backslashreplace") for value in row) for row in rows]
