"""The tables, their creation, and how they are distinguished from tables of other programs."""

from __future__ import annotations

import sqlite3

from enum import Enum, auto

from pitstop import ConfigError


__all__ = ["VERSION", "Missing", "create", "missing"]

#: The version of the tables that this code reads and writes. It grows when older code could not use the newer tables. A new
#: column with a default does not make it grow: older code leaves the column out, and reads and writes the others.
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
    ("unsettled", "INTEGER NOT NULL DEFAULT 0"),
    ("ahead", "INTEGER NOT NULL DEFAULT 0"),
    ("excused", "INTEGER NOT NULL DEFAULT 0"),
    ("kind", "TEXT NOT NULL DEFAULT ''"),
    ("first_leased", "INTEGER"),
    ("series", "TEXT"),
    ("policy", "TEXT"),
    ("last_error", "TEXT"),
    ("msg", "TEXT NOT NULL"),
)
#: Columns that the first tables of version 1 did not have. :func:`create` adds them.
_ADDED = frozenset({"unsettled", "ahead", "excused", "kind", "policy"})
_CREATE = (
    "CREATE TABLE IF NOT EXISTS pitstop_meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT",
    f"CREATE TABLE IF NOT EXISTS pitstop_messages ({', '.join(' '.join(column) for column in _COLUMNS)}) STRICT",
    "CREATE INDEX IF NOT EXISTS pitstop_messages_due ON pitstop_messages (due)",
)
_NAMES = [name for name, _ in _COLUMNS]
_KINDS = {"pitstop_meta": "table", "pitstop_messages": "table", "pitstop_messages_due": "index"}
#: Made by the first claim of some kinds.
_MADE_LATER = {"pitstop_messages_kind_due": "index"}


class Missing(Enum):
    """The parts of Pitstop's tables that a file does not have."""

    NOTHING = auto()
    #: Columns that were added after the file was made.
    COLUMNS = auto()
    TABLES = auto()


def missing(connection: sqlite3.Connection, path: str) -> Missing:
    """Return what :func:`create` has to make. The function only reads.

    :raises ConfigError: if a table or index of that name is not Pitstop's, or is newer than this code.
    """
    wanted = _KINDS | _MADE_LATER
    found = _texts(
        connection,
        "SELECT lower(name), type, tbl_name FROM sqlite_schema WHERE lower(name) IN (?, ?, ?, ?)",
        *wanted,
    )
    for name, kind, table in found:
        if wanted[name] != kind:
            raise _foreign(path, name, f"it is a {kind}")
        if kind == "index" and table.lower() != "pitstop_messages":
            raise _foreign(path, name, f"it is an index of the table {table}")
    there = {name for name, *_ in found} - _MADE_LATER.keys()
    if "pitstop_messages" in there:
        _check_columns(connection, path, "pitstop_messages", [name for name in _NAMES if name not in _ADDED])
        if "pitstop_meta" not in there:
            raise _foreign(path, "pitstop_messages", "there is no table pitstop_meta beside it")
    if "pitstop_meta" in there:
        _check_columns(connection, path, "pitstop_meta", ["key", "value"])
        _check_version(connection, path)
    if there != _KINDS.keys():
        return Missing.TABLES
    return Missing.COLUMNS if _missing_columns(connection, "pitstop_messages", _NAMES) else Missing.NOTHING


def create(connection: sqlite3.Connection) -> None:
    """Create the missing tables, columns and index, inside a transaction of the caller's."""
    for statement in _CREATE:
        connection.execute(statement)
    absent = _missing_columns(connection, "pitstop_messages", _NAMES)
    for name, kind in _COLUMNS:
        if name in absent:
            connection.execute(f"ALTER TABLE pitstop_messages ADD COLUMN {name} {kind}")
    connection.execute("INSERT OR IGNORE INTO pitstop_meta (key, value) VALUES ('schema_version', ?)", (str(VERSION),))


def _check_columns(connection: sqlite3.Connection, path: str, table: str, wanted: list[str]) -> None:
    absent = _missing_columns(connection, table, wanted)
    if absent:
        raise _foreign(path, table, f"it has no column {', '.join(absent)}")


def _missing_columns(connection: sqlite3.Connection, table: str, wanted: list[str]) -> list[str]:
    found = {name for (name,) in _texts(connection, "SELECT name FROM pragma_table_info(?)", table)}
    return [name for name in wanted if name not in found]


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
