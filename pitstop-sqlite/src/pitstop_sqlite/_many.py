"""Removals and reads of many messages by their ids."""

from __future__ import annotations

import sqlite3

from collections.abc import Iterator, Sequence

from pitstop.abc import PORTION, Damaged, Query, Record
from pitstop_sqlite import _statements
from pitstop_sqlite._rows import COLUMNS, Row, bindable, read_row


__all__ = ["delete", "read", "read_portion"]

#: The place of the message in a row.
_MSG = COLUMNS.split(", ").index("msg")


def delete(connection: sqlite3.Connection, ids: Sequence[str], query: Query | None, now: int) -> list[bool]:
    """Delete messages, those that match. The caller has begun a transaction that writes, so that none changes meanwhile."""
    chosen = None if query is None else {each.id for each in _each(connection, ids) if query.matches(each, now)}
    return [(chosen is None or id in chosen) and _delete(connection, id) for id in ids]


def read(connection: sqlite3.Connection, ids: Sequence[str]) -> list[Record | Damaged]:
    """Return the messages that are there."""
    return list(_each(connection, ids))


def read_portion(connection: sqlite3.Connection, ids: Sequence[str]) -> tuple[list[Record | Damaged], Sequence[str]]:
    """Return the messages that are there, up to a number of bytes, and the ids that are left."""
    found: list[Record | Damaged] = []
    size = 0
    for number, row in enumerate(_rows(connection, ids), start=1):
        if row is not None:
            message = row[_MSG]
            # A table that is not STRICT may hold another value.
            size += len(message) if type(message) is bytes else 0
            found.append(read_row(row))
        if size >= PORTION:
            return found, ids[number:]
    return found, ()


def _each(connection: sqlite3.Connection, ids: Sequence[str]) -> Iterator[Record | Damaged]:
    """Yield the messages that are there. The caller keeps no more of them than it needs."""
    return (read_row(row) for row in _rows(connection, ids) if row is not None)


def _rows(connection: sqlite3.Connection, ids: Sequence[str]) -> Iterator[Row | None]:
    # One statement for each: a call within the process costs less than a longer statement, which would be prepared anew.
    return (connection.execute(_statements.GET, (bindable(id),)).fetchone() for id in ids)


def _delete(connection: sqlite3.Connection, id: str) -> bool:
    return connection.execute(_statements.DELETE, (bindable(id),)).rowcount == 1
