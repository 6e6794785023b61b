"""Removals and reads of many messages by their ids."""

from __future__ import annotations

import sqlite3

from collections.abc import Sequence

from pitstop.abc import Damaged, Query, Record
from pitstop_sqlite import _statements
from pitstop_sqlite._rows import bindable, read_row


__all__ = ["delete", "read"]


def delete(connection: sqlite3.Connection, ids: Sequence[str], query: Query | None, now: int) -> list[bool]:
    """Delete messages, those that match. The caller has begun a transaction that writes, so that none changes meanwhile."""
    chosen = None if query is None else {each.id for each in read(connection, ids) if query.matches(each, now)}
    return [(chosen is None or id in chosen) and _delete(connection, id) for id in ids]


def read(connection: sqlite3.Connection, ids: Sequence[str]) -> list[Record | Damaged]:
    """Return the messages that are there."""
    # One statement for each: a call within the process costs less than a longer statement, which would be prepared anew.
    rows = (connection.execute(_statements.GET, (bindable(id),)).fetchone() for id in ids)
    return [read_row(row) for row in rows if row is not None]


def _delete(connection: sqlite3.Connection, id: str) -> bool:
    return connection.execute(_statements.DELETE, (bindable(id),)).rowcount == 1
